"""The edge: what every request gets, whatever it asks for and whoever answers it."""

import asyncio
import json
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from uuid import UUID

import psycopg
import pytest
from edges import CANARY, Lines, check_problem, client_of, configured, logging_to, messages
from starlette.types import Message

from chassis.features import FEATURES
from chassis.observe.context import trace_of
from chassis.testing import TestDatabase, started

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SITE = "https://shop.example"
PREFLIGHT = {"origin": SITE, "access-control-request-method": "POST"}
JSON = {"content-type": "application/json"}
PRODUCTION = {
    "APP_ENVIRONMENT": "production",
    "APP_SECRET_KEY": "Zk3v9QmX7tRw2LpB8nYc5HdJ4sGfA6uE",
    "DATABASE_URL": "postgresql://app:Wq8ZkL2vTn5Yx7RcJm4B@127.0.0.1:1/x",
    "APP_ALLOWED_HOSTS": "localhost,api.shop.example",
    "APP_SMTP_URL": "smtp://127.0.0.1",
    "APP_MAIL_FROM": "no-reply@example.com",
    "APP_SECURITY_CONTACT": "https://example.com/security",
}
if "valkey" in FEATURES:
    PRODUCTION["APP_VALKEY_URL"] = "valkey://127.0.0.1:1"

# Every status that the edge itself gives, and some of handlers: method, path, headers and body.
ANSWERS: dict[str, tuple[int, str, str, dict[str, str], bytes]] = {
    "200": (200, "GET", "/v1/hello", {}, b""),
    "200 by FastAPI": (200, "GET", "/v1/hello-by-fastapi/a", {}, b""),
    "200 in parts": (200, "GET", "/v1/stream", {}, b""),
    "200 of a probe": (200, "GET", "/livez", {}, b""),
    "200 of HEAD": (200, "HEAD", "/v1/hello", {}, b""),
    "200 of the documentation": (200, "GET", "/openapi.json", {}, b""),
    "204 of OPTIONS": (204, "OPTIONS", "/v1/hello", {}, b""),
    "204 of a preflight": (204, "OPTIONS", "/v1/hello", PREFLIGHT, b""),
    "400 of a host": (400, "GET", "/v1/hello", {"host": "evil.example"}, b""),
    "400 of a query": (400, "GET", "/v1/hello/a?%zz", {}, b""),
    "400 of a body": (400, "POST", "/v1/echo", JSON, b"{"),
    "400 of a body by FastAPI": (400, "POST", "/v1/echo-by-fastapi", JSON, b"{"),
    "401": (401, "POST", "/v1/add?then=return", JSON, b"{}"),
    "401 by FastAPI": (401, "POST", "/v1/add-by-fastapi?then=return", JSON, b"{}"),
    "403 of an origin": (403, "OPTIONS", "/v1/hello", PREFLIGHT | {"origin": "https://evil.example"}, b""),
    "404": (404, "GET", "/v1/nothing", {}, b""),
    "404 with a slash": (404, "GET", "/v1/hello/", {}, b""),
    "405": (405, "DELETE", "/v1/hello", {}, b""),
    "405 of a strange method": (405, "PROPFIND", "/v1/hello", {}, b""),
    "413": (413, "POST", "/v1/echo", JSON | {"content-length": "9999999"}, b""),
    "413 by FastAPI": (413, "POST", "/v1/echo-by-fastapi", JSON | {"content-length": "9999999"}, b""),
    "414": (414, "GET", "/v1/hello?" + "a" * 9000, {}, b""),
    "415": (415, "POST", "/v1/echo", {"content-type": "text/plain"}, b"{}"),
    "418 by FastAPI": (418, "GET", "/v1/teapot-by-fastapi", {}, b""),
    "422": (422, "POST", "/v1/echo", JSON, b"{}"),
    "422 by FastAPI": (422, "POST", "/v1/echo-by-fastapi", JSON, b"{}"),
    "431": (431, "GET", "/v1/hello", {"a": "b" * 20_000}, b""),
    "500": (500, "GET", "/v1/fail/exception", {}, b""),
    "500 by FastAPI": (500, "GET", "/v1/fail-by-fastapi/exception", {}, b""),
    "503": (503, "GET", "/readyz", {}, b""),
    "504": (504, "GET", "/v1/sleep?seconds=9", {}, b""),
}


