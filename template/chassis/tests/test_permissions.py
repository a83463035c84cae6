"""Every route of the service as everybody there is, over HTTP, held against the tables of the modules."""

import re
from collections.abc import Callable
from typing import NamedTuple, get_args
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from chassis.app import Service
from chassis.cli import main
from chassis.identity.api_keys import FOR_PEOPLE
from chassis.identity.module import REWRITE, permissions_page, permissions_path
from chassis.identity.tenants import Role
from chassis.testing import TestDatabase

pytestmark = pytest.mark.anyio


class Caller(NamedTuple):
    """Somebody, and the permissions that they ought to have."""

    name: str
    headers: dict[str, str]
    permissions: frozenset[str]


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
    client: httpx.AsyncClient, app: Service, callers: list[Caller]
):
    """The requests are empty and name nothing that exists: who is let in gets no further than that."""
    wrong: list[str] = []
    for method, path, permissions in app.access():
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
