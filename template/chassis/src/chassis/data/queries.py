"""SQL with a name and a row type: `PAGE = query("orders.page", Order, "select …")`.

A name makes a query measurable in production and its plan testable before. The row type is a dataclass whose fields
have the names of the selected columns; `{row}` in the SQL stands for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

from asyncpg import Record

from chassis.observe.metrics import query_timer

Row = TypeVar("Row")

QUERIES: dict[str, "Query[Any]"] = {}
"""Every query of the process by name."""


class Query(Generic[Row]):
    """A statement, its name, and how one of its rows is read."""

    __slots__ = ("_read", "_row", "name", "observe", "scan_allowed", "sql")

    def __init__(self, name: str, row: type[Row], sql: str, scan_allowed: str | None) -> None:
        self.name = name
        self.sql = sql.replace("{row}", ", ".join(field.name for field in fields(row))) if is_dataclass(row) else sql
        self.scan_allowed = scan_allowed
        self.observe = query_timer(name)
        self._row = row
        self._read: Callable[[Record], Row] | None = None

    def read(self, records: Sequence[Record]) -> list[Row]:
        """The records as rows."""
        if not records:
            return []
        read = self._read or self._reader(list(records[0].keys()))
        return [read(record) for record in records]

    def _reader(self, columns: list[str]) -> Callable[[Record], Row]:
        row = self._row
        if not is_dataclass(row):
            self._read = lambda record: record[0]
        else:
            names = [field.name for field in fields(row)]
            if names == columns:
                self._read = lambda record: row(*record)
            elif set(names) == set(columns):
                self._read = lambda record: row(**record)
            else:
                raise TypeError(f"query {self.name} selects {columns}, but its row type has {names}")
        return self._read


def query(name: str, row: type[Row], sql: str, *, scan_allowed: str | None = None) -> Query[Row]:
    """Declare a query.

    `row` is a dataclass, or the type of the only column. `scan_allowed` says why a sequential scan is right
    for this query; without it the plan test fails on one. Raises ValueError when the name is taken.
    """
    if name in QUERIES:
        raise ValueError(f"there are two queries with the name {name}")
    QUERIES[name] = Query(name, row, sql, scan_allowed)
    return QUERIES[name]
