"""One request, one transaction, one tenant: kept before the answer leaves or not at all, and the pool stays whole."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from fastapi import APIRouter, Query, Request
from prometheus_client import REGISTRY
from things import (
    ADD,
    NAMES,
    SLEEP,
    TABLE,
    AsPrincipal,
    Client,
    NewThing,
    Serving,
    Somebody,
    Sql,
    Thing,
    client_of,
    router,
)

from chassis import Problem, Transaction, public
from chassis.app import Service
from chassis.data import roles
from chassis.data.migrate import migrate
from chassis.data.pool import Database
from chassis.data.queries import Query as NamedQuery
from chassis.dev.postgres import Postgres
from chassis.settings import Settings, load
from chassis.testing import TestDatabase, headers_of, started

pytestmark = pytest.mark.anyio

FAIL = NamedQuery("things.fail", str, "select 1 / (length($1) - length($1))", None)
TENANTS = NamedQuery("things.tenants", UUID, "select tenant_id from things, pg_sleep(0.001)", None)

# Not the connection that asks what was revoked, beside the pool.
OF_THE_APP = (
    "from pg_stat_activity where usename = %s and datname = current_database() and application_name !~ ' watch$'"
)

acts = APIRouter()


async def _add_then(db: Transaction, how: str) -> Thing:
    """Have an effect, then end in the way that is asked for."""
    thing = await db.one(ADD, db.tenant_id, how)
    match how:
        case "problem":
            raise Problem(418, "teapot", "A client's mistake.")
        case "error":
            raise RuntimeError("a mistake of ours")
        case "sleep":
            await asyncio.sleep(30)
        case "idle":
            await asyncio.sleep(0.8)
        case "idle, then a query":
            await asyncio.sleep(0.8)
            await db.all(NAMES)
        case "slow query":
            await db.one(SLEEP, 30.0)
        case "failed query":
            await db.one(FAIL, how)
        case "swallowed failure":
            with suppress(asyncpg.DivisionByZeroError):
                await db.one(FAIL, how)
        case _:
            assert how == "good"
    return thing


@acts.post("/compiled")
async def compiled(body: NewThing, who: Somebody, db: Transaction) -> Thing:
    return await _add_then(db, body.name)


@acts.post("/by-fastapi")
async def by_fastapi(
    body: NewThing, who: Somebody, db: Transaction, tags: Annotated[list[str] | None, Query()] = None
) -> Thing:
    """A list in the query is one of the things that only FastAPI understands."""
    return await _add_then(db, body.name)


@acts.get("/names")
async def names(who: Somebody, db: Transaction) -> list[str]:
    return await db.all(NAMES)


@acts.get("/whose")
async def tenants(who: Somebody, db: Transaction) -> list[UUID]:
    return await db.all(TENANTS)


@acts.get("/public-whose", dependencies=[public])
async def public_tenants(request: Request) -> list[UUID]:
    async with request.app.database.unit_of_work(None) as db:
        return await db.all(TENANTS)


both_ways = pytest.mark.parametrize("path", ["/compiled", "/by-fastapi"])


@pytest.fixture
async def one(serving: Serving) -> AsyncGenerator[Client]:
    """A client of a service whose pool has one connection: whoever leaks it is found out by the next request."""
    async with serving(acts, APP_DATABASE_POOL_SIZE="1", APP_REQUEST_TIMEOUT_SECONDS="1") as client:
        yield client


async def assert_whole(api: Client, *names: str) -> None:
    """The pool's one connection works, and only `names` were kept."""
    assert REGISTRY.get_sample_value("db_pool_in_use") == 0
    answer = await api.get("/names")
    assert (answer.status_code, answer.json()) == (200, list(names))