async def answer_of(
    name: str, more_headers: Mapping[str, str] = MappingProxyType({}), /, **environment: str
) -> tuple[dict[str, list[str]], bytes]:
    """Headers and body of one of those answers, once its status was checked."""
    status, method, path, headers, body = ANSWERS[name]
    service = configured(**{"APP_REQUEST_TIMEOUT_SECONDS": "0.2", "APP_CORS_ORIGINS": SITE} | environment)
    async with started(service):
        begin, *parts = await messages(service, method, path, headers | dict(more_headers), body)
    assert begin["status"] == status, begin
    found: dict[str, list[str]] = {}
    for key, value in begin["headers"]:
        found.setdefault(key.decode(), []).append(value.decode())
    return found, b"".join(part["body"] for part in parts)


@pytest.fixture
def log() -> Iterator[Lines]:
    """What is logged during the test."""
    lines = Lines()
    with logging_to(lines):
        yield lines


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_carries_the_request_id_and_is_counted_and_logged_once(name: str, log: Lines) -> None:
    headers, body = await answer_of(name, {"x-request-id": "my.own_ID-1"})
    assert headers["x-request-id"] == ["my.own_ID-1"]
    if int(name[:3]) >= 400:
        assert json.loads(body)["request_id"] == "my.own_ID-1"
        assert headers["content-type"] == ["application/problem+json"]
    lines = log.of("request")
    assert len(lines) == (name != "200 of a probe")
    assert all((line["request_id"], line["status"]) == ("my.own_ID-1", int(name[:3])) for line in lines)


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_has_the_security_headers_once(name: str) -> None:
    headers, _ = await answer_of(name)
    assert headers["x-content-type-options"] == ["nosniff"]
    assert "default-src 'none'" in headers["content-security-policy"][0]
    assert headers["referrer-policy"] == ["no-referrer"]
    assert headers["cache-control"] == ["no-store"]
    assert headers["cross-origin-resource-policy"] == ["same-origin"]
    assert "strict-transport-security" not in headers
    assert not {name for name, values in headers.items() if len(values) > 1} - {"vary"}
    assert not headers.keys() & {"server", "x-powered-by"}


@pytest.mark.parametrize("name", ["200", "404", "500", "204 of OPTIONS"])
async def test_when_deployed_browsers_are_told_to_stay_with_https(name: str) -> None:
    headers, _ = await answer_of(name, **PRODUCTION)
    assert headers["strict-transport-security"] == ["max-age=31536000; includeSubDomains"]


@pytest.mark.parametrize(
    "unusable", ["", " ", "a b", "a" * 129, "ä", "a;b", "a\tb", '"', "<script>", "a/b", "a\r\nb: c"], ids=repr
)
async def test_a_request_id_that_cannot_be_used_is_replaced(unusable: str) -> None:
    headers, _ = await answer_of("404", {"x-request-id": unusable})
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"][0])


