"""Handlers of every shape that FastAPI knows: those that are compiled, and those that are left to it."""

import enum
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import BackgroundTasks, Body, Cookie, Header, Query, Request, Response
from fastapi.params import Depends, Security
from fastapi.requests import HTTPConnection
from fastapi.responses import PlainTextResponse
from fastapi.security import SecurityScopes
from pydantic import BaseModel, Field

Handler = Callable[..., Any]


class Plain(PlainTextResponse):
    """A response class of a route's own."""


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    name: str
    price: Decimal = Decimal("1.50")
    tags: list[str] = Field(default_factory=list[str])


class Secret(Item):
    password: str = "hunter2"


class Aliased(BaseModel):
    total: int = Field(alias="totalMinor", default=1)
    when: date | None = None


class Page(BaseModel):
    q: int = 0


@dataclass
class Row:
    id: int
    name: str
    at: datetime | None = None


@dataclass
class RowWithMore(Row):
    password: str = "hunter2"


async def nothing() -> None: ...
async def none_at_all(a: str) -> None: ...
async def plain(a: str, b: int = 3, c: float | None = None) -> dict[str, Any]:
    return {"a": a, "b": b, "c": c}


async def of_path(a: str, q: int) -> list[Any]:
    return [a, q]


async def typed(
    u: UUID, n: int, d: date, t: datetime, f: bool, k: Color, x: Literal["one", "two"], m: Decimal
) -> dict[str, Any]:
    return {"u": u, "n": n, "d": d, "t": t, "f": f, "k": k, "x": x, "m": m}


async def limited(
    n: Annotated[int, Query(ge=1, le=9)], s: Annotated[str, Query(min_length=2, pattern="^a")] = "aa"
) -> str:
    return f"{n}{s}"


async def names_of_pydantic(json: str, copy: str = "a", schema: str = "b", model_config: str = "c") -> list[str]:
    return [json, copy, schema, model_config]


async def with_header(if_match: Annotated[str, Header()], x_more: Annotated[int | None, Header()] = None) -> list[Any]:
    return [if_match, x_more]


async def header_and_query(x_more: Annotated[str | None, Header()] = None, q: str = "q") -> list[Any]:
    return [x_more, q]


async def with_body(body: Item) -> Item:
    return body


async def with_body_and_query(body: Item, q: int = 1) -> dict[str, Any]:
    return {"q": q, "name": body.name}


async def less_than_it_has(q: str = "") -> Item:
    return Secret(name=q)


async def row(q: int) -> Row:
    return RowWithMore(q, "a", datetime(2026, 1, 2, 3, 4, 5))  # noqa: DTZ001  (a naive one is written as it is)


async def rows() -> list[Row]:
    return [Row(1, "é"), RowWithMore(2, "b")]


async def aliased(q: int = 5) -> Aliased:
    return Aliased(totalMinor=q)


async def maybe(q: bool = False) -> Item | None:
    return Item(name="a") if q else None


async def text(q: str = "é\u2028\u0000<") -> str:
    return q


async def numbers() -> list[float]:
    return [1.0, -0.0, 1e100, 0.1]


async def responds(q: Literal[1, 2] = 1) -> str:
    return PlainTextResponse("as it is", 200 + q, {"x-more": "yes"})  # pyright: ignore[reportReturnType]  # as users do


async def of_request(request: Request, q: str = "") -> list[Any]:
    return [request.method, request.url.path, request.query_params.get("q"), (await request.body()).decode()]


async def _first(q: int = 1) -> int:
    return q + 1


async def _second(first: Annotated[int, Depends(_first)]) -> int:
    return first * 10


async def dependent(a: Annotated[int, Depends(_first)], b: Annotated[int, Depends(_second)]) -> list[int]:
    return [a, b]


async def dependent_by_default(b: Any = Depends(_second)) -> int:  # noqa: B008  (FastAPI's older way)
    return b


