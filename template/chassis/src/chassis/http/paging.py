"""Keyset pages: a list goes on where it stopped, however long it is and whatever was inserted meanwhile."""

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from hmac import compare_digest
from typing import Annotated, Generic, Protocol, TypeVar
from uuid import UUID

from fastapi import Query, Request
from fastapi.params import Depends

from chassis.http.reply import bad_request

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY = struct.Struct(">q16s")
_MAC_BYTES = 12
_FIRST_ID, _LAST_ID = UUID(int=0), UUID(int=2**128 - 1)
_START = (datetime.max.replace(tzinfo=UTC), _LAST_ID)
_END = datetime.min.replace(tzinfo=UTC)


class Keyed(Protocol):
    """What can be paged: newest first, the id deciding between equal times."""

    @property
    def created_at(self) -> datetime: ...

    @property
    def id(self) -> UUID: ...


Item = TypeVar("Item", bound=Keyed)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and the cursor of the next page, if there is one."""

    items: list[Item]
    next: str | None


class Paging:
    """Where a page starts, and how long it may be.

    Pass `before()` and `fetch` to a query that ends in `where (created_at, id) < ($1, $2) order by created_at desc,
    id desc limit $3`, and its rows to `page`. Every page has bounds, the first one too: with `or $1 is null` or
    `coalesce` in the condition, no index could serve it.
    """

    __slots__ = ("_key", "_start", "limit")

    def __init__(self, limit: int, cursor: str | None, key: bytes) -> None:
        self.limit = limit
        self._key = key
        self._start = _START if cursor is None else self._decode(cursor)

    def before(self, end: datetime | None = None) -> tuple[datetime, UUID]:
        """What every row of the page is less than. `end` leaves out rows of that time and later.

        It is one bound, not two: with two, PostgreSQL would read its way from one to the other on every page.
        """
        return self._start if end is None else min(self._start, (end, _FIRST_ID))

    def since(self, begin: datetime | None) -> datetime:
        """What no row's `created_at` may be less than."""
        return _END if begin is None else begin

    @property
    def fetch(self) -> int:
        """One row more than the page holds: it tells whether there is a next page."""
        return self.limit + 1

    def page(self, rows: Sequence[Item]) -> Page[Item]:
        """The rows as a page with its cursor."""
        items = list(rows[: self.limit])
        return Page(items, self._encode(items[-1]) if len(rows) > self.limit else None)

    def _encode(self, last: Keyed) -> str:
        payload = _KEY.pack((last.created_at - _EPOCH) // timedelta(microseconds=1), last.id.bytes)
        return base64.urlsafe_b64encode(payload + self._mac(payload)).decode()

    def _decode(self, cursor: str) -> tuple[datetime, UUID]:
        try:
            token = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
            payload, mac = token[: _KEY.size], token[_KEY.size :]
            if not compare_digest(mac, self._mac(payload)):
                raise ValueError
            microseconds, identifier = _KEY.unpack(payload)
            return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=identifier)
        except (ValueError, binascii.Error, struct.error):
            raise bad_request(
                "cursor_malformed", "This cursor is not one that this list gave: start again without it."
            ) from None

    def _mac(self, payload: bytes) -> bytes:
        return blake2b(payload, key=self._key, digest_size=_MAC_BYTES).digest()


async def _paging(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100, description="How many items at the most.")] = 20,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before.")] = None,
) -> Paging:
    return Paging(limit, cursor, request.scope["chassis.exchange"].cursor_key())


PageRequest = Annotated[Paging, Depends(_paging)]
"""`limit` and `cursor` of the query string; a cursor that this list did not make for this tenant is a 400 problem."""