async def test_request_ids_differ_and_follow_the_trace() -> None:
    async with client_of(configured()) as client:
        ids = {(await client.get("/v1/hello")).headers["x-request-id"] for _ in range(100)}
        assert len(ids) == 100
        traced = await client.get("/v1/hello", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
        assert traced.headers["x-request-id"] == TRACE


@pytest.mark.parametrize(
    ("traceparent", "is_valid"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"cc-{TRACE}-{SPAN}-01more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE[:-1]}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"0-{TRACE}-{SPAN}-01", False),
        (f"00_{TRACE}_{SPAN}_01", False),
        ("", False),
    ],
)
def test_a_traceparent_is_taken_only_as_the_standard_has_it(traceparent: str, *, is_valid: bool) -> None:
    assert (trace_of(traceparent.encode()) == TRACE) == is_valid
    assert re.fullmatch("[0-9a-f]{32}", trace_of(traceparent.encode()))
    assert trace_of(None) != trace_of(None)


async def test_every_line_of_a_request_has_its_ids(
    log: Lines, database: TestDatabase, tenant_id: UUID, as_principal: Any
) -> None:
    service = configured(DATABASE_URL=database.app)
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "mine"} | as_principal()
    async with started(service):
        await messages(service, "GET", "/v1/fail/exception", headers)
        await messages(service, "GET", "/v1/broken-sql", headers)
    lines = [json.loads(line) for line in log.written.splitlines()]
    assert [line["event"] for line in lines] == ["unhandled exception", "request"] * 2
    for line in lines:
        assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)
        assert line["span_id"] != SPAN
    assert lines[-1]["tenant_id"] == str(tenant_id)
    assert {line["route"] for line in log.of("request")} == {"/v1/fail/{how}", "/v1/broken-sql"}


async def test_probes_are_quiet_until_they_fail(log: Lines) -> None:
    async with client_of(configured()) as client:
        await client.get("/livez")
        assert not log.of("request")
        await client.get("/readyz")
        assert [line["status"] for line in log.of("request")] == [503]


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LocalHost", True),
        ("LOCALHOST:80", True),
        ("127.0.0.1:1", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example:localhost", False),
        ("localhost:evil", False),
        ("localhost:", False),
        ("localhost@evil.example", False),
        ("localhost, evil.example", False),
        ("xlocalhost", False),
        ("::1", False),
        ("*", False),
    ],
)
async def test_hosts_are_known_by_their_exact_names(host: str, *, is_known: bool) -> None:
    service = configured()
    async with started(service):
        assert (await messages(service, "GET", "/v1/hello", {"host": host}))[0]["status"] == (200 if is_known else 400)
        assert (await messages(service, "GET", "/livez", {"host": host}))[0]["status"] == 200  # probed by address


@pytest.mark.parametrize(
    "name", ["host", "authorization", "content-length", "content-type", "idempotency-key", "if-match"]
)
async def test_what_decides_may_be_said_once(name: str) -> None:
    async with client_of(configured()) as client:
        for values in ((b"localhost", b"localhost"), (b"1", b"2")):
            answer = await client.get("/v1/hello", headers=[(name.encode(), value) for value in values])
            assert check_problem(answer, 400)["code"] == "duplicate_header"
        twice = [("cookie", "a=b"), ("cookie", "c=d"), ("accept", "a/b"), ("accept", "c/d")]
        assert (await client.get("/v1/hello", headers=twice)).status_code == 200


