"""Compiled endpoints: they answer as FastAPI does, or leave it to FastAPI, which is held to the same promises."""

from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from edges import check_problem, client_of, configured
from fastapi import APIRouter, FastAPI
from fastapi.params import Depends
from fastapi.routing import iter_route_contexts
from signatures import COMPILED, FOR_FASTAPI, Handler, none_at_all, nothing, seven, synchronous
from things import PERMISSIONS, NewThing, Somebody

from chassis import Idempotent, Module, Principal, Settings, Transaction, create_app, may, public
from chassis.app import BootRefused, Service
from chassis.http.endpoints import Endpoint, compiled

pytestmark = pytest.mark.anyio

PATHS = ["/r", "/r/a", "/r/%C3%A9%20b", "/r/7/x/8", "/r/a/x/b", "/r/1/x/"]
GOOD = "u=6f1b1a52-9d5e-4b8e-8a55-4c1a3a1f0001&n=5&d=2026-02-03&t=2026-02-03T04:05:06Z&f=yes&k=red&x=two&m=1.10"
QUERIES = [
    "", "q=1", "q=0", "q=-7", "q=x", "q=", "q=1.0", "q=1.5", "q=true", "q=%C3%A9+b%20c", "unknown=1&q=2", "b=4&c=2.5",
    "b=x", "n=5", "n=0", "n=9&s=ab", "n=9&s=b", "copy=z&schema=y", "if-match=1&x-more=2", "header:if-match=1", "p0=1",
    GOOD, GOOD.replace("red", "green"), GOOD.replace("two", "three"), GOOD.replace("02-03&", "02-30&"),
    GOOD.replace("6f1b1a52", "zzzz"), GOOD.replace("yes", "maybe"), GOOD.replace("1.10", "NaN"), "q=" + "9" * 30,
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {},
    {"if-match": '"1"'},
    {"if-match": "a", "x-more": "7"},
    {"if-match": "a", "x-more": "b"},
]
BODIES = [
    '{"name": "a"}',
    '{"name": "a", "price": "2.50", "tags": ["x", "y"]}',
    '{"name": "é", "price": 3, "unknown": 1}',
    '{"name": 1}',
    '{"price": 1}',
    '{"name": "a", "price": "x"}',
    "[]",
    "null",
    '"a"',
    "7",
]


def _service_of(handler: Handler, method: str, path: str, status: int | None) -> Service:
    router = APIRouter(dependencies=[public])
    router.add_api_route(path, handler, methods=[method], status_code=status)
    return configured(Module(name="one", router=router))


def _fastapi_of(handler: Handler, method: str, path: str, status: int | None) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/v1" + path, handler, methods=[method], status_code=status)
    return app


@pytest.mark.parametrize(
    ("handler", "method", "path", "status"), COMPILED, ids=[f"{entry[0].__name__}-{entry[3]}" for entry in COMPILED]
)
async def test_a_compiled_handler_answers_as_fastapi_does(
    handler: Handler, method: str, path: str, status: int | None
) -> None:
    service = _service_of(handler, method, path, status)
    assert [endpoint for context, endpoint in _endpoints(service) if context.path == "/v1" + path] != [None]
    fastapi = httpx.AsyncClient(
        transport=httpx.ASGITransport(_fastapi_of(handler, method, path, status)), base_url="http://localhost"
    )
    agreed: set[int] = set()
    async with client_of(service) as ours, fastapi as theirs:
        for request in _requests(method):
            expected, answer = await theirs.request(**request), await ours.request(**request)
            if expected.status_code < 400:
                assert (answer.status_code, answer.content) == (expected.status_code, expected.content), request
                if expected.content:
                    assert answer.headers["content-type"] == expected.headers["content-type"]
                assert answer.headers.get("x-more") == expected.headers.get("x-more")
            else:
                assert answer.status_code == expected.status_code, (request, answer.text)
                check_problem(answer)
            agreed.add(expected.status_code)
    assert agreed & {200, 201, 202, 204}


def _requests(method: str) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = [
        {"method": method, "url": f"/v1{path}?{query}"} for path in PATHS for query in QUERIES
    ]
    requests += [{"method": method, "url": "/v1/r", "headers": headers} for headers in HEADERS]
    if method in ("POST", "PUT"):
        headers = {"content-type": "application/json"}
        requests = [{"content": BODIES[0]} | request for request in requests]
        requests += [{"method": method, "url": "/v1/r", "content": body} for body in BODIES]
        requests = [request | {"headers": headers | request.get("headers", {})} for request in requests]
    return requests


def _endpoints(service: Service) -> list[tuple[Any, Endpoint | None]]:
    return [(context, compiled(context)) for context in iter_route_contexts(service.routes)]


