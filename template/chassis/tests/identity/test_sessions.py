"""Refreshing, switching, signing out, and how soon a token is dead after what ended it."""

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chassis.app import Service
from chassis.identity import watch
from chassis.identity.watch import PERIOD_SECONDS, STALE_SECONDS

from .conftest import PASSWORD, QUICK_SECONDS, Mailbox, Person, eventually, person_of, sign_in

pytestmark = pytest.mark.anyio

Join = Callable[..., Awaitable[Person]]
Sql = Callable[..., list[tuple[Any, ...]]]


async def refresh(person: Person, token: str | None = None) -> httpx.Response:
    body = {"refresh_token": token or person.tokens["refresh_token"]}
    return await person.client.post("/v1/auth/refresh", json=body)


async def alive(person: Person) -> bool:
    return (await person.call("GET", "/tenants/members")).status_code == 200


async def test_a_refresh_token_brings_the_next_one(join: Join):
    ann = await join()
    first = ann.tokens["refresh_token"]
    answer = await refresh(ann)
    assert answer.status_code == 200
    ann.tokens = answer.json()
    assert ann.tokens["refresh_token"] != first
    assert await alive(ann)
    assert (await refresh(ann)).status_code == 200


async def test_no_table_holds_a_token(join: Join, sql: Sql, mailbox: Mailbox):
    ann = await join()
    tokens = [ann.tokens["refresh_token"], await mailbox.token(ann.email)]
    forbidden = [*tokens, *(urlsafe_b64decode(token)[16:32].hex() for token in tokens)]
    tables = sql("select table_name from information_schema.tables where table_schema = 'chassis'")
    stored = [row for (table,) in tables for (row,) in sql(f'select t::text from chassis."{table}" t')]
    assert len(stored) > 5
    assert not any(secret in row for secret in forbidden for row in stored)


async def test_reusing_a_refresh_token_ends_the_session_for_both(join: Join, sql: Sql):
    ann = await join()
    stolen = ann.tokens["refresh_token"]
    ann.tokens = (await refresh(ann)).json()
    assert (await refresh(ann, stolen)).status_code == 401
    assert (await refresh(ann)).status_code == 401
    assert not await alive(ann)
    assert sql("select event from chassis.audit order by position desc limit 1") == [("authn_token_reuse",)]


async def test_reuse_leaves_other_sessions_alone(join: Join, client: httpx.AsyncClient):
    ann = await join()
    elsewhere = await sign_in(client, ann.email)
    await refresh(ann)
    await refresh(ann)
    assert await alive(elsewhere)


async def test_fifty_uses_at_once_leave_at_most_one_family(join: Join, sql: Sql):
    ann = await join()
    answers = await asyncio.gather(*(refresh(ann) for _ in range(50)))
    winners = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(winners) == 1
    assert {answer.status_code for answer in answers} == {200, 401}
    assert sql("select count(*) from chassis.sessions where revoked_at is null") == [(0,)]
    assert not await alive(person_of(ann.client, ann.email, winners[0]))
    assert (await refresh(ann, winners[0]["refresh_token"])).status_code == 401


@pytest.mark.parametrize(
    "aged",
    ["used_at = now() - interval '14 days 1 minute'", "expires_at = now() - interval '1 minute'"],
    ids=["idle", "absolute"],
)
async def test_a_session_has_an_end(join: Join, sql: Sql, aged: str):
    ann = await join()
    sql(f"update chassis.sessions set {aged}")
    assert (await refresh(ann)).status_code == 401
    assert sql("select event from chassis.audit order by position desc limit 1") == [("session_expired",)]


async def test_refreshing_does_not_move_the_absolute_end(join: Join, sql: Sql):
    ann = await join()
    ((before,),) = sql("select expires_at from chassis.sessions")
    ((days,),) = sql("select extract(epoch from expires_at - created_at) / 86400 from chassis.sessions")
    await refresh(ann)
    assert sql("select expires_at from chassis.sessions") == [(before,)]
    assert days == 90