@pytest.mark.parametrize(("count", "size", "status"), [(100, 10, 200), (101, 10, 431), (3, 5500, 200), (4, 5500, 431)])
async def test_headers_have_a_limit_together(count: int, size: int, status: int) -> None:
    service = configured()
    headers = {f"a{number}": "b" * size for number in range(count - 1)}
    async with started(service):
        assert (await messages(service, "GET", "/v1/hello", headers))[0]["status"] == status


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/echo-by-fastapi", "/v1/raw"])
@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize("size", [2000, 2001])
async def test_bodies_have_a_limit(path: str, size: int, *, is_declared: bool) -> None:
    body = b'{"text":"%b"}' % (b"a" * (size - 11))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, size, 10):
            yield body[start : start + 10]

    async with client_of(configured(APP_MAX_BODY_BYTES="2000")) as client:
        answer = await client.post(path, content=body if is_declared else chunks(), headers=JSON)
    if size == 2000:
        assert answer.status_code == 200, answer.text
    else:
        assert check_problem(answer, 413)["code"] == "body_too_large"


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/echo-by-fastapi"])
async def test_a_body_is_not_read_further_than_its_limit(path: str) -> None:
    service = configured(APP_MAX_BODY_BYTES="2000")
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1000
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(_: Message) -> None: ...

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    async with started(service):
        await service(
            scope | {"headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}, receive, send
        )
    assert read == 3000


@pytest.mark.parametrize(
    "path", ["/v1/hello/%00", "/v1/hello/a%2Fb", "/v1%2fhello", "/v1/hello/%ff", "/v1/hello/%ed%a0%80"]
)
async def test_paths_that_others_would_read_differently_are_refused(path: str) -> None:
    async with client_of(configured()) as client:
        assert check_problem(await client.get(path), 400)["code"] == "malformed_path"
        assert (await client.get("/v1/hello/%C3%A9%20%25")).json()["hello"] == "é %"


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=%00", "limit=%ff", "limit", "&", "a=b;c=d&&", "=&=" * 101])
async def test_queries_are_read_in_one_way_or_not_at_all(query: str) -> None:
    async with client_of(configured()) as client:
        assert check_problem(await client.get(f"/v1/hello/a?{query}"), 400)["code"] == "malformed_query"
        assert (await client.get("/v1/hello/a?limit=%31&b=%C3%A9+%26")).json()["limit"] == 1


async def test_a_deadline_is_a_504_and_frees_the_handler() -> None:
    async with client_of(configured(APP_REQUEST_TIMEOUT_SECONDS="0.1")) as client:
        began = time.monotonic()
        assert check_problem(await client.get("/v1/sleep?seconds=30"), 504)["code"] == "deadline_exceeded"
        assert time.monotonic() - began < 5
        assert (await client.get("/v1/sleep?seconds=0")).json() == "awake"


@pytest.mark.parametrize("path", ["/v1/slow-query", "/v1/slow-query-by-fastapi"])
async def test_a_deadline_stops_the_query_in_postgresql(
    path: str, database: TestDatabase, as_principal: Callable[..., dict[str, str]]
) -> None:
    service = configured(
        DATABASE_URL=database.app, APP_REQUEST_TIMEOUT_SECONDS="0.4", APP_STATEMENT_TIMEOUT_SECONDS="60"
    )
    watch = "select state from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    async with client_of(service, **as_principal()) as client, await _admin(database) as admin:
        assert (await client.post(path, params={"seconds": 0})).status_code == 200
        slow = asyncio.create_task(client.post(path, params={"seconds": 60}))
        await asyncio.sleep(0.2)
        assert ("active",) in await (await admin.execute(watch)).fetchall()
        check_problem(await slow, 504)
        assert ("active",) not in await (await admin.execute(watch)).fetchall()
        for _ in range(service.settings.database_pool_size + 1):  # and no connection is lost
            assert (await client.post(path, params={"seconds": 0})).status_code == 200


async def _admin(database: TestDatabase) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect(database.superuser, autocommit=True)


async def test_the_database_has_the_last_word_on_a_statement(
    database: TestDatabase, as_principal: Callable[..., dict[str, str]]
) -> None:
    service = configured(DATABASE_URL=database.app, APP_STATEMENT_TIMEOUT_SECONDS="0.2")
    async with client_of(service, **as_principal()) as client:
        check_problem(await client.post("/v1/slow-query", params={"seconds": 30}), 504)


async def test_a_page_of_a_listed_origin_may_read_answers_and_no_other() -> None:
    async with client_of(configured(APP_CORS_ORIGINS=f"{SITE},http://localhost:3000")) as client:
        for path, status in (("/v1/hello", 200), ("/v1/nothing", 404), ("/v1/fail/exception", 500)):
            answer = await client.get(path, headers={"origin": SITE})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == SITE
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
            assert answer.headers["vary"] == "origin"
        for origin in ("https://evil.example", "null", SITE + ".evil.example", SITE.upper(), SITE + ":443", "*", ""):
            answer = await client.get("/v1/hello", headers={"origin": origin})
            assert not [name for name in answer.headers if name.startswith("access-control")], origin
            assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_is_answered_for_listed_origins_alone() -> None:
    async with client_of(configured(APP_CORS_ORIGINS=SITE)) as client:
        answer = await client.options("/v1/echo", headers=PREFLIGHT)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == SITE
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert "idempotency-key" in answer.headers["access-control-allow-headers"]
        refused = await client.options("/v1/echo", headers=PREFLIGHT | {"origin": "https://evil.example"})
        check_problem(refused, 403)
        assert "access-control-allow-origin" not in refused.headers


async def test_without_origins_no_browser_is_told_anything() -> None:
    async with client_of(configured()) as client:
        check_problem(await client.options("/v1/echo", headers=PREFLIGHT), 403)
        answer = await client.get("/v1/hello", headers={"origin": SITE})
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]


