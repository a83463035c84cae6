"""The pool: connections are made once, used again while they are good, and gone when it closes."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from chassis import Settings
from chassis.data import pool
from chassis.data.pool import Database
from chassis.data.queries import Query
from chassis.settings import load
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
