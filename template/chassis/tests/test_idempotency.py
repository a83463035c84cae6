"""`Idempotency-Key`: however often and whenever a request is repeated, its effect happens once."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from fastapi import APIRouter, Response
from prometheus_client import REGISTRY
from things import ADD, AsPrincipal, Client, NewThing, Serving, Somebody, Sql

from chassis import Idempotent, Module, Settings, Transaction, create_app, public
from chassis.app import BootRefused
from chassis.http import idempotency
from chassis.testing import RunningServer, TestDatabase

pytestmark = pytest.mark.anyio
KEPT = "select count(*) from chassis.idempotency_keys"

# What `chassis serve` is made to serve: the service of things, in a process that kills itself.
CRASHING = """
import os, signal
from chassis.data.unit_of_work import UnitOfWork
from things import app

commit, commits, crash = UnitOfWork.commit, 0, os.environ["CRASH"]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def crashing(self, first=""):
    global commits
    commits += bool(first)
    if first and crash == "before the commit":
        die()
    await commit(self, first)
    if commits == 2 and crash == "after the second commit":
        die()

UnitOfWork.commit = crashing
"""


def key(value: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": value or str(uuid4())}


async def test_a_repetition_gets_the_first_answer_and_has_no_effect(api: Client, sql: Sql):
    headers = key()
    first = await api.post("/things", json={"name": "a"}, headers=headers)
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    assert "idempotency-replayed" not in first.headers
    for _ in range(3):
        again = await api.post("/things", json={"name": "a"}, headers=headers)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["etag"] == '"1"'
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert sql("select name from things") == [("a",)]


async def test_a_key_in_the_quotes_of_a_structured_field_is_the_same_key(api: Client, sql: Sql):
    first = await api.post("/things", json={"name": "a"}, headers=key("order-1"))
    again = await api.post("/things", json={"name": "a"}, headers=key('"order-1"'))
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content


@pytest.mark.parametrize("change", [{"json": {"name": "b"}}, {"json": {"name": "a"}, "params": {"x": "1"}}])
async def test_a_key_cannot_be_used_for_another_request(api: Client, sql: Sql, change: dict[str, Any]):
    headers = key()
    await api.post("/things", json={"name": "a"}, headers=headers)
    other = await api.post("/things", headers=headers, **change)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert sql("select name from things") == [("a",)]


async def test_the_same_key_of_another_tenant_caller_or_route_is_another_key(
    api: Client, as_principal: AsPrincipal, other_tenant: UUID, sql: Sql
):
    headers = key()
    for path, name, caller in (
        ("/things", "a", as_principal("owner")),
        ("/things", "a", as_principal("owner", other_tenant)),
        ("/things", "b", as_principal("member")),
        ("/other-things", "c", as_principal("owner")),
    ):
        answer = await api.post(path, json={"name": name}, headers=headers | caller)
        assert answer.status_code == 201
        assert "idempotency-replayed" not in answer.headers
    assert len(sql("select name from things")) == 4


async def test_a_missing_or_malformed_key_is_refused(api: Client, sql: Sql):
    missing = await api.post("/things", json={"name": "a"})
    assert (missing.status_code, missing.json()["code"]) == (400, "idempotency_key_missing")
    for value in ("", " ", "a b", '""', '"a', 'a"', "a,b", "ä", "a\\", "a" * 256, "'; --"):
        refused = await api.post("/things", json={"name": "a"}, headers={b"idempotency-key": value.encode()})
        assert (refused.status_code, refused.json()["code"]) == (400, "idempotency_key_malformed"), value
    assert sql("select name from things") == []


async def test_fifty_at_once_have_one_effect_and_one_answer(api: Client, sql: Sql):
    headers = key()
    answers = await asyncio.gather(*(api.post("/things", json={"name": "a"}, headers=headers) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert sql("select name from things") == [("a",)]


async def test_a_repetition_while_the_first_is_under_way_is_told_so_and_later_gets_its_answer(
    serving: Serving, table: TestDatabase, sql: Sql
):
    async with serving(APP_LOCK_TIMEOUT_SECONDS="0.1") as api:
        headers = key()
        with psycopg.connect(table.superuser) as other:
            other.execute("lock table things in exclusive mode")  # the first waits here, its key claimed
            first = asyncio.create_task(api.post("/things", json={"name": "a"}, headers=headers))
            await asyncio.sleep(0.02)
            second = await api.post("/things", json={"name": "a"}, headers=headers)
            assert (second.status_code, second.json()["code"]) == (409, "contended")
            assert second.headers["retry-after"] == "1"
        assert (await first).status_code in (201, 409)
        assert (await api.post("/things", json={"name": "a"}, headers=headers)).status_code == 201
    assert sql("select name from things") == [("a",)]


async def test_an_error_is_not_remembered(api: Client, sql: Sql):
    await api.post("/things", json={"name": "a"}, headers=key())
    headers = key()
    refused = await api.post("/things", json={"name": "a"}, headers=headers)
    assert refused.status_code == 409
    assert sql(KEPT) == [(1,)]
    sql("delete from things")
    again = await api.post("/things", json={"name": "a"}, headers=headers)
    assert again.status_code == 201
    assert "idempotency-replayed" not in again.headers


def test_a_killed_process_leaves_both_the_effect_and_its_key_or_neither(
    serve: Callable[..., RunningServer], as_principal: AsPrincipal, tmp_path: Path, sql: Sql
):
    keys = {name: key() | as_principal() for name in ("a", "b")}
    (tmp_path / "things_service-1.dist-info").mkdir()
    (tmp_path / "things_service-1.dist-info" / "entry_points.txt").write_text("[chassis]\napp = crashing:app\n")
    (tmp_path / "crashing.py").write_text(CRASHING)

    def post(server: RunningServer, name: str) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/things", json={"name": name}, headers=keys[name])

    def start(crash: str) -> RunningServer:
        return serve(PYTHONPATH=f"{tmp_path}{os.pathsep}{Path(__file__).parent}", CRASH=crash)

    server = start(crash="before the commit")
    with pytest.raises(httpx.TransportError):
        post(server, "a")
    assert server.process.wait(5) == -signal.SIGKILL
    assert sql("select name from things") == []

    server = start(crash="after the second commit")
    answer = post(server, "a")
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers
    with pytest.raises(httpx.TransportError):
        post(server, "b")
    assert server.process.wait(5) == -signal.SIGKILL
    assert sql("select name from things order by name") == [("a",), ("b",)]

    server = start(crash="never")
    answer = post(server, "b")
    assert (answer.status_code, answer.json()["name"]) == (201, "b")
    assert answer.headers["idempotency-replayed"] == "true"
    assert sql("select name from things order by name") == [("a",), ("b",)]


async def test_old_keys_go_a_hundred_at_a_time_and_nobody_elses(
    api: Client, sql: Sql, tenant_id: UUID, other_tenant: UUID, monkeypatch: pytest.MonkeyPatch
):
    fill = """
        insert into chassis.idempotency_keys (tenant_id, key_hash, fingerprint, created_at)
        select %s, sha256(convert_to(n || %s, 'utf8')), '', now() - %s::interval from generate_series(1, %s) as n
    """
    sql(fill, tenant_id, "old", "24 hours 1 minute", 150)
    sql(fill, tenant_id, "young", "23 hours 59 minutes", 5)
    sql(fill, other_tenant, "old", "48 hours", 7)
    monkeypatch.setattr(idempotency, "_FORGET_EVERY", 1)
    expired = f"{KEPT} where tenant_id = %s and created_at < now() - '24 hours'::interval"
    for left in (50, 0):
        assert (await api.post("/things", json={"name": str(left)}, headers=key())).status_code == 201
        assert sql(expired, tenant_id) == [(left,)]
    assert sql(KEPT) == [(5 + 7 + 2,)]
    assert sql(expired, other_tenant) == [(7,)]


async def test_old_keys_that_somebody_else_deletes_are_not_waited_for(
    serving: Serving, table: TestDatabase, sql: Sql, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
):
    sql(
        "insert into chassis.idempotency_keys (tenant_id, key_hash, fingerprint, created_at)"
        " select %s, sha256(convert_to(n::text, 'utf8')), '', now() - '25 h'::interval from generate_series(1, 9) n",
        tenant_id,
    )
    monkeypatch.setattr(idempotency, "_FORGET_EVERY", 1)
    async with serving(APP_LOCK_TIMEOUT_SECONDS="0.1") as api:
        with psycopg.connect(table.superuser) as other:
            other.execute("select from chassis.idempotency_keys for update")
            assert (await api.post("/things", json={"name": "a"}, headers=key())).status_code == 201
    assert sql(KEPT) == [(10,)]


async def test_few_new_keys_look_for_old_ones(api: Client):
    def looked() -> float:
        return REGISTRY.get_sample_value("db_query_duration_seconds_count", {"query": "idempotency.forget"}) or 0

    before = looked()
    for number in range(128):
        assert (await api.post("/things", json={"name": str(number)}, headers=key())).status_code == 201
    assert looked() - before < 20


def test_a_route_that_cannot_keep_the_promise_does_not_boot():
    router = APIRouter()

    @router.post("/without-transaction")
    async def without_transaction(body: NewThing, who: Somebody, once: Idempotent) -> None: ...

    @router.post("/without-caller", dependencies=[public])
    async def without_caller(body: NewThing, db: Transaction, once: Idempotent) -> None: ...

    @router.post("/by-fastapi")
    async def by_fastapi(body: NewThing, who: Somebody, db: Transaction, once: Idempotent, tags: list[str]) -> None: ...

    module = Module(name="things", router=router, permissions={"things:use": ("owner",)})
    with pytest.raises(BootRefused) as refused:
        create_app(Settings, [module])
    told = {problem.split(": ")[0] for problem in refused.value.problems if "Idempotent" in problem}
    assert told == {"POST /v1/by-fastapi", "POST /v1/without-caller", "POST /v1/without-transaction"}


async def test_an_answer_that_writes_itself_cannot_be_kept_and_so_has_no_effect(serving: Serving, sql: Sql):
    own = APIRouter()

    @own.post("/own")
    async def write(body: NewThing, who: Somebody, db: Transaction, once: Idempotent) -> Any:
        await db.run(ADD, db.tenant_id, body.name)
        return Response(status_code=201)

    async with serving(own) as api:
        answer = await api.post("/own", json={"name": "a"}, headers=key())
    assert answer.status_code == 500
    assert sql("select name from things") == []
    assert sql(KEPT) == [(0,)]
