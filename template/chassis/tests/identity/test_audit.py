"""The audit trail, and what operators type: rotation of keys, accounts that are disabled, a trail that is verified."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest

from chassis.app import Service
from chassis.identity.commands import broken
from chassis.identity.passwords import Cost, Passwords
from chassis.testing import TestDatabase

from .conftest import PASSWORD, Mailbox, Person, eventually, sign_in

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
    "rewritten with its hash and the link to it": """
        with forged as (
            update chassis.audit a set event = 'nothing', hash = chassis.audit_hash(row(
                a.tenant_id, a.position, a.at, a.actor, 'nothing', a.subject, a.details, a.request_id, a.previous_hash,
                a.hash
            )::chassis.audit)
            where position = 3
            returning hash
        )
        update chassis.audit set previous_hash = forged.hash from forged where position = 4
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
    first = 4 if change.startswith(("deleted", "rewritten")) else 3
    assert str(ann.tenant_id) in found
    assert f"position {first}" in found
    assert str(bob.tenant_id) not in found


Chassis = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]


@pytest.fixture
def chassis(environment: dict[str, str]) -> Chassis:
    """`await chassis("keys", "rotate")` runs the command on the test's database."""

    async def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "chassis.cli", *arguments]
        return await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


async def test_a_disabled_account_is_out_in_seconds_until_it_is_enabled(
    quick_watch: None, join: Join, client: httpx.AsyncClient, chassis: Chassis, sql: Sql
):
    ann, bob = await join("ann@example.com"), await join("bob@example.com")
    done = await chassis("accounts", "disable", "ANN@example.com")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Disabled. 1 sessions have ended")

    async def dead() -> bool:
        return (await ann.call("GET", "/tenants/members")).status_code == 401

    await eventually(dead, 5)
    refreshed = await client.post("/v1/auth/refresh", json={"refresh_token": ann.tokens["refresh_token"]})
    assert refreshed.status_code == 401
    credentials = {"email": "ann@example.com", "password": PASSWORD}
    assert (await client.post("/v1/auth/signin", json=credentials)).status_code == 401
    assert (await bob.call("GET", "/tenants/members")).status_code == 200
    assert sql("select event, actor from chassis.audit order by at desc limit 1") == [("authn_login_lock", None)]

    assert (await chassis("accounts", "enable", "ann@example.com")).stdout == "Enabled.\n"
    await sign_in(client, "ann@example.com")


async def test_an_unknown_address_is_one_clear_line(chassis: Chassis):
    done = await chassis("accounts", "disable", "nobody@example.com")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "chassis: there is no account with this address\n"


async def test_accounts_for_the_smoke_test_are_made_once_and_take_nobody_s(
    join: Join, client: httpx.AsyncClient, chassis: Chassis, sql: Sql, environment: dict[str, str]
):
    environment |= {"APP_SMOKE_EMAILS": "smoke-a@example.com,smoke-b@example.com", "APP_SMOKE_PASSWORD": PASSWORD}
    for said in ("can sign in from now on", "is there already"):
        done = await chassis("accounts", "smoke")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"account 1 of 2 {said}.\naccount 2 of 2 {said}.\n"
    verified = "select count(*), count(verified_at), count(distinct tenant_id) from chassis.accounts"
    assert sql(f"{verified} join chassis.memberships on account_id = id") == [(2, 2, 2)]
    assert sql("select count(*) from chassis.one_time_tokens where used_at is null") == [(0,)]
    await sign_in(client, "smoke-a@example.com")

    await join("ann@example.com")
    before = sql("select * from chassis.accounts order by id")
    for change in (
        "disabled_at = now()",
        "disabled_at = null, verified_at = null",
        "verified_at = now(), password_hash = left(password_hash, -4) || 'AAAA'",
    ):
        environment["APP_SMOKE_EMAILS"] = "smoke-c@example.com,smoke-b@example.com"
        sql(f"update chassis.accounts set {change} where email_canonical = 'smoke-b@example.com'")
        touched = sql("select * from chassis.accounts where email_canonical = 'smoke-b@example.com'")
        done = await chassis("accounts", "smoke")
        assert done.returncode == 1
        assert "chassis: account 2 of 2 is somebody's already" in done.stderr
        assert "@" not in done.stdout + done.stderr
        assert sql("select * from chassis.accounts where email_canonical = 'smoke-b@example.com'") == touched
    assert len(sql("select * from chassis.accounts")) == len(before) + 1


async def test_accounts_for_the_smoke_test_have_to_be_named(chassis: Chassis):
    done = await chassis("accounts", "smoke")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("chassis: APP_SMOKE_EMAILS and APP_SMOKE_PASSWORD are required")


async def test_accounts_for_the_smoke_test_have_no_guessable_password(
    chassis: Chassis, sql: Sql, environment: dict[str, str]
):
    environment |= {"APP_SMOKE_EMAILS": "smoke-a@example.com,smoke-b@example.com"}
    environment |= {"APP_SMOKE_PASSWORD": "passwordpassword"}
    done = await chassis("accounts", "smoke")
    assert done.returncode == 1
    assert sql("select count(*) from chassis.accounts") == [(0,)]


