"""Tenants, members, roles and invitations: who may change whom, and that one owner always stays."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest

from chassis.testing import TestDatabase

from .conftest import PASSWORD, Mailbox, Person, person_of

pytestmark = pytest.mark.anyio

Join = Callable[..., Awaitable[Person]]
Sql = Callable[..., list[tuple[Any, ...]]]
Member = Callable[..., Awaitable[Person]]


@pytest.fixture
async def owner(join: Join) -> Person:
    return await join("owner@example.com")


@pytest.fixture
def member(join: Join, owner: Person, sql: Sql) -> Member:
    """`await member("admin")`: somebody who is signed in to the owner's tenant in that role."""

    async def make(role: str) -> Person:
        person = await join()
        sql(
            "insert into chassis.memberships (tenant_id, account_id, role) values (%s, %s, %s)",
            owner.tenant_id, person.id, role,
        )  # fmt: skip
        return await switch(person, owner)

    return make


async def switch(person: Person, to: Person) -> Person:
    body = {"refresh_token": person.tokens["refresh_token"], "tenant_id": str(to.tenant_id)}
    answer = await person.client.post("/v1/auth/switch", json=body)
    assert answer.status_code == 200, answer.text
    return person_of(person.client, person.email, answer.json())


async def test_members_see_each_other_and_nobody_else(owner: Person, member: Member, join: Join):
    viewer = await member("viewer")
    await join("stranger@example.com")
    listed = (await viewer.call("GET", "/tenants/members")).json()["items"]
    assert {(one["email"], one["role"]) for one in listed} == {(viewer.email, "viewer"), (owner.email, "owner")}


async def test_a_tenant_is_renamed_by_those_who_may(owner: Person, member: Member):
    viewer = await member("viewer")
    assert (await viewer.call("PATCH", "/tenants/current", json={"name": "Mine"})).status_code == 403
    renamed = await owner.call("PATCH", "/tenants/current", json={"name": "The shop"})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "The shop")
    names = {one["name"] for one in (await viewer.call("GET", "/tenants")).json()["items"]}
    assert names == {"Personal", "The shop"}


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101, "\u202eevil"])
async def test_a_name_is_one_line(owner: Person, name: str):
    assert (await owner.call("PATCH", "/tenants/current", json={"name": name})).status_code == 422


