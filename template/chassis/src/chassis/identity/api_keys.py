"""API keys: how programs call, in one tenant, with some of its permissions, until a day that is known."""

from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from uuid import UUID

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.paging import Page, Paging
from chassis.http.problems import Problem, not_found
from chassis.identity import audit
from chassis.identity.identity import Identity
from chassis.identity.key_lookup import PREFIX, hash_of
from chassis.identity.principal import Principal

LONGEST_DAYS = 365

# A key that could make keys, or act as a person, would outlive the revocation of itself.
_FOR_PEOPLE = frozenset({"account:manage", "api_keys:manage", "members:manage"})
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
    if refused := sorted(scopes - (who.permissions - _FOR_PEOPLE)):
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


async def revoke(identity: Identity, db: UnitOfWork, who: Principal, key_id: UUID) -> None:
    """Have a key work no more: within seconds everywhere, at once on this replica."""
    revoked = await db.first(_REVOKE, who.tenant_id, key_id)
    if revoked is None:
        raise not_found()
    db.after_commit(lambda: identity.watch.heard(revoked))
    await audit.record(db, "authn_token_revoked", actor=who.subject, subject=key_id)
