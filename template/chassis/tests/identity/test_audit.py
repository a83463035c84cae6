"""The audit trail: what is in it, that nobody changes it, and that whoever does is found out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from chassis.identity.commands import broken
from chassis.testing import TestDatabase

from .conftest import PASSWORD, Mailbox, Person, sign_in

pytestmark = pytest.mark.anyio

Join = Callable[..., Awaitable[Person]]
Sql = Callable[..., list[tuple[Any, ...]]]


async def events(person: Person) -> list[str]:
    return [entry["event"] for entry in (await person.call("GET", "/audit?limit=100")).json()["items"]]


async def test_what_changes_something_is_recorded_in_its_tenant_alone(join: Join, mailbox: Mailbox):
    ann, bob = await join(), await join()
    key = (await ann.call("POST", "/api-keys", json={"name": "ci", "scopes": ["members:read"]})).json()
    await ann.call("DELETE", f"/api-keys/{key['id']}")
    change = {"current_password": PASSWORD, "new_password": "seven quiet garden rakes"}
    await ann.call("POST", "/auth/password/change", json=change)
    await ann.call("POST", "/tenants/invitations", json={"email": bob.email})
    recorded = (await ann.call("GET", "/audit")).json()["items"]
    assert [entry["event"] for entry in recorded] == [
        "authz_admin",
        "authn_password_change",
        "authn_token_revoked",
        "authn_token_created",
        "authn_login_success",
        "user_created",
    ]
    assert [entry["position"] for entry in recorded] == [6, 5, 4, 3, 2, 1]
    assert {entry["actor"] for entry in recorded} == {str(ann.id)}
    assert recorded[2]["subject"] == key["id"]
    assert recorded[0]["request_id"]
    assert await events(bob) == ["authn_login_success", "user_created"]


async def test_each_change_of_rights_and_proofs_says_who_did_what_to_whom(join: Join, mailbox: Mailbox, sql: Sql):
    owner, bob = await join("owner@example.com"), await join("bob@example.com")

    async def do(who: Person, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = await who.call(method, path, json=body or None)
        assert answer.is_success, (path, answer.text)
        return answer.json() if answer.content else {}

    await do(owner, "POST", "/auth/verify", token=await mailbox.token(owner.email))
    await do(owner, "PATCH", "/tenants/current", name="The shop")
    invited = await do(owner, "POST", "/tenants/invitations", email=bob.email, role="viewer")
    await do(bob, "POST", "/auth/invitations/accept", token=await mailbox.token(bob.email))
    await do(owner, "PATCH", f"/tenants/members/{bob.id}", role="admin")
    await do(owner, "DELETE", f"/tenants/members/{bob.id}")
    other = await do(owner, "POST", "/tenants/invitations", email="carl@example.com")
    await do(owner, "DELETE", f"/tenants/invitations/{other['id']}")
    sessions = [session for (session,) in sql("select id from chassis.sessions where account_id = %s", owner.id)]
    phone, tablet = await sign_in(owner.client, owner.email), await sign_in(owner.client, owner.email)
    await do(phone, "DELETE", f"/auth/sessions/{sessions[0]}")
    await do(phone, "POST", "/auth/signout")
    await do(tablet, "DELETE", "/auth/sessions")
    await do(tablet, "POST", "/auth/password/forgot", email=owner.email)
    await do(
        owner,
        "POST",
        "/auth/password/reset",
        token=await mailbox.token(owner.email),
        password="seven quiet garden rakes",
    )

    trail = (
        "select event, actor, subject, details, request_id from chassis.audit where tenant_id = %s order by position"
    )
    recorded = sql(trail, owner.tenant_id)
    assert all(request_id for *_, request_id in recorded)
    assert {actor for _, actor, *_ in recorded} == {owner.id, bob.id}
    me, them = str(owner.id), str(bob.id)
    assert [(event, subject, details) for event, _, subject, details, _ in recorded[2:]] == [
        ("user_updated", me, {"change": "verified"}),
        ("authz_admin", str(owner.tenant_id), {"change": "tenant renamed"}),
        ("authz_admin", invited["id"], {"change": "invited", "role": "viewer"}),
        ("privilege_permissions_changed", them, {"before": None, "after": "viewer"}),
        ("privilege_permissions_changed", them, {"before": "viewer", "after": "admin"}),
        ("privilege_permissions_changed", them, {"before": "admin", "after": None}),
        ("authz_admin", other["id"], {"change": "invited", "role": "member"}),
        ("authz_admin", other["id"], {"change": "invitation withdrawn"}),
        ("authn_login_success", me, {}),
        ("authn_login_success", me, {}),
        ("authn_token_revoked", str(sessions[0]), {}),
        ("authn_token_revoked", recorded[13][2], {"how": "signed out"}),
        ("authn_token_revoked", me, {"sessions": 1}),
        ("authn_password_change", me, {"how": "reset"}),
    ]


async def test_it_is_read_in_pages_and_only_by_those_who_may(join: Join, as_principal: Callable[..., dict[str, str]]):
    ann = await join()
    first = (await ann.call("GET", "/audit?limit=1")).json()
    second = (await ann.call("GET", f"/audit?limit=1&cursor={first['next']}")).json()
    assert [first["items"][0]["position"], second["items"][0]["position"], second["next"]] == [2, 1, None]
    answer = await ann.client.get("/v1/audit", headers=as_principal("member"))
    assert answer.status_code == 403


async def test_neither_the_trail_nor_the_log_holds_addresses_or_tokens(
    join: Join, sql: Sql, mailbox: Mailbox, logged: Callable[[], str]
):
    ann = await join("ann@example.com")
    await ann.client.post("/v1/auth/signin", json={"email": ann.email, "password": "not the right one"})
    await ann.client.post("/v1/auth/signin", json={"email": "nobody@example.com", "password": PASSWORD})
    token = await mailbox.token(ann.email)
    await ann.client.post("/v1/auth/verify", json={"token": token})
    used = ann.tokens["refresh_token"]
    for _ in range(2):
        await ann.client.post("/v1/auth/refresh", json={"refresh_token": used})
    log = logged()
    said = log + "".join(row for (row,) in sql("select a::text from chassis.audit a"))
    for event in ("user_created", "authn_login_success", "authn_login_fail", "authn_token_reuse"):
        assert f'"event":"{event}"' in log
    for secret in ("ann@example.com", "nobody@example.com", PASSWORD, token, used, ann.tokens["access_token"]):
        assert secret not in said


@pytest.mark.parametrize(
    "verb", ["update {} set event = 'x'", "delete from {}", "truncate {}", "drop trigger audit_chain on {}"]
)
async def test_the_service_itself_cannot_change_it(join: Join, database: TestDatabase, verb: str):
    ann = await join()
    with psycopg.connect(database.app) as app:
        app.execute(f"select set_config('app.tenant_id', '{ann.tenant_id}', false)".encode())
        assert app.execute("select count(*) from chassis.audit").fetchone() == (2,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(verb.format("chassis.audit").encode())


async def test_the_service_cannot_choose_what_the_chain_says(join: Join, database: TestDatabase, sql: Sql):
    ann = await join()
    with psycopg.connect(database.app) as app:
        app.execute(f"select set_config('app.tenant_id', '{ann.tenant_id}', false)".encode())
        app.execute(
            "insert into chassis.audit (tenant_id, position, at, event, previous_hash, hash)"
            f" values ('{ann.tenant_id}', 99, '2000-01-01', 'forged', 'x', 'y')".encode()
        )
    assert sql("select position, at > now() - interval '1 minute' from chassis.audit where event = 'forged'") == [
        (3, True)
    ]
    assert trail(database) == []


async def test_many_at_once_make_one_chain(join: Join, database: TestDatabase):
    ann = await join()
    await asyncio.gather(*(sign_in(ann.client, ann.email) for _ in range(8)))
    assert len(await events(ann)) == 10
    assert trail(database) == []


def trail(database: TestDatabase) -> list[str]:
    """What `chassis audit verify` would say."""
    with psycopg.connect(database.superuser) as connection:
        return broken(connection)


TAMPERED = {
    "event": "update chassis.audit set event = 'nothing' where position = 3",
    "actor": "update chassis.audit set actor = null where position = 3",
    "time": "update chassis.audit set at = at - interval '1 microsecond' where position = 3",
    "details": "update chassis.audit set details = '{}' where position = 3",
    "deleted": "delete from chassis.audit where position = 3",
    "rewritten with its hash": """
        update chassis.audit a set event = 'nothing', hash = chassis.audit_hash(row(
            a.tenant_id, a.position, a.at, a.actor, 'nothing', a.subject, a.details, a.request_id, a.previous_hash,
            a.hash
        )::chassis.audit)
        where position = 3
    """,
}


@pytest.mark.parametrize("change", TAMPERED)
async def test_the_first_row_that_was_touched_is_named(join: Join, database: TestDatabase, sql: Sql, change: str):
    ann, bob = await join(), await join()
    for _ in range(3):
        await ann.call("POST", "/api-keys", json={"name": "ci", "scopes": ["members:read"]})
    assert trail(database) == []
    sql(TAMPERED[change])
    (found,) = trail(database)
    first = 4 if change in {"deleted", "rewritten with its hash"} else 3
    assert str(ann.tenant_id) in found
    assert f"position {first}" in found
    assert str(bob.tenant_id) not in found
