"""The unit of work: one transaction, one tenant, committed before the answer leaves.

`Transaction` in a handler's signature is a unit of work of the caller's tenant. Three round trips: one simple message
that begins and names the tenant, the handler's own queries, one that commits.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from uuid import UUID

from asyncpg import InFailedSQLTransactionError, Record
from fastapi import Request
from fastapi.params import Depends

from chassis.data.queries import Query
from chassis.http.reply import unauthenticated

if TYPE_CHECKING:
    from chassis.data.pool import Connection, Database

Row = TypeVar("Row")

_ROLLBACK_SECONDS = 2.0


class UnitOfWork:
    """A transaction in which PostgreSQL shows and takes the rows of `tenant_id` alone.

    Use it as a context manager outside a request; an exception rolls it back.
    """

    __slots__ = ("_after", "_connection", "_database", "_settings", "tenant_id")

    def __init__(
        self,
        database: "Database",
        tenant_id: UUID | None,
        account_id: UUID | None = None,
        lookup: bytes | None = None,
    ) -> None:
        self._database = database
        self.tenant_id = tenant_id
        self._settings = _settings(tenant_id, account_id)
        if lookup:
            self._settings += f"SET LOCAL app.lookup='{lookup.hex()}';"
        self._connection: Connection | None = None
        self._after: list[Callable[[], object]] = []

    async def begin(self, then: str = "") -> str:
        """Begin, name the tenant, and run `then` in the same message; returns the status of the last statement.

        `then` is SQL text without parameters: render into it only what was parsed, never what was sent.
        """
        self._connection = await self._database.acquire()
        try:
            return await self._connection.execute(f"BEGIN;{self._settings}{then}")
        except BaseException:
            await self.rollback()
            raise

    async def commit(self, first: str = "") -> None:
        """Run `first` (see `begin`) and commit. When this raises, nothing was kept."""
        connection = self._connected()
        try:
            if await connection.execute(f"{first}COMMIT") != "COMMIT":
                raise InFailedSQLTransactionError("a query failed before, so PostgreSQL rolled back instead")
        except BaseException:
            await self.rollback()
            raise
        self._connection = None
        self._database.release(connection)
        for callback in self._after:
            callback()

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Call `callback` once everything is kept; never if it is not."""
        self._after.append(callback)

    async def act_as(self, tenant_id: UUID | None = None, account_id: UUID | None = None) -> None:
        """Go on as a tenant, an account or both that were only found out within this transaction."""
        if tenant_id:
            self.tenant_id = tenant_id
        await self._connected().execute(_settings(tenant_id, account_id))

    async def rollback(self) -> None:
        """Undo, and give the connection back: clean, or closed when the server does not answer in time."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        clean = False
        try:
            with suppress(Exception):
                async with asyncio.timeout(_ROLLBACK_SECONDS):
                    await connection.execute("ROLLBACK")
                clean = True
        finally:
            self._database.release(connection, clean=clean)

    async def settle(self, *, commit: bool) -> None:
        """Commit or roll back, unless that has been done."""
        if self._connection is not None:
            await (self.commit() if commit else self.rollback())

    async def all(self, query: Query[Row], *arguments: Any) -> list[Row]:
        """Every row."""
        return query.read(await self._fetch(query, arguments))

    async def first(self, query: Query[Row], *arguments: Any) -> Row | None:
        """The first row, or None."""
        rows = query.read(await self._fetch(query, arguments))
        return rows[0] if rows else None

    async def one(self, query: Query[Row], *arguments: Any) -> Row:
        """The only row of a query that always has one, such as `insert … returning`. Raises LookupError otherwise."""
        (row,) = query.read(await self._fetch(query, arguments)) or (None,)
        if row is None:
            raise LookupError(f"query {query.name} found no row")
        return row

    async def run(self, query: Query[Any], *arguments: Any) -> None:
        """Run a query for its effect."""
        await self._fetch(query, arguments)

    async def emit(self, event: object) -> None:
        """Tell the modules that listen; what they do belongs to this transaction."""
        for listener in self._database.listeners.get(type(event), ()):
            await listener(self, event)

    async def _fetch(self, query: Query[Any], arguments: tuple[Any, ...]) -> list[Record]:
        started = perf_counter()
        try:
            return await self._connected().fetch(query.sql, *arguments)
        finally:
            query.observe(perf_counter() - started)

    def _connected(self) -> "Connection":
        if self._connection is None:
            raise RuntimeError("the unit of work has not begun, or is over")
        return self._connection

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.settle(commit=error is None)


def _settings(tenant_id: UUID | None, account_id: UUID | None) -> str:
    # Rendered from parsed values: nothing that was sent becomes SQL.
    tenant = f"SET LOCAL app.tenant_id='{UUID(int=tenant_id.int)}';" if tenant_id else ""
    return tenant + (f"SET LOCAL app.account_id='{UUID(int=account_id.int)}';" if account_id else "")


async def transaction(request: Request) -> UnitOfWork:
    """Only for handlers that FastAPI itself calls: the edge settles it before the first byte of the answer."""
    exchange = request.scope["chassis.exchange"]
    principal = exchange.principal
    if principal is None:
        raise unauthenticated()
    if exchange.transaction is None:
        exchange.transaction = exchange.edge.database.unit_of_work(principal.tenant_id)
        await exchange.transaction.begin()
    return exchange.transaction


Transaction = Annotated[UnitOfWork, Depends(transaction)]
"""In a handler's signature: a unit of work of the caller's tenant, begun before the handler and committed after it."""
