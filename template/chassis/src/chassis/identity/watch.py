"""What every replica must hear of soon: revoked sessions and new signing keys. Asked for every few seconds.

Bound: a token stops within `PERIOD_SECONDS` of its session's end, at once on the replica that ended it. When the
database could not be asked for `STALE_SECONDS`, no token is accepted at all, since it could have been revoked.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from uuid import UUID

from chassis.data.pool import Database
from chassis.data.queries import query
from chassis.http.problems import Problem, unavailable
from chassis.identity.keys import KeyRing, SealedKey
from chassis.identity.tokens import LIFETIME_SECONDS
from chassis.observe.logs import get_logger

PERIOD_SECONDS = 5.0
STALE_SECONDS = 25.0

_log = get_logger("chassis.identity")

_KEYS = query(
    "identity.signing_keys",
    SealedKey,
    "select {row} from chassis.signing_keys",
    scan_allowed="a handful of rows",
)
_FIRST_KEY = query(
    "identity.first_signing_key",
    str,
    """
    insert into chassis.signing_keys (kid, sealed, signs_from)
    select $1, $2, $3 where not exists (select from chassis.signing_keys)
    """,
    scan_allowed="a handful of rows",
)
_REVOKED = query(
    "identity.revoked",
    UUID,
    "select id from chassis.revocations where revoked_at > now() - make_interval(secs => $1)",
)


class Watch:
    """This replica's knowledge of keys and revocations, and how old it is."""

    def __init__(self, database: Database, keys: KeyRing) -> None:
        self._database = database
        self._keys = keys
        self._revoked: frozenset[UUID] = frozenset()
        self._fresh_until = 0.0
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

    def revoked(self, session_id: UUID | None) -> bool:
        """Whether a session has ended. Raises a 503 problem when too little is known to say."""
        if monotonic() > self._fresh_until:
            raise stale()
        return session_id in self._revoked

    def heard(self, *session_ids: UUID) -> None:
        """Know of sessions that this replica itself has ended, without asking."""
        self._revoked |= frozenset(session_ids)

    async def refresh(self) -> None:
        """Ask now. Raises whatever the database does."""
        async with self._database.unit_of_work(None) as db:
            keys = await db.all(_KEYS)
            if not keys:
                first = self._keys.new(datetime.now(UTC))
                await db.run(_FIRST_KEY, first.kid, first.sealed, first.signs_from)
                keys = await db.all(_KEYS)
            revoked = await db.all(_REVOKED, float(LIFETIME_SECONDS + 60))
        self._keys.read(keys)
        self._revoked = frozenset(revoked)
        self._fresh_until = monotonic() + STALE_SECONDS

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            await self._try()

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(PERIOD_SECONDS):
                await self.refresh()
        except (Exception, Problem) as error:
            _log.warning("revocations could not be read", error=type(error).__name__)


def stale() -> Problem:
    return unavailable("authentication_unavailable", "Tokens cannot be checked at the moment. Try again shortly.")
