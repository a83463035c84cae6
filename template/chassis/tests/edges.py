"""A service that does what services should not, to see what the edge makes of it: here, or as `chassis serve`.

Routes come twice where that matters: compiled by us, and with a `response: Response`, which only FastAPI fills in.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Never, cast

import httpx
from fastapi import APIRouter, BackgroundTasks, HTTPException, Request, Response
from fastapi.params import Depends
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import EmailStr, Field
from starlette.background import BackgroundTask
from starlette.types import Message, Scope
from things import PERMISSIONS, SLEEP, NewThing, Somebody

from chassis import Input, Module, Problem, Settings, Transaction, create_app, public
from chassis.app import Service
from chassis.data.queries import Query
from chassis.observe import logs
from chassis.settings import load
from chassis.testing import WIDE_LIMITS, started

CANARY = "c4n4ry"
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/nowhere"
ENVIRONMENT = {"APP_ENVIRONMENT": "test", "APP_PUBLIC_URL": "http://localhost", "DATABASE_URL": NOWHERE}
ADD = Query("edges.add", str, "insert into things (tenant_id, name) values ($1, $2) returning name", None)
BROKEN_SQL = Query("edges.broken", str, f"select no_such_column from things where name = '{CANARY}'", None)


class Echo(Input):
    text: str
    number: int = 0
    ratio: float = 0
    more: dict[str, Any] = Field(default_factory=dict)
    email: EmailStr | None = None


router = APIRouter()
open_to_all = APIRouter(dependencies=[public])


@open_to_all.get("/hello")
async def hello() -> dict[str, str]:
    return {"hello": "world"}


@open_to_all.get("/hello/{name}")
async def hello_by_name(name: str, limit: int = 20) -> dict[str, str | int]:
    return {"hello": name, "limit": limit}


@open_to_all.get("/hello-by-fastapi/{name}")
async def hello_by_fastapi(name: str, response: Response, limit: int = 20) -> dict[str, str | int]:
    return {"hello": name, "limit": limit}


@open_to_all.post("/echo")
async def echo(body: Echo) -> Echo:
    return body


@open_to_all.post("/echo-by-fastapi")
async def echo_by_fastapi(body: Echo, response: Response) -> Echo:
    return body


def _raise(error: BaseException) -> Never:
    raise error


def _recurse() -> Never:
    return _recurse()


def _problem(status: int = 409, detail: str = "…", header: bytes = b"a") -> Never:
    raise Problem(status, "conflict", detail, headers=((b"x-more", header),))


FAILURES: dict[str, Callable[[], Any]] = {
    "exception": lambda: _raise(RuntimeError(CANARY)),
    "exit": lambda: sys.exit(CANARY),
    "group": lambda: _raise(BaseExceptionGroup(CANARY, [SystemExit(CANARY)])),
    "timeout": lambda: _raise(TimeoutError(CANARY)),
    "recursion": _recurse,
    "status of a problem": lambda: _problem(status=200),
    "header of a problem": lambda: _problem(header=b"a\r\nset-cookie: a=b"),
    "text of a problem": lambda: _problem(detail="\ud800"),
    "header of a response": lambda: Response(headers={"x-more": "a\r\nset-cookie: a=b"}),
    "status of an HTTPException": lambda: _raise(HTTPException(299, "…")),
    "type of the answer": lambda: 7,
    "part of the answer": lambda: {"a": object()},
}
"""What a handler may do wrong: each ends in a 500 that says nothing of it."""


@open_to_all.get("/fail/{how}")
async def fail(how: str) -> dict[str, str]:
    return FAILURES[how]()


@open_to_all.get("/fail-by-fastapi/{how}")
async def fail_by_fastapi(how: str, response: Response) -> dict[str, str]:
    return FAILURES[how]()


async def failing(how: str) -> None:
    FAILURES[how]()


@open_to_all.get("/fail-in-dependency/{how}", dependencies=[Depends(failing)])
async def fail_in_dependency(how: str) -> None: ...


@open_to_all.get("/fail-in-dependency-by-fastapi/{how}", dependencies=[Depends(failing)])
async def fail_in_dependency_by_fastapi(how: str, response: Response) -> None: ...


@open_to_all.get("/teapot")
async def teapot() -> None:
    raise HTTPException(418, "short and stout", headers={"X-Spout": "yes"})


@open_to_all.get("/teapot-by-fastapi")
async def teapot_by_fastapi(response: Response) -> None:
    raise HTTPException(418, "short and stout", headers={"X-Spout": "yes"})


@open_to_all.get("/sleep")
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


async def _numbers(until: str) -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d\n" % number
    if until == "failure":
        raise RuntimeError(CANARY)
    if until == "never":
        await asyncio.sleep(60)


@open_to_all.get("/stream")
async def stream(until: str = "end") -> str:
    return StreamingResponse(_numbers(until), media_type="text/plain")  # pyright: ignore[reportReturnType]  # as users do


@open_to_all.get("/stream-by-fastapi")
async def stream_by_fastapi(response: Response, until: str = "end") -> Response:
    return StreamingResponse(_numbers(until), media_type="text/plain")


@open_to_all.get("/megabytes")
async def megabytes() -> str:
    return "x" * 16_000_000


DONE: list[str] = []


async def _later(what: str) -> None:
    DONE.append(what)
    if what == "failure":
        raise RuntimeError(CANARY)


@open_to_all.get("/background")
async def background(what: str) -> str:
    return JSONResponse("at once", background=BackgroundTask(_later, what))  # pyright: ignore[reportReturnType]  # as users do


@open_to_all.get("/background-by-fastapi")
async def background_by_fastapi(what: str, tasks: BackgroundTasks) -> str:
    tasks.add_task(_later, what)
    return "at once"


async def _gone(request: Request) -> str:
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    return "gone"


@open_to_all.get("/wait-until-gone")
async def wait_until_gone(request: Request) -> str:
    return await _gone(request)


@open_to_all.get("/wait-until-gone-by-fastapi")
async def wait_until_gone_by_fastapi(request: Request, response: Response) -> str:
    return await _gone(request)


@open_to_all.post("/raw")
async def raw(request: Request) -> int:
    return len(await request.body())


@router.post("/slow-query")
async def slow_query(who: Somebody, db: Transaction, seconds: float) -> None:
    await db.run(SLEEP, seconds)


@router.post("/slow-query-by-fastapi")
async def slow_query_by_fastapi(db: Transaction, who: Somebody, seconds: float, response: Response) -> None:
    await db.run(SLEEP, seconds)


@router.get("/broken-sql")
async def broken_sql(who: Somebody, db: Transaction) -> None:
    await db.run(BROKEN_SQL)


async def _add(db: Transaction, body: NewThing, then: str) -> Any:
    await db.one(ADD, db.tenant_id, body.name)
    match then:
        case "return":
            return None
        case "answer-409":
            return JSONResponse({}, 409)
        case "answer-200":
            return JSONResponse({}, 200)
        case "problem":
            raise Problem(409, "no", "…")
        case "stream":
            return StreamingResponse(_numbers("end"))
        case _:
            return FAILURES[then]()


@router.post("/add")
async def add(body: NewThing, who: Somebody, db: Transaction, then: str) -> dict[str, str] | None:
    return await _add(db, body, then)


@router.post("/add-by-fastapi")
async def add_by_fastapi(
    body: NewThing, who: Somebody, db: Transaction, then: str, response: Response
) -> dict[str, str] | None:
    return await _add(db, body, then)


router.include_router(open_to_all)
module = Module(name="edges", router=router, permissions=PERMISSIONS)
app = create_app(Settings, [module])


def configured(*modules: Module, **environment: str) -> Service:
    """A service of those modules, or the one of this file; configured, but not started."""
    service = create_app(Settings, modules) if modules else app
    service.configure(load(Settings, ENVIRONMENT | WIDE_LIMITS | environment))
    return service


@asynccontextmanager
async def client_of(service: Service, **headers: str) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of a service that runs in this process."""
    transport = httpx.ASGITransport(service)
    async with (
        started(service),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client,
    ):
        yield client


