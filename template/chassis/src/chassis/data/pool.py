"""The pool: a bounded number of connections as the app role, opened when they are first needed."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson

from chassis.data.errors import database_unavailable
from chassis.data.unit_of_work import UnitOfWork
from chassis.features import PACKAGE
from chassis.http.problems import unavailable
from chassis.module import Listener
from chassis.observe.metrics import pool_in_use, pool_size, pool_wait

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from chassis.settings import Settings

    Connection = PoolConnectionProxy[asyncpg.Record]

_CONNECT_SECONDS = 2.0
_WAIT_SECONDS = 2.0


async def _keep(_: Any) -> None:
    """In place of asyncpg's reset query, 24 µs a request: all our state ends with its transaction."""


async def _speak_json(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Have `jsonb` be Python's own values both ways."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_to_json, decoder=orjson.loads)


def _to_json(value: object) -> str:
    return orjson.dumps(value, default=_subclass_to_json).decode()


def _subclass_to_json(value: object) -> str:
    """asyncpg's UUIDs are of a class of its own, which orjson does not take for a UUID."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


class Database:
    """Units of work on one PostgreSQL. It opens although the server is down, and finds it again by itself."""

    def __init__(self, settings: "Settings", listeners: Mapping[type, Sequence[Listener]]) -> None:
        self.listeners = listeners
        self._size = settings.database_pool_size
        self._free = asyncio.Semaphore(self._size)
        self._settings = settings

    async def open(self) -> None:
        """Take part in the running event loop. Connects to nothing yet."""
        settings = self._settings
        pool_size.set(self._size)
        self._pool = await asyncpg.create_pool(
            settings.database_url.get_secret_value() if settings.database_url else None,
            min_size=0,
            max_size=self._size,
            init=_speak_json,
            reset=_keep,
            timeout=_CONNECT_SECONDS,
            server_settings={
                "application_name": PACKAGE,
                "search_path": "public",
                "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
                "lock_timeout": _milliseconds(settings.lock_timeout_seconds),
                "idle_in_transaction_session_timeout": _milliseconds(settings.idle_transaction_timeout_seconds),
            },
        )

    async def close(self, timeout_seconds: float) -> None:
        """Wait for what is under way, then close; what is not done in time is cut off."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    def unit_of_work(self, tenant_id: UUID | None) -> UnitOfWork:
        """A unit of work that has not begun. Without a tenant it sees no tenant's rows."""
        return UnitOfWork(self, tenant_id)

    async def acquire(self) -> "Connection":
        """A connection; a 503 problem when all are busy for 2 seconds."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        try:
            connection = await self._pool.acquire()
        except BaseException as error:
            self._free.release()
            if isinstance(error, OSError):  # refused, unreachable, unknown host or timed out: all before any SQL
                raise database_unavailable() from error
            raise
        pool_in_use.inc()
        return connection

    async def _wait(self) -> None:
        with pool_wait.time():
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._free.acquire()
            except TimeoutError:
                raise unavailable("overloaded", "Every database connection is busy. Try again shortly.") from None

    async def release(self, connection: "Connection", *, clean: bool = True) -> None:
        """Give a connection back; one that is not known to be between transactions is closed instead."""
        pool_in_use.dec()
        self._free.release()
        with suppress(asyncpg.InterfaceError):  # what the server has closed, the pool has taken back already
            if not clean or connection.is_in_transaction():
                connection.terminate()
        await self._pool.release(connection)


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