@pytest.mark.parametrize(
    ("handler", "body", "options"), FOR_FASTAPI, ids=[f"{entry[0].__name__}{[*entry[2]]}" for entry in FOR_FASTAPI]
)
async def test_what_is_not_compiled_is_answered_by_fastapi_behind_the_same_edge(
    handler: Handler, body: Any, options: dict[str, Any]
) -> None:
    router = APIRouter(dependencies=[public])
    router.add_api_route("/r", handler, methods=["GET" if body is None else "POST"], **options)
    service = configured(Module(name="one", router=router))
    assert [endpoint for context, endpoint in _endpoints(service) if context.path == "/v1/r"] == [None]
    async with client_of(service) as client:
        if body is None:
            answer = await client.get("/v1/r?q=7")
        else:
            answer = await client.post("/v1/r", json=body)
            hostile = await client.post("/v1/r", content=b"NaN", headers={"content-type": "APPLICATION/JSON"})
            assert check_problem(hostile, 400)["code"] == "malformed_json"
            check_problem(
                await client.post("/v1/r", content=b"NaN", headers={"content-type": "application/x+json"}), 400
            )
        assert (answer.status_code, answer.json()) == (200, 7), answer.text
        assert answer.headers["x-request-id"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_who_may_is_asked_before_anything_is_read(as_principal: Callable[..., dict[str, str]]) -> None:
    router = APIRouter()

    @router.post("/a/{n}")
    async def compiled_one(n: int, body: NewThing, who: Somebody) -> None: ...

    async with client_of(configured(Module(name="a", router=router, permissions=PERMISSIONS))) as client:
        assert check_problem(await client.post("/v1/a/x", content=b"{"), 401)["code"] == "unauthenticated"
        stranger = as_principal("viewer")
        check_problem(await client.post("/v1/a/x", content=b"{", headers=stranger), 401)  # a role of no module
        check_problem(await client.post("/v1/a/x", content=b"{", headers=as_principal("member")), 422)


async def test_a_dependency_runs_once_and_after_its_own() -> None:
    calls: list[str] = []

    async def base() -> int:
        calls.append("base")
        return 1

    async def middle(base: Annotated[int, Depends(base)]) -> int:
        calls.append("middle")
        return base + 1

    router = APIRouter(dependencies=[public, Depends(middle)])

    @router.get("/a")
    async def handler(a: Annotated[int, Depends(base)], b: Annotated[int, Depends(middle)]) -> list[int]:
        calls.append("handler")
        return [a, b]

    async with client_of(configured(Module(name="a", router=router))) as client:
        assert (await client.get("/v1/a")).json() == [1, 2]
    assert calls == ["base", "middle", "handler"]


async def takes_two(body: NewThing, other: NewThing, who: Somebody, db: Transaction, once: Idempotent) -> None: ...
async def not_declared(who: Annotated[Principal, may("things:unheard-of")]) -> None: ...
async def idempotent_without_transaction(body: NewThing, who: Somebody, once: Idempotent) -> None: ...
async def transaction_for_all(db: Transaction) -> None: ...


@pytest.mark.parametrize(
    ("path", "handler", "is_public", "refusal"),
    [
        ("/a", nothing, False, "POST /v1/a: say who may call it"),
        ("/a", takes_two, False, "Idempotent takes only plain parameters"),
        ("/a", not_declared, False, "no module declares the permission 'things:unheard-of'"),
        ("/a", not_declared, True, "no module declares the permission 'things:unheard-of'"),
        ("/a", idempotent_without_transaction, False, "Idempotent needs may(…) and Transaction"),
        ("/a", transaction_for_all, True, "Transaction needs may(…)"),
        ("/version", nothing, True, "POST /v1/version is declared twice"),
        ("/a/{a:path}", none_at_all, True, "say the type of a path parameter in the signature"),
    ],
)
def test_a_route_that_is_put_together_wrongly_does_not_boot(
    path: str, handler: Handler, refusal: str, *, is_public: bool
) -> None:
    router = APIRouter(dependencies=[public] if is_public else [])
    router.add_api_route("/version", nothing, methods=["POST"], dependencies=[public])
    router.add_api_route(path, handler, methods=["POST"])
    with pytest.raises(BootRefused) as refused:
        create_app(Settings, [Module(name="a", router=router, permissions=PERMISSIONS)])
    assert len(refused.value.problems) == 1
    assert refusal in refused.value.problems[0]


def test_every_reason_is_told_at_once() -> None:
    router = APIRouter()
    router.add_api_route("/a", nothing)
    router.add_api_route("/b", not_declared)
    router.mount("/c", FastAPI())
    with pytest.raises(BootRefused) as refused:
        create_app(Settings, [Module(name="a", router=router)])
    assert len(refused.value.problems) == 3


async def test_routes_of_all_depths_are_held_to_it_and_served() -> None:
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer", dependencies=[public])
    inner.add_api_route("/r", seven)
    inner.add_api_route("/f", synchronous)
    outer.include_router(inner, prefix="/between")
    async with client_of(configured(Module(name="a", router=outer))) as client:
        assert (await client.get("/v1/outer/between/inner/r")).json() == 7
        assert (await client.get("/v1/outer/between/inner/f?q=7")).json() == 7
    unguarded = APIRouter()
    unguarded.include_router(inner)
    with pytest.raises(BootRefused, match="/v1/inner/r: say who may call it"):
        create_app(Settings, [Module(name="a", router=unguarded)])
