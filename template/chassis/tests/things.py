"""A small service of our own: the tests of the chassis stay green when a service deletes the example modules.

The queries are not declared with `query`, so that they are none of the real service's.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import httpx
from fastapi import APIRouter

from chassis import (
    ExpectedVersion,
    Idempotent,
    Input,
    Module,
    Page,
    PageRequest,
    Principal,
    Problem,
    Settings,
    Transaction,
    Versioned,
    changed,
    create_app,
    may,
    not_found,
)
from chassis.data.queries import Query
from chassis.data.tenancy import tenant_table

Client = httpx.AsyncClient
Serving = Callable[..., AbstractAsyncContextManager[Client]]
Sql = Callable[..., list[tuple[Any, ...]]]
AsPrincipal = Callable[..., dict[str, str]]
"""What the fixtures `serving`, `sql` and `as_principal` are."""

TABLE = f"""
    create table things (
        tenant_id uuid not null,
        id uuid not null default uuidv7(),
        name text not null,
        version integer not null default 1,
        created_at timestamptz not null default now(),
        primary key (tenant_id, id),
        unique (tenant_id, name)
    );
    create index things_by_time on things (tenant_id, created_at desc, id desc);
    {tenant_table("things")}
"""


@dataclass(frozen=True, slots=True)
class Thing(Versioned):
    id: UUID
    name: str
    version: int
    created_at: datetime


class NewThing(Input):
    name: str


ADD = Query("things.add", Thing, "insert into things (tenant_id, name) values ($1, $2) returning {row}", None)
LOCK = Query("things.lock", Thing, "select {row} from things where tenant_id = $1 and id = $2 for update", None)
RENAME = Query(
    "things.rename",
    Thing,
    "update things set name = $3, version = version + 1 where tenant_id = $1 and id = $2 returning {row}",
    None,
)
PAGE = Query(
    "things.page",
    Thing,
    "select {row} from things where (created_at, id) < ($1, $2) order by created_at desc, id desc limit $3",
    None,
)
NAMES = Query("things.names", str, "select name from things order by name", None)
SLEEP = Query("things.sleep", str, "select pg_sleep($1)::text", None)

Somebody = Annotated[Principal, may("things:use")]

router = APIRouter()


@router.post("/things", status_code=201)
async def add(body: NewThing, who: Somebody, db: Transaction, once: Idempotent) -> Thing:
    try:
        return await db.one(ADD, db.tenant_id, body.name)
    except asyncpg.UniqueViolationError:
        raise Problem(409, "name_taken", "There is a thing of this name.") from None


@router.post("/other-things", status_code=201)
async def add_other(body: NewThing, who: Somebody, db: Transaction, once: Idempotent) -> Thing:
    return await db.one(ADD, db.tenant_id, body.name)


@router.get("/things")
async def page_of_things(who: Somebody, db: Transaction, page: PageRequest) -> Page[Thing]:
    return page.page(await db.all(PAGE, *page.before(), page.fetch))


@router.get("/other-things")
async def page_of_others(who: Somebody, db: Transaction, page: PageRequest) -> Page[Thing]:
    return page.page(await db.all(PAGE, *page.before(), page.fetch))


@router.patch("/things/{thing_id}")
async def rename(thing_id: UUID, body: NewThing, who: Somebody, db: Transaction, expected: ExpectedVersion) -> Thing:
    thing = await db.first(LOCK, db.tenant_id, thing_id)
    if thing is None:
        raise not_found()
    if thing.version != expected:
        raise changed()
    return await db.one(RENAME, db.tenant_id, thing_id, body.name)


PERMISSIONS: dict[str, Any] = {"things:use": ("owner", "member")}

app = create_app(Settings, [Module(name="things", router=router, permissions=PERMISSIONS)])
"""What `chassis serve` serves where a test says so."""


def client_of(app: Any, headers: dict[str, str]) -> Client:
    """A client of an ASGI application in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost/v1", headers=headers)