async def test_the_last_owner_stays(owner: Person, member: Member):
    for answer in (
        await owner.call("PATCH", f"/tenants/members/{owner.id}", json={"role": "member"}),
        await owner.call("DELETE", f"/tenants/members/{owner.id}"),
        await owner.call("POST", "/tenants/leave"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "last_owner")
    second = await member("owner")
    assert (await owner.call("POST", "/tenants/leave")).status_code == 204
    assert (await owner.call("GET", "/tenants/members")).status_code == 401
    assert (await second.call("POST", "/tenants/leave")).json()["code"] == "last_owner"


async def test_two_owners_cannot_remove_each_other_at_once(owner: Person, member: Member, sql: Sql):
    second = await member("owner")
    answers = await asyncio.gather(
        owner.call("DELETE", f"/tenants/members/{second.id}"), second.call("DELETE", f"/tenants/members/{owner.id}")
    )
    assert 204 in [answer.status_code for answer in answers]
    owners = sql("select count(*) from chassis.memberships where tenant_id = %s and role = 'owner'", owner.tenant_id)
    assert owners == [(1,)]


async def test_an_owner_cannot_leave_while_the_other_one_is_being_unmade(
    owner: Person, member: Member, database: TestDatabase
):
    second = await member("owner")
    with psycopg.connect(database.superuser) as connection:
        connection.execute("update chassis.memberships set role = 'member' where account_id = %s", [second.id])
        leaving = asyncio.create_task(owner.call("POST", "/tenants/leave"))
        done, _ = await asyncio.wait({leaving}, timeout=0.5)
        assert not done, "it waits for what is under way"
    assert (await leaving).json()["code"] == "last_owner"


async def test_an_admin_neither_makes_nor_unmakes_owners(owner: Person, member: Member):
    admin, other = await member("admin"), await member("member")
    for answer in (
        await admin.call("PATCH", f"/tenants/members/{admin.id}", json={"role": "owner"}),
        await admin.call("PATCH", f"/tenants/members/{other.id}", json={"role": "owner"}),
        await admin.call("PATCH", f"/tenants/members/{owner.id}", json={"role": "viewer"}),
        await admin.call("DELETE", f"/tenants/members/{owner.id}"),
        await admin.call("POST", "/tenants/invitations", json={"email": "a@example.com", "role": "owner"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "owner_required")
    assert (await admin.call("PATCH", f"/tenants/members/{other.id}", json={"role": "viewer"})).status_code == 200


async def test_a_new_role_ends_the_sessions_that_say_the_old_one(owner: Person, member: Member):
    person = await member("admin")
    changed = await owner.call("PATCH", f"/tenants/members/{person.id}", json={"role": "viewer"})
    assert changed.json()["role"] == "viewer"
    assert (await person.call("GET", "/tenants/members")).status_code == 401
    refreshed = await person.client.post("/v1/auth/refresh", json={"refresh_token": person.tokens["refresh_token"]})
    assert refreshed.status_code == 401


async def test_members_of_other_tenants_are_unknown(owner: Person, join: Join):
    stranger = await join()
    for method, body in (("PATCH", {"role": "viewer"}), ("DELETE", None)):
        answer = await stranger.call(method, f"/tenants/members/{owner.id}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_whoever_is_removed_from_everywhere_gets_a_tenant_of_their_own_again(
    owner: Person, client: httpx.AsyncClient, sql: Sql
):
    sql("delete from chassis.memberships where account_id = %s", owner.id)
    again = await client.post("/v1/auth/signin", json={"email": owner.email, "password": PASSWORD})
    person = person_of(client, owner.email, again.json())
    assert person.tenant_id != owner.tenant_id
    assert (await person.call("GET", "/tenants/members")).status_code == 200


async def test_an_invitation_is_accepted_once_by_whom_it_was_sent_to(
    owner: Person, join: Join, mailbox: Mailbox, sql: Sql
):
    bob, eve = await join("bob@example.com"), await join("eve@example.com")
    invited = await owner.call("POST", "/tenants/invitations", json={"email": "BOB@example.com", "role": "viewer"})
    assert invited.status_code == 201
    assert "token" not in invited.text
    (pending,) = (await owner.call("GET", "/tenants/invitations")).json()["items"]
    assert (pending["email"], pending["role"]) == ("bob@example.com", "viewer")
    token = await mailbox.token("BOB@example.com")

    others = await eve.call("POST", "/auth/invitations/accept", json={"token": token})
    assert (others.status_code, others.json()["code"]) == (403, "invitation_for_another")
    accepted = await bob.call("POST", "/auth/invitations/accept", json={"token": token})
    assert accepted.json() == {"tenant_id": str(owner.tenant_id), "role": "viewer"}
    again = await bob.call("POST", "/auth/invitations/accept", json={"token": token})
    assert (again.status_code, again.json()["code"]) == (400, "token_refused")
    assert (await owner.call("GET", "/tenants/invitations")).json()["items"] == []

    there = await switch(bob, owner)
    assert (await there.call("GET", "/tenants/members")).status_code == 200
    assert (await there.call("POST", "/tenants/invitations", json={})).status_code == 403


async def test_an_invitation_does_not_change_a_member(owner: Person, member: Member, mailbox: Mailbox, sql: Sql):
    viewer = await member("viewer")
    await owner.call("POST", "/tenants/invitations", json={"email": viewer.email, "role": "admin"})
    token = await mailbox.token(viewer.email)
    accepted = await viewer.call("POST", "/auth/invitations/accept", json={"token": token})
    assert accepted.json()["role"] == "viewer"
    assert sql(
        "select role from chassis.memberships where account_id = %s and tenant_id = %s", viewer.id, owner.tenant_id
    ) == [("viewer",)]


@pytest.mark.parametrize("ending", ["withdrawn", "expired"])
async def test_an_invitation_ends(owner: Person, join: Join, mailbox: Mailbox, sql: Sql, ending: str):
    bob = await join("bob@example.com")
    invited = await owner.call("POST", "/tenants/invitations", json={"email": bob.email})
    if ending == "withdrawn":
        path = f"/tenants/invitations/{invited.json()['id']}"
        assert (await bob.call("DELETE", path)).status_code == 404
        assert (await owner.call("DELETE", path)).status_code == 204
    else:
        sql("update chassis.invitations set expires_at = now() - interval '1 second'")
    accepted = await bob.call("POST", "/auth/invitations/accept", json={"token": await mailbox.token(bob.email)})
    assert accepted.status_code == 400


async def test_a_link_of_another_kind_is_no_invitation(join: Join, mailbox: Mailbox):
    ann = await join()
    answer = await ann.call("POST", "/auth/invitations/accept", json={"token": await mailbox.token(ann.email)})
    assert answer.status_code == 400


async def have_everything(person: Person) -> None:
    """An API key and an invitation, beside what everybody has."""
    for path, body in (
        ("/api-keys", {"name": "ci", "scopes": ["members:read"]}),
        ("/tenants/invitations", {"email": "carl@example.com"}),
    ):
        assert (await person.call("POST", path, json=body)).status_code == 201


@pytest.mark.parametrize("secret", ["nothing", "an account", "a lookup"])
async def test_raw_sql_as_the_app_role_sees_nothing_of_others(owner: Person, join: Join, app: Any, secret: str):
    from chassis.data.queries import Query

    await have_everything(owner)
    stranger = await join()
    settings: dict[str, Any] = {
        "nothing": {},
        "an account": {"account_id": stranger.id},
        "a lookup": {"lookup": b"somebody@example.com"},
    }[secret]
    async with app.database.unit_of_work(None, **settings) as db:
        for table in (
            "accounts",
            "tenants",
            "memberships",
            "sessions",
            "one_time_tokens",
            "invitations",
            "api_keys",
            "audit",
        ):
            rows = await db.all(Query("test", str, f"select t::text from chassis.{table} t", None))
            assert not any(str(owner.id) in row or owner.email in row or str(owner.tenant_id) in row for row in rows), (
                table
            )
        if secret == "nothing":
            assert rows == []


@pytest.mark.parametrize(
    "write",
    [
        "insert into chassis.accounts (email, email_canonical, password_hash) values ('eve', 'eve', 'x')",
        "insert into chassis.tenants (name) values ('x')",
        "insert into chassis.memberships (tenant_id, account_id, role) values ('{tenant}', '{me}', 'owner')",
        (
            "insert into chassis.sessions (account_id, tenant_id, token_hash, expires_at)"
            " values ('{account}', '{tenant}', 'x', now())"
        ),
        (
            "insert into chassis.one_time_tokens (token_hash, purpose, account_id, expires_at)"
            " values ('x', 'reset', '{account}', now())"
        ),
        (
            "insert into chassis.invitations (tenant_id, token_hash, email_canonical, role, invited_by, expires_at)"
            " values ('{tenant}', 'x', 'eve', 'owner', '{me}', now())"
        ),
        (
            "insert into chassis.api_keys (tenant_id, name, prefix, key_hash, scopes, created_by, expires_at)"
            " values ('{tenant}', 'x', 'x', 'x', '{{}}', '{me}', now())"
        ),
        "delete from chassis.accounts",
        "delete from chassis.tenants",
        "delete from chassis.sessions",
        "delete from chassis.one_time_tokens",
        "delete from chassis.api_keys",
        "update chassis.revocations set revoked_at = now()",
        "update chassis.signing_keys set signs_from = now()",
    ],
)
async def test_raw_sql_as_the_app_role_writes_nothing_for_others(
    owner: Person, join: Join, database: TestDatabase, write: str
):
    stranger = await join()
    with psycopg.connect(database.app) as app:
        act_as(app, stranger)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(write.format(tenant=owner.tenant_id, account=owner.id, me=stranger.id).encode())


async def test_raw_sql_as_the_app_role_changes_nothing_of_what_it_may_see(
    owner: Person, member: Member, database: TestDatabase, sql: Sql
):
    """A colleague's account is to be seen, and so are one's memberships and tenants beside the one that is acted in."""
    colleague = await member("viewer")
    with psycopg.connect(database.app) as app:
        act_as(app, owner)
        assert app.execute("update chassis.accounts set password_hash = 'x'").rowcount == 1
    (home,) = sql("select tenant_id from chassis.memberships where account_id = %s and role = 'owner'", colleague.id)
    with psycopg.connect(database.app) as app:
        act_as(app, Person(owner.client, "", {}, colleague.id, *home))
        assert app.execute("select count(*) from chassis.memberships").fetchone() == (2,)
        assert app.execute("update chassis.memberships set role = 'owner'").rowcount == 1
        assert app.execute("update chassis.tenants set name = 'x'").rowcount == 1


def act_as(connection: "psycopg.Connection[Any]", person: Person) -> None:
    for name, value in (("app.tenant_id", person.tenant_id), ("app.account_id", person.id)):
        connection.execute("select set_config(%s, %s, false)", [name, str(value)])


async def test_a_role_that_was_taken_away_hands_on_nothing(owner: Person, member: Member, replica: httpx.AsyncClient):
    bad = await member("owner")
    invited = {"email": "second@example.com", "role": "owner"}
    assert (await bad.call("POST", "/tenants/invitations", json=invited)).status_code == 201
    assert (await owner.call("PATCH", f"/tenants/members/{bad.id}", json={"role": "viewer"})).status_code == 200
    assert (await owner.call("GET", "/tenants/invitations")).json()["items"] == []

    bad.client = replica
    assert (await bad.call("GET", "/tenants/members")).status_code == 200, "this replica has not heard of it yet"
    mine = await bad.call("PATCH", f"/tenants/members/{bad.id}", json={"role": "owner"})
    key = await bad.call("POST", "/api-keys", json={"name": "ci", "scopes": ["members:read"]})
    again = await bad.call("POST", "/tenants/invitations", json={**invited, "email": "third@example.com"})
    assert [answer.status_code for answer in (mine, key, again)] == [401, 401, 401]
