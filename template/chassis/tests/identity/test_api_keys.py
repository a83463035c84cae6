"""API keys: shown once, with no more than their maker has, until they expire or are revoked."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from chassis.identity import api_keys

from .conftest import QUICK_SECONDS, Mailbox, Person, eventually

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