async def busy() -> None:
    """Wait until a request has a connection, and a little longer."""
    async with asyncio.timeout(10):
        while not REGISTRY.get_sample_value("db_pool_in_use"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


def asleep(sql: Sql) -> int:
    [(count,)] = sql(
        "select count(*) from pg_stat_activity where state = 'active' and query ilike '%pg_sleep(%'"
        " and datname = current_database() and pid <> pg_backend_pid()"
    )
    return count


@both_ways
async def test_the_effect_is_kept_before_the_answer_begins(
    path: str, service_of: Callable[..., Service], as_principal: AsPrincipal, sql: Sql
):
    service = service_of(acts)
    seen: list[list[tuple[Any, ...]]] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def watching(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append(sql("select name from things"))
            await send(message)

        await service(scope, receive, watching)

    async with started(service), client_of(watched, as_principal()) as api:
        assert (await api.post(path, json={"name": "good"})).status_code == 200
    assert seen == [[("good",)]]


@both_ways
@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("problem", 418),
        ("error", 500),
        ("failed query", 500),
        ("swallowed failure", 500),
        ("sleep", 504),
        ("slow query", 504),
    ],
)
async def test_whatever_goes_wrong_leaves_nothing_behind(path: str, how: str, status: int, one: Client, sql: Sql):
    assert (await one.post(path, json={"name": how})).status_code == status
    await assert_whole(one)
    assert asleep(sql) == 0


@both_ways
@pytest.mark.parametrize("how", ["sleep", "slow query"])
async def test_a_cancelled_request_leaves_nothing_behind(path: str, how: str, one: Client, sql: Sql):
    request = asyncio.create_task(one.post(path, json={"name": how}))
    await busy()
    request.cancel()
    assert (await request).status_code == 503
    await assert_whole(one)
    assert asleep(sql) == 0


async def test_a_connection_that_does_not_answer_is_not_used_again(one: Client, sql: Sql):
    request = asyncio.create_task(one.post("/compiled", json={"name": "slow query"}))
    await busy()
    [(backend,)] = sql(f"select pid {OF_THE_APP}", roles.APP)
    os.kill(backend, signal.SIGSTOP)
    try:
        assert (await request).status_code == 504
        await assert_whole(one)
    finally:
        os.kill(backend, signal.SIGCONT)


async def test_a_connection_that_died_while_it_rested_is_not_used_again(one: Client, sql: Sql):
    await assert_whole(one)
    assert sql(f"select pg_terminate_backend(pid, 5000) {OF_THE_APP}", roles.APP) == [(True,)]
    await asyncio.sleep(0.1)
    await assert_whole(one)


async def test_connections_that_end_at_any_moment_are_a_503(serving: Serving, sql: Sql):
    """The driver has an error of its own for each moment, so this looks for all of them."""
    found: set[tuple[int, str | None]] = set()
    ended = asyncio.Event()

    async def read() -> None:
        while not ended.is_set():
            answer = await api.get("/names")
            found.add((answer.status_code, None if answer.is_success else answer.json()["code"]))

    async with serving(acts, APP_DATABASE_POOL_SIZE="8") as api, asyncio.TaskGroup() as readers:
        for _ in range(12):
            readers.create_task(read())
        for _ in range(30):
            await asyncio.to_thread(sql, f"select pg_terminate_backend(pid) {OF_THE_APP}", roles.APP)
            await asyncio.sleep(0.03)
        ended.set()
    assert found == {(200, None), (503, "database_unavailable")}


async def test_a_statement_that_takes_too_long_is_stopped_by_the_server(serving: Serving, sql: Sql):
    limits = {"APP_STATEMENT_TIMEOUT_SECONDS": "0.3", "APP_REQUEST_TIMEOUT_SECONDS": "60"}
    async with serving(acts, APP_DATABASE_POOL_SIZE="1", **limits) as api:
        answer = await api.post("/compiled", json={"name": "slow query"})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        await assert_whole(api)


async def test_a_transaction_that_idles_is_ended_by_the_server(serving: Serving):
    async with serving(acts, APP_IDLE_TRANSACTION_TIMEOUT_SECONDS="0.3", APP_DATABASE_POOL_SIZE="1") as api:
        for how in ("idle", "idle, then a query"):
            answer = await api.post("/compiled", json={"name": how})
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            await assert_whole(api)