# Handler, method, path of the route, status of the route.
COMPILED: list[tuple[Handler, str, str, int | None]] = [
    (nothing, "GET", "/r", None),
    (nothing, "DELETE", "/r", 204),
    (none_at_all, "GET", "/r/{a}", 202),
    (plain, "GET", "/r/{a}", None),
    (of_path, "GET", "/r/{a}/x/{q}", None),
    (typed, "GET", "/r", None),
    (limited, "GET", "/r", None),
    (names_of_pydantic, "GET", "/r/{json}", None),
    (with_header, "GET", "/r", None),
    (header_and_query, "GET", "/r", None),
    (with_body, "POST", "/r", 201),
    (with_body_and_query, "PUT", "/r", None),
    (less_than_it_has, "GET", "/r", None),
    (row, "GET", "/r", None),
    (rows, "GET", "/r", None),
    (aliased, "GET", "/r", None),
    (maybe, "GET", "/r", None),
    (text, "GET", "/r", None),
    (numbers, "GET", "/r", None),
    (responds, "GET", "/r", None),
    (of_request, "POST", "/r", None),
    (dependent, "GET", "/r", None),
    (dependent_by_default, "GET", "/r", None),
]


async def seven() -> int:
    return 7


async def text_seven() -> str:
    return "7"


# What only FastAPI understands. Each is called with the path "a", the query "q=7" and the body of the same line.


def synchronous(q: int) -> int:
    return q


async def wants_response(q: int, response: Response) -> int:
    return q


async def wants_background(q: int, tasks: BackgroundTasks) -> int:
    return q


async def wants_connection(q: int, connection: HTTPConnection) -> int:
    return q


async def wants_scopes(q: int, scopes: SecurityScopes) -> int:
    return q


async def cookie(q: int, c: Annotated[int, Cookie()] = 7) -> int:
    return c


async def embedded(body: Annotated[Item, Body(embed=True)]) -> int:
    return len(body.name)


async def two_bodies(body: Item, other: Item) -> int:
    return len(body.name + other.name)


async def a_row(body: Row) -> int:
    return body.id


async def a_list(body: list[int]) -> int:
    return body[0]


async def a_mapping(body: dict[str, int]) -> int:
    return body["a"]


async def a_number(body: Annotated[int, Body()]) -> int:
    return body


async def perhaps_a_body(body: Item | None = None) -> int:
    return 7 if body else 0


async def several(q: Annotated[list[int], Query()]) -> int:
    return q[0]


async def query_model(q: Annotated[Page, Query()]) -> int:
    return q.q


async def alias(a: Annotated[int, Query(alias="q")]) -> int:
    return a


async def header_alias(a: Annotated[int, Header(alias="x-seven")] = 7) -> int:
    return a


async def default_of_query(q: Any = Query(3)) -> int:  # noqa: B008  (FastAPI's older way)
    return int(q)


async def _opened(q: int) -> AsyncIterator[int]:
    yield q


async def generator_dependency(q: Annotated[int, Depends(_opened)]) -> int:
    return q


def _threaded(q: int) -> int:
    return q


async def synchronous_dependency(q: Annotated[int, Depends(_threaded)]) -> int:
    return q


async def class_dependency(page: Annotated[Page, Depends(Page)]) -> int:
    return page.q


async def anew(a: Annotated[int, Depends(_first, use_cache=False)], b: Annotated[int, Depends(_first)]) -> int:
    return a - 1


async def scoped(a: Annotated[int, Security(_first, scopes=["x"])]) -> int:
    return a - 1


async def unannotated(q: int):  # type: ignore[no-untyped-def]  # as users do
    return q


async def same_name_twice(q: int, again: Annotated[int, Depends(_first)]) -> int:
    return q


FOR_FASTAPI: list[tuple[Handler, Any, dict[str, Any]]] = [
    *((handler, None, {}) for handler in (
        synchronous, wants_response, wants_background, wants_connection, wants_scopes, cookie, several, query_model,
        alias, header_alias, default_of_query, generator_dependency, synchronous_dependency, class_dependency, anew,
        scoped, unannotated, same_name_twice,
    )),
    (embedded, {"body": {"name": "1234567"}}, {}),
    (two_bodies, {"body": {"name": "123"}, "other": {"name": "4567"}}, {}),
    (a_row, {"id": 7, "name": "a"}, {}),
    (a_list, [7], {}),
    (a_mapping, {"a": 7}, {}),
    (a_number, 7, {}),
    (perhaps_a_body, {"name": "a"}, {}),
    (seven, None, {"response_model": int | str}),
    (text_seven, None, {"response_class": Plain}),
    (seven, None, {"response_model_exclude_unset": True}),
]  # fmt: skip