@pytest.mark.parametrize("purpose", ["access token", "mail"])
async def test_tokens_of_other_kinds_do_not_refresh(join: Join, mailbox: Mailbox, purpose: str):
    ann = await join()
    token = ann.tokens["access_token"][:200] if purpose == "access token" else await mailbox.token(ann.email)
    assert (await refresh(ann, token)).status_code == 401


async def test_sessions_are_listed_and_ended_one_by_one(join: Join, client: httpx.AsyncClient):
    ann = await join()
    client.headers["User-Agent"] = "a telephone"
    phone = await sign_in(client, ann.email)
    listed = (await ann.call("GET", "/auth/sessions")).json()["items"]
    assert listed[0]["user_agent"] == "a telephone"
    assert [one["current"] for one in listed] == [False, True]
    assert (await ann.call("DELETE", f"/auth/sessions/{listed[0]['id']}")).status_code == 204
    assert not await alive(phone)
    assert (await refresh(phone)).status_code == 401
    assert await alive(ann)
    assert len((await ann.call("GET", "/auth/sessions")).json()["items"]) == 1
    assert (await ann.call("DELETE", f"/auth/sessions/{listed[0]['id']}")).status_code == 404


async def test_nobody_ends_or_sees_somebody_elses_session(join: Join):
    ann, bob = await join(), await join()
    (session,) = (await bob.call("GET", "/auth/sessions")).json()["items"]
    theirs = await ann.call("DELETE", f"/auth/sessions/{session['id']}")
    unknown = await ann.call("DELETE", "/auth/sessions/00000000-0000-4000-8000-000000000000")
    assert (
        (theirs.status_code, theirs.json()["code"])
        == (unknown.status_code, unknown.json()["code"])
        == (404, "not_found")
    )
    assert await alive(bob)


async def test_all_sessions_end_at_once(join: Join, client: httpx.AsyncClient):
    ann = await join()
    phone = await sign_in(client, ann.email)
    assert (await ann.call("DELETE", "/auth/sessions")).status_code == 204
    for person in (ann, phone):
        assert not await alive(person)
        assert (await refresh(person)).status_code == 401


async def test_a_new_password_ends_all_other_sessions(join: Join, client: httpx.AsyncClient, mailbox: Mailbox):
    ann = await join()
    phone = await sign_in(client, ann.email)
    new = "seven quiet garden rakes"
    wrong = await ann.call("POST", "/auth/password/change", json={"current_password": "x", "new_password": new})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "password_wrong")
    body = {"current_password": PASSWORD, "new_password": new}
    assert (await ann.call("POST", "/auth/password/change", json=body)).status_code == 204
    assert await alive(ann)
    assert not await alive(phone)
    assert (await refresh(phone)).status_code == 401
    assert "password was changed" in (await mailbox.to(ann.email))[-1]["Subject"]
    assert (await sign_in(client, ann.email, new)).id == ann.id
    old = await client.post("/v1/auth/signin", json={"email": ann.email, "password": PASSWORD})
    assert old.status_code == 401