FAILURES = {
    "40001": (409, "contended"),  # a serialization failure
    "40P01": (409, "contended"),  # a deadlock
    "55P03": (409, "contended"),  # lock_timeout
    "57014": (504, "deadline_exceeded"),  # statement_timeout
    "57P01": (503, "database_unavailable"),  # shut down
    "57P03": (503, "database_unavailable"),  # starting up
    "53300": (503, "database_unavailable"),  # no connection left
    "25006": (503, "database_unavailable"),  # the old primary after a failover
    "23514": (500, "internal_error"),  # a check that our code should have made
    "42703": (500, "internal_error"),  # a mistake in SQL
}


async def test_the_client_is_told_what_it_may_do_about_a_failure(serving: Serving):
    own = APIRouter()

    @own.post("/raise/{sqlstate}")
    async def fail(sqlstate: str, who: Somebody, db: Transaction) -> None:
        statement = f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$"
        await db.run(NamedQuery("things.raise", str, statement, None))

    async with serving(own) as api:
        for sqlstate, (status, code) in FAILURES.items():
            answer = await api.post(f"/raise/{sqlstate}")
            assert (answer.status_code, answer.json()["code"]) == (status, code), sqlstate
            assert ("retry-after" in answer.headers) == (status in (409, 503))
            assert "do $$" not in answer.text


async def test_two_queries_at_once_in_one_unit_of_work_are_our_mistake(serving: Serving):
    own = APIRouter()

    @own.get("/both")
    async def both(who: Somebody, db: Transaction) -> list[list[str]]:
        return list(await asyncio.gather(db.all(NAMES), db.all(NAMES)))

    async with serving(own) as api:
        assert (await api.get("/both")).status_code == 500


async def test_a_lock_that_another_holds_is_a_conflict(
    serving: Serving, table: TestDatabase, sql: Sql, tenant_id: UUID
):
    [(thing,)] = sql("insert into things (tenant_id, name) values (%s, 'a') returning id::text", tenant_id)
    async with serving(router, APP_LOCK_TIMEOUT_SECONDS="0.1", APP_DATABASE_POOL_SIZE="1") as api:
        with psycopg.connect(table.superuser) as other:
            other.execute("select from things for update")
            answer = await api.patch(f"/things/{thing}", json={"name": "b"}, headers={"If-Match": '"1"'})
            assert (answer.status_code, answer.json()["code"]) == (409, "contended")
        answer = await api.patch(f"/things/{thing}", json={"name": "b"}, headers={"If-Match": '"1"'})
        assert answer.status_code == 200


async def test_a_request_waits_two_seconds_for_a_connection_and_no_longer(serving: Serving):
    async with serving(acts, APP_DATABASE_POOL_SIZE="1") as api:
        holding = asyncio.create_task(api.post("/compiled", json={"name": "sleep"}))
        await busy()
        began = time.monotonic()
        refused = await asyncio.gather(*(api.get("/names") for _ in range(5)))
        assert 1.9 < time.monotonic() - began < 8
        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "overloaded")}
        waiting = asyncio.create_task(api.get("/names"))
        holding.cancel()
        assert (await waiting).status_code == 200
        await assert_whole(api)


async def test_a_thousand_requests_through_one_connection_never_see_another_tenant(
    serving: Serving, sql: Sql, as_principal: AsPrincipal
):
    """Two tenants and nobody take turns, and a third of them are cut off at any moment."""
    two = (uuid4(), uuid4())
    for tenant in (*two, uuid4()):
        sql("insert into things (tenant_id, name) select %s, n::text from generate_series(1, 3) n", tenant)
    chance = random.Random(1)
    free = asyncio.Semaphore(16)  # more would wait for longer than they may
    done = {"answered": 0, "cut off": 0}

    async def request(number: int) -> None:
        who = number % 3
        async with free:
            asked = asyncio.create_task(
                api.get("/whose", headers=as_principal("owner", two[who]))
                if who < 2
                else api.get("/public-whose", headers={"Authorization": ""})
            )
            if cut := chance.random() < 1 / 3:
                await asyncio.sleep(chance.random() * 0.03)
                asked.cancel()
            await asyncio.wait([asked])
        if asked.cancelled() or asked.result().status_code == 503:
            assert cut
            done["cut off"] += 1
            return
        answer = asked.result()
        assert answer.status_code == 200
        assert answer.json() == ([str(two[who])] * 3 if who < 2 else [])
        done["answered"] += 1

    async with serving(acts, APP_DATABASE_POOL_SIZE="1") as api:
        await asyncio.gather(*(request(number) for number in range(1_000)))
        assert done["cut off"] > 100
        assert done["answered"] > 600
        await asyncio.sleep(0.1)
        assert REGISTRY.get_sample_value("db_pool_in_use") == 0
        assert sql(f"select state {OF_THE_APP}", roles.APP) in ([], [("idle",)])
        assert (await api.get("/names")).json() == []


