"""API keys: how programs call, in one tenant, with some of its permissions, until a day that is known."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.paging import Page, Paging
from chassis.http.reply import Problem, not_found
from chassis.identity import audit
from chassis.identity.accounts import check_still
from chassis.identity.principal import Principal

if TYPE_CHECKING:
    from chassis.data.pool import Database
    from chassis.identity.identity import Background, Identity

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

    def __init__(self, database: "Database", background: "Background") -> None:
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
            self._background.offer(self._note_use(found))
        until = min(until, monotonic() + (found.expires_at - now).total_seconds())
        key_id, tenant_id = UUID(int=found.id.int), UUID(int=found.tenant_id.int)  # asyncpg's own type is a subclass
        return Principal(key_id, tenant_id, ROLE, frozenset(found.scopes), key_id), until

    async def _note_use(self, key: _Key) -> None:
        async with self._database.unit_of_work(key.tenant_id) as db:
            await db.run(_NOTE_USE, key.tenant_id, key.id, _USE_NOTED_SECONDS)


def hash_of(key: bytes) -> bytes:
    """What the database knows a key by. A key is random, so one round of a plain hash is enough."""
    return sha256(key).digest()


LONGEST_DAYS = 365

FOR_PEOPLE = frozenset({"account:manage", "api_keys:manage", "members:manage"})
"""What no key gets: one that could make keys, or act as a person, would outlive the revocation of itself."""
_SHOWN = 11
"""Characters of a key that lists show: enough to tell one's own keys apart."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_by: UUID
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey(ApiKey):
    key: str
    """Shown this once."""


_CREATE = query(
    "identity.create_api_key",
    ApiKey,
    """
    insert into chassis.api_keys (tenant_id, name, prefix, key_hash, scopes, created_by, expires_at)
    values ($1, $2, $3, $4, $5, $6, now() + make_interval(days => $7))
    returning {row}
    """,
)
_PAGE = query(
    "identity.api_keys",
    ApiKey,
    """
    select {row} from chassis.api_keys
    where tenant_id = $1 and (created_at, id) < ($2, $3)
    order by created_at desc, id desc
    limit $4
    """,
    scan_allowed="what filters is the policy, which every row of the tenant passes",
)
_REVOKE = query(
    "identity.revoke_api_key",
    UUID,
    """
    with revoked as (
        update chassis.api_keys set revoked_at = now()
        where tenant_id = $1 and id = $2 and revoked_at is null
        returning id
    )
    insert into chassis.revocations (id) select id from revoked returning id
    """,
)


async def create(db: UnitOfWork, who: Principal, name: str, scopes: frozenset[str], days: int) -> NewApiKey:
    """Make a key with permissions that its maker has. Raises a 422 problem for others."""
    await check_still(db, who)
    if refused := sorted(scopes - (who.permissions - FOR_PEOPLE)):
        raise Problem(422, "scope_refused", f"You cannot give a key the permission '{refused[0][:50]}'.")
    key = PREFIX + token_hex(24)
    made = await db.one(
        _CREATE, who.tenant_id, name, key[:_SHOWN], hash_of(key.encode()), sorted(scopes), who.subject, days
    )
    await audit.record(db, "authn_token_created", actor=who.subject, subject=made.id, scopes=" ".join(sorted(scopes)))
    return NewApiKey(
        made.id, made.name, made.prefix, made.scopes, made.created_by, made.created_at, made.expires_at, None, None, key
    )


async def page(db: UnitOfWork, who: Principal, paging: Paging) -> Page[ApiKey]:
    """The keys of the tenant, those that do not work any more too."""
    return paging.page(await db.all(_PAGE, who.tenant_id, *paging.before(), paging.fetch))


async def revoke(identity: "Identity", db: UnitOfWork, who: Principal, key_id: UUID) -> None:
    """Have a key work no more: within seconds everywhere, at once on this replica."""
    revoked = await db.first(_REVOKE, who.tenant_id, key_id)
    if revoked is None:
        raise not_found()
    db.after_commit(lambda: identity.watch.heard(revoked))
    await audit.record(db, "authn_token_revoked", actor=who.subject, subject=key_id)