async def messages(
    service: Service, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> list[Message]:
    """What a service that has been started sends to its server in answer to a request."""
    sent: list[Message] = []

    received: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        return received.pop() if received else await asyncio.Future()  # the client stays

    async def send(message: Message) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    fields = {"host": "localhost"} | dict(headers or {})
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
    }
    await service(scope, receive, send)
    return sent


def served(folder: Path, app: str = "edges:app") -> dict[str, str]:
    """The variables with which `chassis serve` serves `app` of this folder or of `folder` in place of the project's."""
    distribution = folder / "edges-1.dist-info"
    distribution.mkdir(exist_ok=True)
    (distribution / "entry_points.txt").write_text(f"[chassis]\napp = {app}\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parent}"}


class Lines:
    """What the service has logged."""

    def __init__(self) -> None:
        self.written = b""

    def isatty(self) -> bool:
        return False

    def write(self, line: bytes) -> int:
        self.written += line
        return len(line)

    def of(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.written.splitlines()]
        return [line for line in lines if line["event"] == event]


@contextmanager
def logging_to(lines: Lines) -> Generator[None]:
    """Have all logging end in `lines` for the length of the block."""
    logs.configure(configured().settings, stream=cast(BinaryIO, lines))
    try:
        yield
    finally:
        logs.configure(configured().settings)


def check_problem(answer: httpx.Response, status: int | None = None) -> dict[str, Any]:
    """Assert that an answer is a problem as RFC 9457 has it, and ours; return it."""
    if status is not None:
        assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert problem.keys() - {"errors"} == {"type", "title", "status", "code", "detail", "request_id"}
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert CANARY not in answer.text
    assert CANARY not in str(answer.headers)
    return problem