async def test_options_and_a_405_say_what_there_is() -> None:
    async with client_of(configured()) as client:
        for path, allowed in (("/v1/hello", "GET, HEAD, OPTIONS"), ("/v1/echo", "OPTIONS, POST")):
            answer = await client.options(path)
            assert (answer.status_code, answer.headers["allow"]) == (204, allowed)
            answer = await client.delete(path)
            check_problem(answer, 405)
            assert answer.headers["allow"] == allowed
        check_problem(await client.options("/v1/nothing"), 404)
        assert (await client.head("/v1/echo")).status_code == 405


@pytest.mark.parametrize(
    "path", ["/v1/hello", "/v1/hello-by-fastapi/a", "/v1/fail/exception", "/v1/fail-by-fastapi/exit"]
)
async def test_head_tells_what_get_would(path: str) -> None:
    async with client_of(configured()) as client:
        get, head = await client.get(path), await client.head(path)
    assert head.content == b""
    assert head.status_code == get.status_code
    assert head.headers.keys() == get.headers.keys()
    differs = {"x-request-id": "", "ratelimit": ""}
    assert {**head.headers, **differs} == {**get.headers, **differs}


async def test_the_documentation_is_closed_unless_it_is_open() -> None:
    for path in ("/docs", "/openapi.json"):
        async with client_of(configured(**PRODUCTION)) as client:
            check_problem(await client.get(path), 404)
        async with client_of(configured(**PRODUCTION, APP_DOCS="true")) as client:
            assert (await client.get(path)).status_code == 200
        async with client_of(configured()) as client:
            assert (await client.get(path)).status_code == 200


async def test_the_documentation_may_load_what_it_names_and_nothing_else() -> None:
    async with client_of(configured()) as client:
        page = await client.get("/docs")
    rules = page.headers["content-security-policy"]
    scripts = re.findall(r'<script src="(.*?)">', page.text)
    (inline,) = re.findall("(?s)<script>(.*?)</script>", page.text)
    digest = b64encode(sha256(inline.encode()).digest()).decode()
    assert scripts
    assert re.search(rf"script-src [^;]*{re.escape(scripts[0])} [^;]*'sha256-{re.escape(digest)}'", rules)
    assert "unsafe" not in rules.partition("style-src")[0]
    assert "https:;" not in rules
    assert "*" not in rules


async def test_nobody_is_believed_whose_token_another_service_has_signed(
    database: TestDatabase, as_principal: Callable[..., dict[str, str]]
) -> None:
    another = configured(DATABASE_URL=database.app, APP_PUBLIC_URL="https://another.example.com")
    async with client_of(another, **as_principal()) as client:
        answer = await client.post("/v1/add?then=return", json={"name": CANARY})
    check_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_websocket_is_turned_away() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await configured()({"type": "websocket", "path": "/v1/hello", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_what_is_cut_off_by_the_end_of_the_process_is_told_so(log: Lines) -> None:
    service = configured()
    async with started(service):
        request = asyncio.create_task(messages(service, "GET", "/v1/sleep?seconds=60"))
        await asyncio.sleep(0.05)
        request.cancel()
        begin, body = await request
    assert begin["status"] == 503
    assert json.loads(body["body"])["code"] == "shutting_down"
    assert [line["status"] for line in log.of("request")] == [503]
