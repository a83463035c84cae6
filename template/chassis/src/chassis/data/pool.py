"""The pool: a bounded number of connections as the app role, opened when they are first needed.

asyncpg's own pool resets a connection with a query, and makes a task and a proxy, each time one is given back: 40 µs a
request. Here nothing is to be reset, since all our state ends with its transaction.
"""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import orjson

from chassis.data.unit_of_work import UnitOfWork
from chassis.features import PACKAGE
from chassis.http.reply import Problem, deadline_exceeded, unavailable
from chassis.module import Listener
from chassis.observe.metrics import pool_in_use, pool_size, pool_wait

if TYPE_CHECKING:
    from chassis.settings import Settings

    Connection = asyncpg.Connection[asyncpg.Record]

CONTENDED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
GONE = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a connection that the server is just ending, whatever its text says
)


def problem_of(error: Exception) -> Problem | None:
    """The problem for a failure of the database; None when the error is something else, such as our own mistake."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return deadline_exceeded()
    if isinstance(error, CONTENDED):
        return Problem(
            409,
            "contended",
            "Another request is changing the same thing. Try again shortly.",
            headers=((b"retry-after", b"1"),),
        )
    if isinstance(error, GONE) and not _our_mistake(error):
        return database_unavailable()
    return None


def _our_mistake(error: Exception) -> bool:
    """Whether an error of the client is not about the connection: a wrong argument, or two queries at once on one."""
    return isinstance(error, ValueError) or "another operation is in progress" in str(error)


def database_unavailable() -> Problem:
    """The 503 while PostgreSQL is down, starting or full."""
    return unavailable("database_unavailable", "The database cannot be reached. Try again shortly.")


_CONNECT_SECONDS = 2.0
_WAIT_SECONDS = 2.0
_LONGEST_REST_SECONDS = 300.0  # firewalls and balancers forget a silent connection, often after 350


async def _speak_json(connection: "Connection") -> None:
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
        self._settings = settings
        self._connections: set[Connection] = set()
        self._resting: list[tuple[Connection, float]] = []
        """Each with when it was given back; the last one is used next, so that few connections do most of the work."""

    async def open(self) -> None:
        """Take part in the running event loop. Connects to nothing yet."""
        self._free = asyncio.Semaphore(self._size)
        pool_size.set(self._size)
        pool_in_use.set_function(lambda: len(self._connections) - len(self._resting))

    async def close(self, timeout_seconds: float) -> None:
        """Wait for what is under way, then close; what is not done in time is cut off."""
        try:
            async with asyncio.timeout(timeout_seconds):
                for _ in range(self._size):
                    await self._free.acquire()
                while self._connections:
                    await self._connections.pop().close()
        except TimeoutError:
            for connection in self._connections:
                connection.terminate()
        self._connections.clear()
        self._resting.clear()

    def unit_of_work(
        self, tenant_id: UUID | None, *, account_id: UUID | None = None, lookup: bytes | None = None
    ) -> UnitOfWork:
        """A unit of work that has not begun. Without a tenant it sees no tenant's rows.

        `account_id` shows the rows of a person, `lookup` the one row that is found by it: see the identity migration.
        """
        return UnitOfWork(self, tenant_id, account_id, lookup)

    async def acquire(self) -> "Connection":
        """A connection; a 503 problem when all are busy for 2 seconds."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()
        connection = self._rested()
        if connection is not None:
            return connection
        # To be cancelled in the middle of a handshake is what asyncpg cannot do cleanly: so nobody's end ends it.
        connecting = asyncio.create_task(self._connect())
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(self._keep)
            raise
        except BaseException as error:
            self._free.release()
            if isinstance(error, OSError):  # refused, unreachable, unknown host or timed out: all before any SQL
                raise database_unavailable() from error
            raise

    def _keep(self, connecting: "asyncio.Task[Connection]") -> None:
        """Have the next one use the connection that was made for someone who is gone."""
        if connecting.cancelled() or connecting.exception() is not None:
            self._free.release()
        else:
            self.release(connecting.result())

    def release(self, connection: "Connection", *, clean: bool = True) -> None:
        """Give a connection back; one that is not known to be between transactions is closed instead."""
        if not connection.is_closed() and clean and not connection.is_in_transaction():
            self._resting.append((connection, monotonic()))
        else:
            connection.terminate()
            self._connections.discard(connection)
        self._free.release()

    def _rested(self) -> "Connection | None":
        while self._resting:
            connection, since = self._resting.pop()
            if not connection.is_closed():
                if monotonic() - since < _LONGEST_REST_SECONDS:
                    return connection
                connection.terminate()
            self._connections.discard(connection)
        return None

    async def _connect(self) -> "Connection":
        connection = await self.connect()
        try:
            await _speak_json(connection)
        except BaseException:
            connection.terminate()
            raise
        self._connections.add(connection)
        return connection

    async def connect(self, name: str = PACKAGE) -> "Connection":
        """A connection of the caller's own, beside the pool: close it. `name` is what pg_stat_activity shows."""
        settings = self._settings
        return await asyncpg.connect(
            settings.database_url.get_secret_value() if settings.database_url else None,
            timeout=_CONNECT_SECONDS,
            server_settings={
                "application_name": name,
                "search_path": "public",
                "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
                "lock_timeout": _milliseconds(settings.lock_timeout_seconds),
                "idle_in_transaction_session_timeout": _milliseconds(settings.idle_transaction_timeout_seconds),
            },
        )

    async def _wait(self) -> None:
        with pool_wait.time():
            try:
                async with asyncio.timeout(_WAIT_SECONDS):
                    await self._free.acquire()
            except TimeoutError:
                raise unavailable("overloaded", "Every database connection is busy. Try again shortly.") from None


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