async def test_keys_rotate_by_command(chassis: Chassis, sql: Sql):
    for count in (1, 2):
        done = await chassis("keys", "rotate")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("0 that no token needs any more deleted.\n")
        assert sql("select count(*) from chassis.signing_keys") == [(count,)]


async def test_a_trail_that_was_touched_fails_and_is_named(join: Join, chassis: Chassis, sql: Sql):
    ann, _ = await join(), await join()
    good = await chassis("audit", "verify")
    assert (good.returncode, good.stdout) == (0, "4 rows of 2 tenants are as they were recorded.\n"), good.stderr
    sql("update chassis.audit set actor = null where tenant_id = %s and position = 1", ann.tenant_id)
    bad = await chassis("audit", "verify")
    assert bad.returncode == 1
    assert f"tenant {ann.tenant_id}: the row at position 1" in bad.stdout
    assert bad.stderr == "chassis: the audit trail was touched in 1 tenants\n"


@pytest.mark.parametrize(
    "meanwhile", ["disabled_at = now()", "password_hash = 'of another password'"], ids=["disabled", "new password"]
)
async def test_whoever_signs_in_while_the_account_changes_does_not_get_in(
    app: Service, join: Join, client: httpx.AsyncClient, sql: Sql, monkeypatch: pytest.MonkeyPatch, meanwhile: str
):
    ann = await join()
    matches = app.identity.passwords.matches

    async def slowly(password: str, hashed: str | None) -> bool:
        good = await matches(password, hashed)
        sql(f"update chassis.accounts set {meanwhile}")
        return good

    monkeypatch.setattr(app.identity.passwords, "matches", slowly)
    answer = await client.post("/v1/auth/signin", json={"email": ann.email, "password": PASSWORD})
    assert answer.status_code == 401


async def test_of_two_who_change_a_password_at_once_one_is_told(
    app: Service, join: Join, sql: Sql, monkeypatch: pytest.MonkeyPatch
):
    ann = await join()
    hashing = app.identity.passwords.hash

    async def slowly(password: str) -> str:
        hashed = await hashing(password)
        sql("update chassis.accounts set password_hash = 'of another password'")
        return hashed

    monkeypatch.setattr(app.identity.passwords, "hash", slowly)
    body = {"current_password": PASSWORD, "new_password": "seven quiet garden rakes"}
    answer = await ann.call("POST", "/auth/password/change", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "contended")


async def test_a_disabled_account_gets_no_link_and_an_older_one_lets_nobody_in(join: Join, mailbox: Mailbox, sql: Sql):
    ann = await join()
    forgotten = {"email": ann.email}
    await ann.client.post("/v1/auth/password/forgot", json=forgotten)
    token = await mailbox.token(ann.email)
    sql("update chassis.accounts set disabled_at = now()")
    reset = {"token": token, "password": "seven quiet garden rakes"}
    assert (await ann.client.post("/v1/auth/password/reset", json=reset)).status_code == 400
    before = len(await mailbox.to(ann.email))
    assert (await ann.client.post("/v1/auth/password/forgot", json=forgotten)).status_code == 202
    assert len(await mailbox.to(ann.email)) == before


async def test_a_disabled_account_refreshes_no_session_that_was_left(join: Join, sql: Sql):
    ann = await join()
    sql("update chassis.accounts set disabled_at = now()")
    refreshed = await ann.client.post("/v1/auth/refresh", json={"refresh_token": ann.tokens["refresh_token"]})
    assert refreshed.status_code == 401


async def test_whoever_signs_in_while_the_role_changes_gets_the_new_one(
    join: Join, client: httpx.AsyncClient, database: TestDatabase
):
    ann = await join()
    with psycopg.connect(database.superuser) as connection:
        connection.execute("update chassis.memberships set role = 'viewer'")
        signing_in = asyncio.create_task(sign_in(client, ann.email))
        done, _ = await asyncio.wait({signing_in}, timeout=0.5)
        assert not done, "it waits for what is under way"
    again = await signing_in
    (tenant,) = (await again.call("GET", "/tenants")).json()["items"]
    assert tenant["role"] == "viewer"
    assert (await again.call("PATCH", "/tenants/current", json={"name": "Mine"})).status_code == 403


async def test_a_hash_that_is_renewed_does_not_bring_an_old_password_back(
    app: Service, join: Join, mailbox: Mailbox, sql: Sql, monkeypatch: pytest.MonkeyPatch
):
    ann = await join()
    app.identity.passwords = Passwords(Cost(memory_kib=16, passes=1))
    hashing = app.identity.passwords.hash

    async def slowly(password: str) -> str:
        hashed = await hashing(password)
        sql("update chassis.accounts set password_hash = 'of another password'")
        return hashed

    monkeypatch.setattr(app.identity.passwords, "hash", slowly)
    await sign_in(ann.client, ann.email)
    await mailbox.to(ann.email)
    assert sql("select password_hash from chassis.accounts") == [("of another password",)]