async def test_a_unit_of_work_outside_a_request_is_one_as_well(
    table: TestDatabase, environment: dict[str, str], tenant_id: UUID
):
    database = Database(load(Settings, environment), {})
    await database.open()
    async with database.unit_of_work(tenant_id) as db:
        await db.run(ADD, tenant_id, "kept")
    with pytest.raises(RuntimeError, match="mistake"):
        async with database.unit_of_work(tenant_id) as db:
            await db.run(ADD, tenant_id, "undone")
            raise RuntimeError("a mistake")
    async with database.unit_of_work(tenant_id) as db:
        assert await db.all(NAMES) == ["kept"]
    async with database.unit_of_work(None) as db:
        assert await db.all(NAMES) == []
    with pytest.raises(RuntimeError, match="has not begun, or is over"):
        await db.all(NAMES)
    await database.close(1)


async def test_events_belong_to_the_transaction_that_emitted_them(
    table: TestDatabase, environment: dict[str, str], tenant_id: UUID
):
    heard: list[str] = []

    async def hear(db: Any, event: str) -> None:
        heard.append(event)
        await db.run(ADD, db.tenant_id, event)

    async def fail(db: Any, event: str) -> None:
        if event == "bad":
            raise RuntimeError("a listener's mistake")

    database = Database(load(Settings, environment), {str: (hear, fail)})
    await database.open()
    async with database.unit_of_work(tenant_id) as db:
        await db.emit("good")
        await db.emit(object())
    with pytest.raises(RuntimeError, match="listener"):
        async with database.unit_of_work(tenant_id) as db:
            await db.emit("bad")
    async with database.unit_of_work(tenant_id) as db:
        assert await db.all(NAMES) == ["good"]
    assert heard == ["good", "bad"]
    await database.close(1)


async def test_a_database_that_is_killed_is_a_503_and_found_again_when_it_is_back(
    tmp_path: Path, service_of: Callable[..., Service], tenant_id: UUID
):
    server = Postgres(tmp_path / "postgres")  # one of its own, that may be killed
    server.start()
    try:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as superuser:
            superuser.execute("create database shop")
        migrate(server.dsn("shop"), server.dsn("shop", roles.APP))
        with psycopg.connect(server.dsn("shop"), options=f"-crole={roles.MIGRATOR}") as migrator:
            migrator.execute(TABLE.encode())
        service = service_of(acts, DATABASE_URL=server.dsn("shop", roles.APP), APP_DATABASE_POOL_SIZE="2")
        async with started(service), client_of(service, {}) as api:
            api.headers.update(headers_of(service.identity.access_tokens, tenant_id))
            assert (await api.post("/compiled", json={"name": "good"})).status_code == 200
            await asyncio.gather(api.get("/names"), api.get("/names"))  # so that one connection rests
            under_way = asyncio.create_task(api.post("/compiled", json={"name": "slow query"}))
            await busy()
            kill(server)
            assert (await under_way).status_code == 503
            for _ in range(3):
                answer = await api.get("/names")
                assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
                assert answer.headers["retry-after"] == "1"
            server.start()
            await assert_whole(api, "good")
    finally:
        server.stop()


def kill(server: Postgres) -> None:
    """`kill -9` of PostgreSQL: the postmaster first, so that it restarts none of the others."""
    postmaster = int((server.directory / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
    with psycopg.connect(server.dsn("postgres")) as superuser:
        others = [pid for (pid,) in superuser.execute("select pid from pg_stat_activity").fetchall()]
    for pid in (postmaster, *others):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
