"""Every route as everybody there is, and another tenant's things, which are like things that do not exist."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args
from uuid import UUID, uuid4, uuid5

import httpx
import psycopg
import pytest
from api_document import Document
from attacks import Attacks
from fastapi import APIRouter, Header
from pydantic import BaseModel
from things import NAMES, Somebody

from chassis import Input, Principal, Problem, Transaction, not_found
from chassis.app import Service
from chassis.cli import main
from chassis.identity.api_keys import FOR_PEOPLE
from chassis.identity.mail import Kept
from chassis.identity.module import REWRITE, permissions_page, permissions_path
from chassis.identity.tenants import Role
from chassis.testing import TestDatabase, started

pytestmark = pytest.mark.anyio


@pytest.fixture
def superuser(database: TestDatabase) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        yield connection


async def found(service: Service, attack: str, superuser: psycopg.Connection[Any], mail: Path) -> list[str]:
    """What an attack on all operations of a service got."""
    service.identity.post = Kept(lambda: mail, "chassis@example.com", show=False)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://localhost")
    async with started(service), client:
        attacks = Attacks(service, client, superuser)
        return await attacks.run(getattr(attacks, attack))


@pytest.mark.parametrize("attack", ["by_id", "by_reference", "by_cursor", "by_key", "by_token", "by_field"])
async def test_nobody_gets_at_another_tenant(
    attack: str, app: Service, superuser: psycopg.Connection[Any], tmp_path: Path
):
    sentences = await found(app, attack, superuser, tmp_path)
    assert not sentences, "\n".join(sentences)


def test_no_route_that_asks_for_a_permission_hides_from_the_attacks(app: Service):
    operations = Document(app).operations
    assert [one for one in app.access() if one.permissions and (one.method, one.path) not in operations] == []


# What no service should do with tenants. It does so in memory: the database would not let it.


class Drop(BaseModel):
    """No Input: what is unknown in it is let pass."""

    size: int


class NewLeak(BaseModel):
    name: str
    parent_id: UUID | None = None


class LeakChange(Input):
    drops: list[Drop]


class Leak(BaseModel):
    id: UUID
    name: str


class Leaks(BaseModel):
    items: list[Leak]
    next: str | None


leaks = APIRouter()
kept: dict[UUID, tuple[UUID, Leak]] = {}
answers: dict[str, Leak] = {}


def foreign(leak_id: UUID | None, who: Principal) -> bool:
    """Whether it is another tenant's. Raises the 404 for what does not exist."""
    if leak_id is not None and leak_id not in kept:
        raise not_found()
    return leak_id is not None and kept[leak_id][0] != who.tenant_id


@leaks.post("/leaks", status_code=201)
async def add(body: NewLeak, who: Somebody, idempotency_key: Annotated[str, Header()]) -> Leak:
    if foreign(body.parent_id, who):
        raise Problem(409, "not_yours", "This is another tenant's.")
    leak = answers.setdefault(idempotency_key, Leak(id=uuid4(), name=body.name))
    kept[leak.id] = (who.tenant_id, leak)
    return leak


@leaks.get("/leaks")
async def page(who: Somebody, of: UUID | None = None, limit: int = 20, cursor: UUID | None = None) -> Leaks:
    if foreign(of, who):
        raise Problem(403, "not_yours", "This is another tenant's.")
    own = [leak for tenant_id, leak in kept.values() if tenant_id == who.tenant_id]
    return Leaks(items=own[:limit], next=str(own[0].id) if own and cursor is None else None)


@leaks.get("/leaks/all")
async def everything(who: Somebody) -> list[Leak]:
    return [leak for _, leak in kept.values()]


@leaks.get("/leaks/{leak_id}")
async def read(leak_id: UUID, who: Somebody) -> Leak:
    foreign(leak_id, who)
    return kept[leak_id][1]


@leaks.delete("/leaks/{leak_id}", status_code=204)
async def remove(leak_id: UUID, who: Somebody) -> None:
    if foreign(leak_id, who):
        raise Problem(403, "not_yours", "This is another tenant's.")


@leaks.patch("/leaks/{leak_id}", status_code=204)
async def change(leak_id: UUID, body: LeakChange, who: Somebody, db: Transaction) -> None:
    if foreign(leak_id, who):
        await db.all(NAMES)
        raise not_found()


@leaks.post("/ideas/{idea_id}", status_code=204)
async def no_collection(idea_id: UUID, who: Somebody) -> None:
    raise not_found()


