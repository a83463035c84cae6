"""What operators type: disabling, enabling, rotating keys, verifying; and what happens while somebody signs in."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest

from chassis.app import Service
from chassis.identity.passwords import Cost, Passwords
from chassis.testing import TestDatabase

from .conftest import PASSWORD, Mailbox, Person, eventually, sign_in

pytestmark = pytest.mark.anyio

Join = Callable[..., Awaitable[Person]]
Sql = Callable[..., list[tuple[Any, ...]]]
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
