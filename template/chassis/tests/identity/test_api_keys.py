"""API keys: shown once, with no more than their maker has, until they expire or are revoked."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx
import pytest

from chassis.app import Service
from chassis.features import FEATURES
from chassis.identity import api_keys

from .conftest import QUICK_SECONDS, Mailbox, Person, Work, eventually

pytestmark = pytest.mark.anyio

Join = Callable[..., Awaitable[Person]]
Sql = Callable[..., list[tuple[Any, ...]]]


async def make(person: Person, *scopes: str, **more: Any) -> dict[str, Any]:
    answer = await person.call("POST", "/api-keys", json={"name": "ci", "scopes": list(scopes), **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def status(client: httpx.AsyncClient, key: str, path: str = "/v1/tenants/members", method: str = "GET") -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return (await client.request(method, path, headers=headers, json={} if method == "POST" else None)).status_code


async def test_a_key_does_what_its_scopes_say(join: Join):
    ann = await join()
    made = await make(ann, "members:read")
    assert await status(ann.client, made["key"]) == 200
    assert await status(ann.client, made["key"], "/v1/audit") == 403
    assert await status(ann.client, made["key"], "/v1/tenants/invitations", "POST") == 403


async def test_a_key_is_shown_once_and_stored_as_a_hash(join: Join, sql: Sql):
    ann = await join()
    made = await make(ann, "members:read")
    assert made["key"].startswith(made["prefix"])
    listed = (await ann.call("GET", "/api-keys")).json()["items"]
    assert [one["id"] for one in listed] == [made["id"]]
    assert "key" not in listed[0]
    assert sql("select key_hash from chassis.api_keys") == [(sha256(made["key"].encode()).digest(),)]
    (row,) = sql("select k::text from chassis.api_keys k")
    assert made["key"][len(made["prefix"]) :] not in row[0]


@pytest.mark.parametrize("scope", ["account:manage", "api_keys:manage", "members:manage", "orders:delete", "*", ""])
async def test_a_key_gets_nothing_that_it_must_not_have(join: Join, scope: str):
    ann = await join()
    answer = await ann.call("POST", "/api-keys", json={"name": "ci", "scopes": ["members:read", scope]})
    assert (answer.status_code, answer.json()["code"]) == (422, "scope_refused")


@pytest.mark.parametrize("role", ["member", "viewer"])
async def test_only_those_who_manage_make_keys(
    client: httpx.AsyncClient, as_principal: Callable[..., dict[str, str]], role: str
):
    body = {"name": "ci", "scopes": ["members:read"]}
    assert (await client.post("/v1/api-keys", json=body, headers=as_principal(role))).status_code == 403


async def test_a_key_expires_even_while_it_is_remembered(join: Join, sql: Sql):
    ann = await join()
    made = await make(ann, "members:read", expires_in_days=1)
    days = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < days <= timedelta(days=1)
    sql("update chassis.api_keys set expires_at = now() + interval '1 second'")
    assert await status(ann.client, made["key"]) == 200

    async def expired() -> bool:
        return await status(ann.client, made["key"]) == 401

    assert await eventually(expired, 4) < 2


@pytest.mark.parametrize("days", [0, 366, -1])
async def test_no_key_lives_for_ever(join: Join, days: int):
    ann = await join()
    answer = await ann.call(
        "POST", "/api-keys", json={"name": "ci", "scopes": ["members:read"], "expires_in_days": days}
    )
    assert answer.status_code == 422


async def test_a_revoked_key_is_dead_at_once_here_and_in_seconds_elsewhere(
    quick_watch: None, join: Join, replica: httpx.AsyncClient
):
    ann = await join()
    made = await make(ann, "members:read")
    assert await status(ann.client, made["key"]) == await status(replica, made["key"]) == 200
    assert (await ann.call("DELETE", f"/api-keys/{made['id']}")).status_code == 204
    assert await status(ann.client, made["key"]) == 401

    async def dead() -> bool:
        return await status(replica, made["key"]) == 401

    assert await eventually(dead, 5) < 2 * QUICK_SECONDS + 1
    assert (await ann.call("DELETE", f"/api-keys/{made['id']}")).status_code == 404
    assert (await ann.call("GET", "/api-keys")).json()["items"][0]["revoked_at"] is not None


async def test_a_key_stays_revoked_when_nobody_remembers_the_revocation(join: Join, sql: Sql):
    ann = await join()
    made = await make(ann, "members:read")
    sql("update chassis.api_keys set revoked_at = now() - interval '1 day'")
    assert await status(ann.client, made["key"]) == 401


async def test_nobody_revokes_or_sees_the_keys_of_others(join: Join):
    ann, bob = await join(), await join()
    made = await make(ann, "members:read")
    assert (await bob.call("GET", "/api-keys")).json()["items"] == []
    assert (await bob.call("DELETE", f"/api-keys/{made['id']}")).status_code == 404
    assert await status(ann.client, made["key"]) == 200


async def test_the_last_use_is_noted_once_a_minute(
    join: Join, mailbox: Mailbox, sql: Sql, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(api_keys, "_REMEMBERED_SECONDS", 0)
    ann = await join()
    made = await make(ann, "members:read")
    await status(ann.client, made["key"])
    await mailbox.to("")  # what runs in the background is done now
    ((first,),) = sql("select used_at from chassis.api_keys")
    assert first is not None
    await status(ann.client, made["key"])
    await mailbox.to("")
    assert sql("select used_at from chassis.api_keys") == [(first,)]
    sql("update chassis.api_keys set used_at = now() - interval '2 minutes'")
    await status(ann.client, made["key"])
    await mailbox.to("")
    ((later,),) = sql("select used_at from chassis.api_keys")
    assert later >= first


@pytest.mark.parametrize("key", ["sk_", "sk_" + "0" * 48, "sk_" + "0" * 47, "sk_" + "é" * 24, "sk_" + "0" * 5000])
async def test_other_text_is_no_key(client: httpx.AsyncClient, key: str):
    headers = [(b"authorization", b"Bearer " + key.encode())]
    assert (await client.get("/v1/tenants/members", headers=headers)).status_code == 401


async def test_text_that_cannot_be_a_key_costs_no_query_and_an_unknown_key_costs_one(
    work: Work, client: httpx.AsyncClient
):
    async def cost(key: str) -> list[str]:
        headers = {"Authorization": f"Bearer {key}"}
        return (await work.of(client.get("/v1/auth/sessions", headers=headers)))[2]

    assert await cost("sk_" + "0" * 47) == []
    assert await cost("sk_" + "0" * 48) == ["begin", "query"]
    assert await cost("sk_" + "0" * 48) == [], "it is remembered to be none"


async def test_what_is_remembered_of_keys_is_bounded(
    app: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(api_keys, "_MOST_REMEMBERED", 10)
    for number in range(20):
        await status(client, f"sk_{number:048}")
    assert len(vars(app.identity.api_keys)["_remembered"]) == 10


@pytest.fixture
def environment(environment: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    return environment | getattr(request, "param", {})


@pytest.mark.parametrize("environment", [{"APP_LIMIT_PER_ADDRESS": "3"}], indirect=True)
async def test_guessing_keys_costs_no_query_once_the_address_is_limited(work: Work, client: httpx.AsyncClient):
    answers = [
        await work.of(client.get("/v1/auth/sessions", headers={"Authorization": f"Bearer sk_{number:048}"}))
        for number in range(5)
    ]
    assert [(status, done) for status, _, done in answers] == [(401, ["begin", "query"])] * 3 + [(429, [])] * 2


@pytest.mark.skipif("valkey" not in FEATURES, reason="there is no shared store")
@pytest.mark.parametrize("environment", [{"APP_LIMIT_PER_ADDRESS": "3"}], indirect=True)
async def test_guessing_keys_costs_no_query_either_where_another_replica_has_counted(
    work: Work, client: httpx.AsyncClient, replica: httpx.AsyncClient
):
    for number in range(3):
        assert await status(replica, f"sk_{number:048}") == 401
    headers = {"Authorization": f"Bearer sk_{4:048}"}
    answered, _, done = await work.of(client.get("/v1/auth/sessions", headers=headers))
    assert (answered, done) == (429, [])