FOUND = {
    "by_id": [
        "DELETE /v1/leaks/{leak_id}: a stranger gets 403 for what is the victim's, instead of 404",
        "GET /v1/leaks/{leak_id}: a stranger gets 200 for what is the victim's, instead of 404",
        "PATCH /v1/leaks/{leak_id}: a stranger can tell the victim's from what does not exist",
        "POST /v1/ideas/{idea_id}: the test has nothing to attack: there is neither POST nor GET /v1/ideas",
    ],
    "by_reference": [
        "GET /v1/leaks: a stranger can tell the victim's from what does not exist",
        "POST /v1/leaks: a stranger can tell the victim's from what does not exist",
    ],
    "by_cursor": ["GET /v1/leaks: a stranger gets 200 for the victim's cursor, instead of 400"],
    "by_key": ["POST /v1/leaks: a stranger is shown the victim's"],
    "by_token": ["GET /v1/leaks/all: a stranger is shown the victim's"],
    "by_field": ["POST /v1/leaks: the victim sends", "PATCH /v1/leaks/{leak_id}: the victim sends"],
}


@pytest.mark.parametrize("attack", FOUND)
async def test_what_leaks_is_found_out(
    attack: str, service_of: Callable[..., Service], superuser: psycopg.Connection[Any], tmp_path: Path
):
    sentences = await found(service_of(leaks), attack, superuser, tmp_path)
    missed = [one for one in FOUND[attack] if not any(sentence.startswith(one) for sentence in sentences)]
    elsewhere = [one for one in sentences if "/leaks" not in one and "/ideas" not in one]
    assert (missed, elsewhere) == ([], [])


MEMBER = """
    with account as (
        insert into chassis.accounts (id, email, email_canonical, password_hash)
        values (%(id)s, %(email)s, %(email)s, '') on conflict do nothing
    )
    insert into chassis.memberships (tenant_id, account_id, role) values (%(tenant)s, %(id)s, %(role)s)
    on conflict do nothing
"""


class Caller(NamedTuple):
    """Somebody, and the permissions that they ought to have."""

    name: str
    headers: dict[str, str]
    permissions: frozenset[str]


def join_all(database: TestDatabase, tenant_id: UUID) -> None:
    """Make whoever `as_principal` means a member."""
    with psycopg.connect(database.superuser) as superuser:
        for role in get_args(Role):
            person = {"tenant": tenant_id, "id": uuid5(tenant_id, role), "role": role, "email": f"{role}@example.net"}
            superuser.execute(MEMBER.encode(), person)


@pytest.fixture
async def callers(
    client: httpx.AsyncClient,
    app: Service,
    database: TestDatabase,
    tenant_id: UUID,
    as_principal: Callable[..., dict[str, str]],
) -> list[Caller]:
    """Nobody, each role, an API key with all that a key may have, and for each of that one that has all the rest."""
    tables = [(name, roles) for module in app.modules for name, roles in module.permissions.items()]
    for_keys = frozenset(name for name, _ in tables) - FOR_PEOPLE
    with psycopg.connect(database.superuser) as superuser:
        superuser.execute("insert into chassis.tenants (id, name) values (%s, 'Matrix')", [tenant_id])
    join_all(database, tenant_id)

    async def key(name: str, scopes: frozenset[str]) -> Caller:
        body = {"name": "matrix", "scopes": sorted(scopes)}
        made = await client.post("/v1/api-keys", json=body, headers=as_principal("owner"))
        assert made.status_code == 201, made.text
        return Caller(name, {"Authorization": f"Bearer {made.json()['key']}"}, scopes)

    return [
        Caller("nobody", {}, frozenset()),
        *(
            Caller(role, as_principal(role), frozenset(name for name, roles in tables if role in roles))
            for role in get_args(Role)
        ),
        await key("an API key with all scopes", for_keys),
        *[await key(f"an API key without {scope}", for_keys - {scope}) for scope in sorted(for_keys)],
    ]


async def test_every_route_lets_in_whom_the_tables_say_and_nobody_else(
    client: httpx.AsyncClient, app: Service, callers: list[Caller], database: TestDatabase, tenant_id: UUID
):
    """The requests are empty and name nothing that exists: who is let in gets no further than that."""
    wrong: list[str] = []
    for method, path, permissions in app.access():
        join_all(database, tenant_id)  # again: one of the routes is to leave
        for caller in callers:
            answer = await client.request(
                method,
                re.sub("{[^}]*}", lambda _: str(uuid4()), path),
                json=None if method in {"GET", "DELETE"} else {},
                headers=caller.headers,
            )
            if permissions <= caller.permissions:
                good = answer.status_code not in {401, 403, 405, 429} and answer.status_code < 500
            else:
                good = answer.status_code == (403 if caller.headers else 401)
            if not good:
                wrong.append(f"{method} {path} answers {answer.status_code} to {caller.name}")
    assert not wrong, "\n".join(wrong)


def test_the_page_says_what_the_service_declares(app: Service):
    path = permissions_path()
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    assert kept.splitlines() == permissions_page(app).splitlines(), f"if that is right: .venv/bin/{REWRITE}"


def test_the_command_shows_the_page(app: Service, capsys: pytest.CaptureFixture[str]):
    assert main(["permissions"]) == 0
    assert capsys.readouterr().out == permissions_page(app)
