"""API keys as the edge sees them: found by their hash, and remembered for a few seconds."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic
from uuid import UUID

from chassis.data.pool import Database
from chassis.data.queries import query
from chassis.identity.background import Background
from chassis.identity.principal import Principal

PREFIX = "sk_"
ROLE = "api_key"
_LENGTH = 51
_REMEMBERED_SECONDS = 5.0
_MOST_REMEMBERED = 2_000
_USE_NOTED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Key:
    tenant_id: UUID
    id: UUID
    scopes: list[str]
    expires_at: datetime
    used_at: datetime | None


_FIND = query(
    "identity.api_key_by_hash",
    _Key,
    "select {row} from chassis.api_keys where key_hash = $1 and revoked_at is null and expires_at > now()",
)
_NOTE_USE = query(
    "identity.note_use_of_api_key",
    UUID,
    """
    update chassis.api_keys set used_at = now()
    where tenant_id = $1 and id = $2 and (used_at is null or used_at < now() - make_interval(secs => $3))
    """,
)


class ApiKeys:
    """Finds the principal of an API key. A key that was revoked meanwhile is the watch's to know."""

    def __init__(self, database: Database, background: Background) -> None:
        self._database = database
        self._background = background
        self._remembered: dict[bytes, tuple[Principal | None, float]] = {}

    async def principal(self, key: bytes, before_asking: Callable[[], Awaitable[None]]) -> Principal | None:
        """Whose key this is; None when it is none of ours, or not good any more.

        What may refuse to go on is awaited before the database is asked.
        """
        if len(key) != _LENGTH:
            return None
        known = self._remembered.get(key)
        if known is None or known[1] < monotonic():
            await before_asking()
            known = await self._find(key)
            self._remembered.pop(key, None)
            if len(self._remembered) >= _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[key] = known
        return known[0]

    async def _find(self, key: bytes) -> tuple[Principal | None, float]:
        until = monotonic() + _REMEMBERED_SECONDS
        key_hash = hash_of(key)
        async with self._database.unit_of_work(None, lookup=key_hash) as db:
            found = await db.first(_FIND, key_hash)
        if found is None:
            return None, until
        now = datetime.now(UTC)
        if found.used_at is None or (now - found.used_at).total_seconds() > _USE_NOTED_SECONDS:
            self._background.start(self._note_use(found))
        until = min(until, monotonic() + (found.expires_at - now).total_seconds())
        key_id, tenant_id = UUID(int=found.id.int), UUID(int=found.tenant_id.int)  # asyncpg's own type is a subclass
        return Principal(key_id, tenant_id, ROLE, frozenset(found.scopes), key_id), until

    async def _note_use(self, key: _Key) -> None:
        async with self._database.unit_of_work(key.tenant_id) as db:
            await db.run(_NOTE_USE, key.tenant_id, key.id, _USE_NOTED_SECONDS)


def hash_of(key: bytes) -> bytes:
    """What the database knows a key by. A key is random, so one round of a plain hash is enough."""
    return sha256(key).digest()
