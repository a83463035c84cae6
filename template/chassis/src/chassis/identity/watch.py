"""What every replica must hear of soon, and asks for every few seconds: what was revoked, and new signing keys.

Bound: a token stops within `PERIOD_SECONDS` of its session's end, at once on the replica that ended it. When the
database could not be asked for `STALE_SECONDS`, no token is accepted at all, since it could have been revoked.
"""

import asyncio
import math
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from chassis.data.pool import Database
from chassis.data.queries import Query, query
from chassis.features import PACKAGE
from chassis.http.reply import Problem, unavailable
from chassis.identity.tokens import LIFETIME_SECONDS, OVERLAP, KeyRing, SealedKey
from chassis.observe.logs import get_logger

if TYPE_CHECKING:
    from chassis.data.pool import Connection

T = TypeVar("T")

PERIOD_SECONDS = 5.0
STALE_SECONDS = 25.0

_REMEMBERED_SECONDS = LIFETIME_SECONDS + 60.0
"""Later than this no token of a revoked session is left."""
_FORGET_EVERY = 100
"""Periods between two deletions of what nobody asks for any more."""

_log = get_logger("chassis.identity")

_KEYS = query(
    "identity.signing_keys",
    SealedKey,
    "select {row} from chassis.signing_keys",
    scan_allowed="a handful of rows",
)
_MAKING_KEY = query(
    "identity.making_signing_key", str, "select pg_advisory_xact_lock(hashtext('chassis.signing_keys'))"
)
ADD_KEY = query(
    "identity.add_signing_key",
    str,
    "insert into chassis.signing_keys (kid, sealed, signs_from) values ($1, $2, $3)",
)
_REVOKED = query(
    "identity.revoked",
    UUID,
    "select id from chassis.revocations where revoked_at > now() - make_interval(secs => $1)",
    scan_allowed="all of them are wanted: what was ended within minutes",
)
_FORGET = query(
    "identity.forget_revoked",
    UUID,
    "delete from chassis.revocations where revoked_at < now() - make_interval(secs => $1)",
    scan_allowed="it deletes what it reads",
)


class Watch:
    """This replica's knowledge of keys and revocations, and how old it is.

    It asks on a connection of its own: a pool that is busy must not make every token worthless.
    """

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._database = database
        self._keys = keys
        self._connection: Connection | None = None
        self._revoked: frozenset[UUID] = frozenset()
        self._heard: dict[UUID, float] = {}
        self._fresh_until = -math.inf
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask once, then go on asking in the background. A database that is down is no reason not to start."""
        await self._try()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._disconnect()

    def revoked(self, session_id: UUID | None) -> bool:
        """Whether a session or API key has ended. Raises a 503 problem when too little is known to say."""
        self.check_fresh()
        return session_id in self._revoked

    def check_fresh(self) -> None:
        """Raise a 503 problem when too little is known to judge any token."""
        if monotonic() > self._fresh_until:
            raise stale()

    def heard(self, *ids: UUID) -> None:
        """Know of what this replica itself has ended, without asking."""
        self._heard.update(dict.fromkeys(ids, monotonic()))
        self._revoked |= self._heard.keys()

    async def refresh(self) -> None:
        """Ask now. Raises whatever the database does."""
        asked = monotonic()
        connection = self._connection = self._connection or await self._database.connect(f"{PACKAGE} watch")
        if not self._keys.read(await _all(connection, _KEYS)):
            await self._first_key(connection)
        revoked = await _all(connection, _REVOKED, _REMEMBERED_SECONDS)
        # What was heard while the question was under way may not be in the answer.
        self._heard = {one: when for one, when in self._heard.items() if when > asked}
        self._revoked = frozenset(revoked) | self._heard.keys()
        self._fresh_until = asked + STALE_SECONDS

    async def _first_key(self, connection: "Connection") -> None:
        """Make a key that signs at once, unless another replica is just doing so."""
        async with connection.transaction():
            await _all(connection, _MAKING_KEY)
            if not self._keys.read(await _all(connection, _KEYS)):
                first = self._keys.new(datetime.now(UTC) - OVERLAP)  # whatever another replica's clock says
                await _all(connection, ADD_KEY, first.kid, first.sealed, first.signs_from)
                self._keys.read(await _all(connection, _KEYS))

    async def _run(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            rounds += 1
            await self._try(forget=rounds % _FORGET_EVERY == 0)

    async def _try(self, *, forget: bool = False) -> None:
        try:
            async with asyncio.timeout(PERIOD_SECONDS):
                await self.refresh()
                if forget and self._connection is not None:
                    await _all(self._connection, _FORGET, 2 * _REMEMBERED_SECONDS)
        except Exception as error:
            self._disconnect()
            _log.warning("revocations could not be read", error=error)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _all(connection: "Connection", query: Query[T], *arguments: object) -> list[T]:
    return query.read(await connection.fetch(query.sql, *arguments))


def stale() -> Problem:
    """The 503 while nobody can tell which tokens are revoked."""
    return unavailable("authentication_unavailable", "Tokens cannot be checked at the moment. Try again shortly.")
