"""Errors: whatever goes wrong, and wherever, is a problem (RFC 9457) that tells nothing, and a line in the log."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from edges import CANARY, DONE, FAILURES, Lines, check_problem, client_of, configured, logging_to, messages
from fastapi import APIRouter, Response
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel, field_validator
from pydantic_core import PydanticCustomError

from chassis import Input, Module, Problem, public
from chassis.testing import TestDatabase, started

pytestmark = pytest.mark.anyio

WAYS = ("/v1/fail/{}", "/v1/fail-by-fastapi/{}", "/v1/fail-in-dependency/{}", "/v1/fail-in-dependency-by-fastapi/{}")
ANSWERS = {
    "header of a response",
    "type of the answer",
    "part of the answer",
}  # no failure where a dependency returns it


@pytest.fixture
def log() -> Iterator[Lines]:
    """What is logged during the test."""
    lines = Lines()
    with logging_to(lines):
        yield lines


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_handler_does_wrong_is_a_500_that_says_nothing(way: str, log: Lines) -> None:
    async with client_of(configured()) as client:
        for how in FAILURES:
            if "dependency" in way and how in ANSWERS:
                continue
            log.written = b""
            problem = check_problem(await client.get(way.format(how)), 500)
            assert problem["code"] == "internal_error"
            assert "set-cookie" not in str(problem)
            (line,) = log.of("unhandled exception") + log.of("problem cannot be written")
            assert line["request_id"] == problem["request_id"]
            assert line["level"] == "error"
            assert line["exception"]
            (access,) = log.of("request")
            assert (access["status"], access["request_id"]) == (500, problem["request_id"])
            assert CANARY.encode() not in log.written, how
        assert (await client.get("/v1/hello")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/teapot", "/v1/teapot-by-fastapi"])
async def test_the_exceptions_of_fastapi_are_problems_too(path: str) -> None:
    async with client_of(configured()) as client:
        answer = await client.get(path)
    problem = check_problem(answer, 418)
    assert (problem["code"], problem["detail"]) == ("im_a_teapot", "short and stout")
    assert answer.headers["x-spout"] == "yes"


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/stream-by-fastapi"])
async def test_an_answer_that_breaks_off_is_logged_and_never_completed(path: str, log: Lines) -> None:
    service = configured()
    async with started(service):
        sent = await messages(service, "GET", f"{path}?until=failure")
        assert b"".join(message["body"] for message in sent[1:]) == b"0\n1\n2\n"
        assert all(message["more_body"] for message in sent[1:])  # how the connection ends is in test_protocol.py
        assert (await messages(service, "GET", path))[-1]["more_body"] is False
    assert len(log.of("unhandled exception")) == 1
    assert CANARY.encode() not in log.written


@pytest.mark.parametrize("path", ["/v1/background", "/v1/background-by-fastapi"])
@pytest.mark.parametrize("what", ["success", "failure"])
async def test_a_task_after_the_answer_runs_and_cannot_spoil_it(path: str, what: str, log: Lines) -> None:
    DONE.clear()
    async with client_of(configured()) as client:
        answer = await client.get(path, params={"what": what})
    assert (answer.status_code, answer.json()) == (200, "at once")
    assert [what] == DONE
    assert len(log.of("unhandled exception")) == (what == "failure")


@pytest.mark.parametrize("path", ["/v1/add", "/v1/add-by-fastapi"])
async def test_success_is_committed_and_everything_else_undone(
    table: TestDatabase, sql: Callable[..., Any], as_principal: Callable[..., dict[str, str]], path: str
) -> None:
    async with client_of(configured(DATABASE_URL=table.app), **as_principal()) as client:
        for then in ("answer-409", "problem", *FAILURES):
            answer = await client.post(path, params={"then": then}, json={"name": then})
            assert answer.status_code == (409 if then in ("answer-409", "problem") else 500), then
            assert sql("select name from things") == [], then
        for then in ("return", "answer-200", "stream"):
            answer = await client.post(path, params={"then": then}, json={"name": then})
            assert answer.status_code == 200
        assert sql("select name from things order by name") == [("answer-200",), ("return",), ("stream",)]


@pytest.mark.parametrize("path", ["/v1/add", "/v1/add-by-fastapi"])
async def test_the_answer_leaves_after_the_commit(
    table: TestDatabase, sql: Callable[..., Any], as_principal: Callable[..., dict[str, str]], path: str
) -> None:
    service = configured(DATABASE_URL=table.app)
    committed: list[Any] = []

    async def looking(scope: Any, receive: Any, send: Any) -> None:
        async def look(message: Any) -> None:
            if message["type"] == "http.response.start":
                committed.append(sql("select name from things"))
            await send(message)

        await service(scope, receive, look)

    async with started(service):
        client = AsyncClient(transport=ASGITransport(looking), base_url="http://localhost", headers=as_principal())
        async with client:
            assert (await client.post(path, params={"then": "return"}, json={"name": "a"})).status_code == 200
    assert committed == [[("a",)]]


async def test_a_mistake_in_sql_shows_neither_the_sql_nor_the_database(
    table: TestDatabase, as_principal: Callable[..., dict[str, str]], log: Lines
) -> None:
    async with client_of(configured(DATABASE_URL=table.app), **as_principal()) as client:
        answer = await client.get("/v1/broken-sql")
    check_problem(answer, 500)
    for secret in ("no_such_column", "things", "select", table.name, "asyncpg", ".py"):
        assert secret not in answer.text
    assert b"no_such_column" not in log.written
    assert log.of("unhandled exception")[0]["exception"][0]["type"] == "asyncpg.exceptions.UndefinedColumnError"


@pytest.mark.parametrize("path", ["/v1/slow-query", "/v1/slow-query-by-fastapi"])
async def test_a_database_that_is_down_is_503(as_principal: Callable[..., dict[str, str]], path: str) -> None:
    async with client_of(configured(), **as_principal()) as client:
        answer = await client.post(path, params={"seconds": 0})
    assert check_problem(answer, 503)["code"] == "database_unavailable"
    assert answer.headers["retry-after"] == "1"
    assert "127.0.0.1" not in answer.text


async def test_nothing_that_was_sent_comes_back(as_principal: Callable[..., dict[str, str]], log: Lines) -> None:
    """A canary in every place that a request has, and in every way that such a place can be wrong."""
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"/{CANARY}", {}),
        ("GET", f"/v1/hello/{CANARY}/{CANARY}", {}),
        ("DELETE", f"/v1/hello/{CANARY}", {}),
        (CANARY.upper(), "/v1/hello", {}),
        ("GET", f"/v1/hello/a?limit={CANARY}", {}),
        ("GET", f"/v1/hello-by-fastapi/a?limit={CANARY}", {}),
        ("GET", f"/v1/hello/a?limit=1&limit={CANARY}", {}),
        ("GET", f"/v1/hello/a?limit=1&{CANARY}", {}),
        ("GET", f"/v1/hello/%00{CANARY}", {}),
        ("GET", f"/v1/hello/{CANARY}%2F", {}),
        ("GET", "/v1/hello", {"headers": {"host": CANARY}}),
        ("GET", "/v1/hello", {"headers": {"x-long": CANARY * 4000}}),
        ("OPTIONS", "/v1/hello", {"headers": {"origin": CANARY, "access-control-request-method": CANARY}}),
        ("POST", "/v1/add?then=return", {"headers": {"authorization": f"Bearer {CANARY}"}, "json": {"name": "a"}}),
        ("POST", "/v1/add?then=return", {"headers": {"authorization": f"Bearer dev:{uuid4()}:{CANARY}"}, "json": {}}),
        ("POST", "/v1/echo", {"content": b"{}", "headers": {"content-type": CANARY}}),
    ]
    for path in ("/v1/echo", "/v1/echo-by-fastapi"):
        requests += [
            ("POST", path, {"json": {CANARY: 1}}),
            ("POST", path, {"json": {"text": {CANARY: 1}}}),
            ("POST", path, {"json": {"text": [CANARY]}}),
            ("POST", path, {"json": {"text": "a", "number": CANARY}}),
            ("POST", path, {"json": {"text": "a", "more": {CANARY: {CANARY: CANARY}}, "number": CANARY}}),
            ("POST", path, {"json": {"text": "a", "email": CANARY}}),
            ("POST", path, {"json": {"text": "a", "email": f"a@{CANARY}@b"}}),
            ("POST", path, {"json": {"text": "a", "email": f"{CANARY}()@b.c"}}),
            ("POST", path, {"json": {"text": "a", "email": f"a@{CANARY}_{CANARY}.com"}}),
            ("POST", path, {"content": CANARY, "headers": {"content-type": "application/json"}}),
            (
                "POST",
                path,
                {"content": f'{{"{CANARY}":1,"{CANARY}":1}}', "headers": {"content-type": "application/json"}},
            ),
            ("POST", path, {"data": {CANARY: CANARY}}),
            ("POST", path, {"files": {CANARY: (CANARY, CANARY)}}),
        ]
    async with client_of(configured()) as client:
        for method, path, more in requests:
            answer = await client.request(method, path, **more)
            assert 400 <= answer.status_code < 500, (method, path, more, answer.status_code)
            check_problem(answer)
    assert CANARY.encode() not in log.written


class Choosy(Input):
    """Validators that quote their input, as validators do."""

    by_value: int | None = None
    by_assertion: str | None = None
    by_custom: str | None = None

    @field_validator("by_value", mode="before")
    @classmethod
    def _by_value(cls, value: Any) -> int:
        return int(value)

    @field_validator("by_assertion")
    @classmethod
    def _by_assertion(cls, value: str) -> str:
        assert value == "a", f"{value} is not a"
        return value

    @field_validator("by_custom")
    @classmethod
    def _by_custom(cls, value: str) -> str:
        raise PydanticCustomError("not_today", "Come back tomorrow")


@pytest.mark.parametrize("path", ["/v1/choosy", "/v1/choosy-by-fastapi"])
async def test_what_a_validator_says_is_shown_only_if_it_cannot_quote(path: str) -> None:
    router = APIRouter(dependencies=[public])

    @router.post("/choosy")
    async def choosy(body: Choosy) -> None: ...

    @router.post("/choosy-by-fastapi")
    async def choosy_by_fastapi(body: Choosy, response: Response) -> None: ...

    async with client_of(configured(Module(name="choosy", router=router))) as client:
        for name in ("by_value", "by_assertion"):
            (error,) = check_problem(await client.post(path, json={name: CANARY}), 422)["errors"]
            assert error["location"][-1] == name
        (error,) = check_problem(await client.post(path, json={"by_custom": CANARY}), 422)["errors"]
        assert (error["code"], error["message"]) == ("not_today", "Come back tomorrow")


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/echo-by-fastapi"])
async def test_it_says_which_of_our_fields_is_wrong(path: str) -> None:
    async with client_of(configured()) as client:
        problem = check_problem(await client.post(path, json={"number": "1", "x": {}, "email": "me"}), 422)
    errors = {tuple(error["location"]): error["code"] for error in problem["errors"]}
    assert errors == {
        ("body", "text"): "missing",
        ("body", "number"): "int_type",
        ("body", "email"): "value_error",
        ("body", "?"): "extra_forbidden",
    }


async def test_no_answer_lists_errors_without_end() -> None:
    class Many(BaseModel):
        numbers: list[int]

    router = APIRouter(dependencies=[public])

    @router.post("/many")
    async def many(body: Many) -> None: ...

    async with client_of(configured(Module(name="many", router=router))) as client:
        problem = check_problem(await client.post("/v1/many", json={"numbers": ["a"] * 10_000}), 422)
    assert len(problem["errors"]) == 20


async def test_a_start_that_fails_is_logged_without_what_the_exception_says(
    monkeypatch: pytest.MonkeyPatch, log: Lines
) -> None:
    service = configured()

    async def fail() -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(service.database, "open", fail)
    with pytest.raises(AssertionError, match=r"lifespan\.startup\.failed") as told:
        async with started(service):
            raise NotImplementedError("it has started")
    assert CANARY not in str(told.value)
    (line,) = log.of("start or end failed")
    assert line["exception"][0]["type"] == "RuntimeError"
    assert CANARY.encode() not in log.written


async def test_problems_have_a_title_whatever_their_status() -> None:
    assert b'"title":"Internal Server Error"' in Problem(599, "a", "b").reply("c").body
    assert b'"title":"Conflict"' in Problem(409, "a", "b").reply("c").body
    for status in (0, 200, 399, 600):
        with pytest.raises(ValueError, match="not the status of an error"):
            Problem(status, "a", "b")
