"""Connections are made once and used again while they are good; a query has a name, a row type and a metric."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import REGISTRY

from chassis.data import pool
from chassis.data.pool import Database
from chassis.data.queries import QUERIES, Query, query
from chassis.settings import Settings, load
from chassis.testing import TestDatabase

BACKEND = Query("pool.backend", int, "select pg_backend_pid()", None)


@pytest.fixture
async def open_database(database: TestDatabase, environment: dict[str, str]) -> AsyncGenerator[Database]:
    """The test's database, through a pool of one connection."""
    opened = Database(load(Settings, environment | {"APP_DATABASE_POOL_SIZE": "1"}), {})
    await opened.open()
    yield opened
    await opened.close(1)


async def backend(database: Database) -> int:
    """Which server process answers."""
    async with database.unit_of_work(None) as db:
        return await db.one(BACKEND)


async def test_a_connection_is_used_again(open_database: Database):
    assert await backend(open_database) == await backend(open_database)
    assert REGISTRY.get_sample_value("db_pool_in_use") == 0


async def test_a_connection_that_rested_for_too_long_is_not_trusted(
    open_database: Database, monkeypatch: pytest.MonkeyPatch
):
    first = await backend(open_database)
    monkeypatch.setattr(pool, "_LONGEST_REST_SECONDS", 0.0)
    assert await backend(open_database) != first


async def test_a_connection_that_nobody_waits_for_any_more_is_for_the_next_one(
    open_database: Database, monkeypatch: pytest.MonkeyPatch
):
    started = 0
    connect = open_database.connect

    async def connect_slowly() -> Any:
        nonlocal started
        started += 1
        await asyncio.sleep(0.05)
        return await connect()

    monkeypatch.setattr(open_database, "connect", connect_slowly)
    waiting = asyncio.create_task(backend(open_database))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await backend(open_database)
    assert started == 1


async def test_the_end_waits_for_what_is_under_way_but_not_for_ever(
    database: TestDatabase, environment: dict[str, str]
):
    patient, impatient = (Database(load(Settings, environment), {}) for _ in range(2))
    for one, seconds in ((patient, 5), (impatient, 0.05)):
        await one.open()
        connection = await one.acquire()
        closing = asyncio.create_task(one.close(seconds))
        await asyncio.sleep(0.2)
        assert closing.done() is (one is impatient)
        assert connection.is_closed() is (one is impatient)
        one.release(connection)
        await closing
        assert connection.is_closed()
        assert REGISTRY.get_sample_value("db_pool_in_use") == 0


pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Pair:
    first: int
    second: str


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Query[Any]]:
    """The table of queries, as it was again after the test."""
    queries = dict(QUERIES)
    monkeypatch.setattr("chassis.data.queries.QUERIES", queries)
    return queries


def pairs(sql: str) -> Query[Pair]:
    return Query("test.pairs", Pair, sql, None)


async def test_rows_are_of_the_declared_type(open_database: Database):
    two = pairs("select n as first, 'row ' || n as second from generate_series(1, $1::int) n")
    number = Query("test.number", int, "select n from generate_series(1, $1::int) n", None)
    async with open_database.unit_of_work(None) as db:
        assert await db.all(two, 2) == [Pair(1, "row 1"), Pair(2, "row 2")]
        assert await db.first(two, 2) == await db.one(two, 1) == Pair(1, "row 1")
        assert await db.all(number, 3) == [1, 2, 3]
        assert await db.one(number, 1) == 1
        assert await db.run(number, 1) is None
        assert await db.all(two, 0) == []
        assert await db.first(two, 0) is None
        with pytest.raises(LookupError, match=r"query test\.pairs found no row"):
            await db.one(two, 0)


async def test_one_is_only_for_what_has_one_row(open_database: Database):
    async with open_database.unit_of_work(None) as db:
        with pytest.raises(ValueError, match="too many values"):
            await db.one(Query("test.number", int, "select 1 union all select 2", None))


async def test_a_row_names_the_columns_and_their_order_does_not_matter(open_database: Database):
    assert pairs("select {row} from pairs").sql == "select first, second from pairs"
    assert Query("test.number", int, "select '{row}'", None).sql == "select '{row}'"
    async with open_database.unit_of_work(None) as db:
        assert await db.one(pairs("select {row} from (values (1, 'a')) as pairs (first, second)")) == Pair(1, "a")
        assert await db.one(pairs("select 'a' as second, 1 as first")) == Pair(1, "a")


@pytest.mark.parametrize("sql", ["select 1 as first", "select 1 as first, 'a' as second, 2 as x", "select 1 as x, 2"])
async def test_other_columns_than_the_row_has_are_a_mistake(open_database: Database, sql: str):
    async with open_database.unit_of_work(None) as db:
        with pytest.raises(TypeError, match=r"test\.pairs selects \[.*\], but its row type has \['first', 'second'\]"):
            await db.all(pairs(sql))


def test_a_name_belongs_to_one_query(declared: dict[str, Query[Any]]):
    first = query("test.declared", int, "select 1", scan_allowed="a reason")
    assert declared["test.declared"] is first
    assert first.scan_allowed == "a reason"
    with pytest.raises(ValueError, match=r"there are two queries with the name test\.declared"):
        query("test.declared", int, "select 2")
    assert declared["test.declared"] is first


async def test_each_run_is_counted_under_the_name_the_failed_ones_too(open_database: Database):
    def runs() -> float:
        return REGISTRY.get_sample_value("db_query_duration_seconds_count", {"query": "test.measured"}) or 0

    good = Query("test.measured", int, "select 1", None)
    bad = Query("test.measured", int, "select 1 / ($1::int - $1)", None)
    before = runs()
    async with open_database.unit_of_work(None) as db:
        await db.all(good)
        await db.first(good)
        await db.run(good)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await db.one(bad, 1)
        await db.rollback()
    assert runs() - before == 4


async def test_json_is_pythons_own_values_both_ways(open_database: Database):
    echo = Query[dict[str, Any]]("test.echo", dict, "select $1::jsonb", None)
    value = {"text": "ä\u2028", "number": 1, "list": [None, True, 1.5], "id": UUID(int=7)}
    async with open_database.unit_of_work(None) as db:
        assert await db.one(echo, value) == value | {"id": str(UUID(int=7))}


async def test_text_that_looks_like_sql_is_only_text(open_database: Database):
    echo = Query("test.echo", str, "select $1::text", None)
    hostile = "'; drop table chassis.idempotency_keys; --"
    async with open_database.unit_of_work(None) as db:
        assert await db.one(echo, hostile) == hostile