async def test_a_forgotten_password_is_reset_once_and_ends_all_sessions(
    join: Join, client: httpx.AsyncClient, mailbox: Mailbox, sql: Sql
):
    ann = await join()
    await client.post("/v1/auth/password/forgot", json={"email": ann.email.upper()})
    token = await mailbox.token(ann.email)
    ((minutes,),) = sql(
        "select extract(epoch from expires_at - now()) / 60 from chassis.one_time_tokens where purpose = 'reset'"
    )
    assert 29 < minutes <= 30
    new = "seven quiet garden rakes"
    guessable = await client.post("/v1/auth/password/reset", json={"token": token, "password": "password" * 3})
    assert guessable.json()["code"] == "password_guessable"
    answers = await asyncio.gather(
        *(client.post("/v1/auth/password/reset", json={"token": token, "password": new}) for _ in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [204, 400, 400, 400, 400]
    assert "password was changed" in (await mailbox.to(ann.email))[-1]["Subject"]
    assert not await alive(ann)
    assert (await refresh(ann)).status_code == 401
    await sign_in(client, ann.email, new)


async def test_a_link_that_verifies_does_not_reset(join: Join, client: httpx.AsyncClient, mailbox: Mailbox):
    ann = await join()
    token = await mailbox.token(ann.email)
    answer = await client.post("/v1/auth/password/reset", json={"token": token, "password": "seven quiet garden rakes"})
    assert answer.status_code == 400


async def test_links_sent_before_a_new_password_are_void(join: Join, client: httpx.AsyncClient, mailbox: Mailbox):
    ann = await join()
    await client.post("/v1/auth/password/forgot", json={"email": ann.email})
    token = await mailbox.token(ann.email)
    body = {"current_password": PASSWORD, "new_password": "seven quiet garden rakes"}
    await ann.call("POST", "/auth/password/change", json=body)
    answer = await client.post("/v1/auth/password/reset", json={"token": token, "password": "nine tired yellow boats"})
    assert answer.status_code == 400


async def test_one_link_that_was_followed_voids_the_others(join: Join, client: httpx.AsyncClient, mailbox: Mailbox):
    ann = await join()
    verifying = await mailbox.token(ann.email)
    tokens: list[str] = []
    for _ in range(2):
        await client.post("/v1/auth/password/forgot", json={"email": ann.email})
        tokens.append(await mailbox.token(ann.email))
    for token, status in ((tokens[1], 204), (tokens[0], 400)):
        body = {"token": token, "password": "seven quiet garden rakes"}
        assert (await client.post("/v1/auth/password/reset", json=body)).status_code == status
    assert (await client.post("/v1/auth/verify", json={"token": verifying})).status_code == 400


async def test_switching_ends_the_old_session_and_goes_no_further(join: Join, sql: Sql):
    ann, bob = await join(), await join()
    sql(
        "insert into chassis.memberships (tenant_id, account_id, role) values (%s, %s, 'viewer')", bob.tenant_id, ann.id
    )
    body = {"refresh_token": ann.tokens["refresh_token"], "tenant_id": str(bob.tenant_id)}
    answer = await ann.client.post("/v1/auth/switch", json=body)
    assert answer.status_code == 200
    there = person_of(ann.client, ann.email, answer.json())
    assert (there.id, there.tenant_id) == (ann.id, bob.tenant_id)
    assert await alive(there)
    assert (await there.call("POST", "/tenants/invitations", json={})).status_code == 403
    assert not await alive(ann)
    assert (await refresh(there)).status_code == 200
    assert sql("select count(distinct expires_at) from chassis.sessions where account_id = %s", ann.id) == [(1,)]
    recorded = "select details from chassis.audit where tenant_id = %s and actor = %s"
    assert sql(recorded, bob.tenant_id, ann.id) == [({"how": "switch"},)]


async def test_nobody_switches_to_a_tenant_of_others(join: Join):
    ann, bob = await join(), await join()
    body = {"refresh_token": ann.tokens["refresh_token"], "tenant_id": str(bob.tenant_id)}
    assert (await ann.client.post("/v1/auth/switch", json=body)).status_code == 401
    assert (await refresh(ann)).status_code == 200


ENDINGS = ["sign out", "end all", "new password", "role", "removed"]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_seconds_to_dead_on_another_replica(
    quick_watch: None, join: Join, client: httpx.AsyncClient, replica: httpx.AsyncClient, sql: Sql, ending: str
):
    owner, ann = await join(), await join()
    sql(
        "insert into chassis.memberships (tenant_id, account_id, role) values (%s, %s, 'member')",
        owner.tenant_id,
        ann.id,
    )
    body = {"refresh_token": ann.tokens["refresh_token"], "tenant_id": str(owner.tenant_id)}
    ann = person_of(client, ann.email, (await client.post("/v1/auth/switch", json=body)).json())
    there = Person(replica, ann.email, ann.tokens, ann.id, ann.tenant_id)
    assert await alive(ann)
    assert await alive(there)
    match ending:
        case "sign out":
            answer = await ann.call("POST", "/auth/signout")
        case "end all":
            answer = await ann.call("DELETE", "/auth/sessions")
        case "new password":
            elsewhere = await sign_in(client, ann.email)
            change = {"current_password": PASSWORD, "new_password": "seven quiet garden rakes"}
            answer = await elsewhere.call("POST", "/auth/password/change", json=change)
        case "role":
            answer = await owner.call("PATCH", f"/tenants/members/{ann.id}", json={"role": "viewer"})
        case _:
            answer = await owner.call("DELETE", f"/tenants/members/{ann.id}")
    assert answer.is_success, answer.text
    assert not await alive(ann)  # at once, where it was ended
    assert (await refresh(there)).status_code == 401  # at once, everywhere

    async def dead() -> bool:
        return not await alive(there)

    assert await eventually(dead, 5) < 2 * QUICK_SECONDS + 1


async def test_who_knows_too_little_of_what_was_revoked_believes_nobody(app: Service, join: Join):
    ann = await join()
    vars(app.identity.watch)["_fresh_until"] = 0.0
    for token in (ann.tokens["access_token"], f"sk_{0:048}", "of a key that this replica may not know yet"):
        answer = await ann.client.get("/v1/tenants", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["code"]) == (503, "authentication_unavailable")
    assert (await ann.client.get("/.well-known/jwks.json")).status_code == 200
    await app.identity.watch.refresh()
    assert await alive(ann)


async def test_a_replica_that_lost_its_connection_hears_of_revocations_again(
    quick_watch: None, app: Service, join: Join, sql: Sql
):
    ann = await join()
    mine = "from pg_stat_activity where datname = current_database() and application_name ~ 'watch'"
    ended = sql(f"select pg_terminate_backend(pid) {mine}")
    assert ended == [(True,)]
    sql("insert into chassis.revocations (id) select id from chassis.sessions")

    async def dead() -> bool:
        return not await alive(ann)

    await eventually(dead, 5)


async def test_what_ends_while_it_asks_is_not_forgotten(
    app: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    ended, ask = uuid4(), vars(watch)["_all"]

    async def slowly(*arguments: Any) -> list[Any]:
        answer = await ask(*arguments)
        app.identity.watch.heard(ended)
        return answer

    monkeypatch.setattr(watch, "_all", slowly)
    await app.identity.watch.refresh()
    assert app.identity.watch.revoked(ended)


async def test_revocations_of_what_is_long_dead_are_deleted(
    quick_watch: None, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, sql: Sql
):
    monkeypatch.setattr(watch, "_FORGET_EVERY", 1)
    for minutes in (10, 30):
        sql("insert into chassis.revocations values (gen_random_uuid(), now() - make_interval(mins => %s))", minutes)

    async def forgotten() -> bool:
        return sql("select count(*) from chassis.revocations") == [(1,)]

    await eventually(forgotten, 5)


def test_the_bound_is_what_the_documentation_says():
    assert PERIOD_SECONDS <= 5
    assert PERIOD_SECONDS + STALE_SECONDS <= timedelta(seconds=30).total_seconds()


async def test_a_stolen_token_that_was_switched_dies_when_its_owner_comes(join: Join):
    ann = await join()
    stolen = {"refresh_token": ann.tokens["refresh_token"], "tenant_id": str(ann.tenant_id)}
    thief = person_of(ann.client, ann.email, (await ann.client.post("/v1/auth/switch", json=stolen)).json())
    assert (await refresh(ann)).status_code == 401
    assert (await refresh(thief)).status_code == 401
    assert not await alive(thief)


async def test_fifty_switches_at_once_leave_at_most_one_family(join: Join):
    ann = await join()
    body = {"refresh_token": ann.tokens["refresh_token"], "tenant_id": str(ann.tenant_id)}
    answers = await asyncio.gather(*(ann.client.post("/v1/auth/switch", json=body) for _ in range(50)))
    won = [answer.json() for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    assert (await refresh(person_of(ann.client, ann.email, won[0]))).status_code == 401
