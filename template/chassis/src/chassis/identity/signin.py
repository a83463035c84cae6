"""Signing in, and staying so: each refresh token is good once, and brings the next one.

A refresh token that comes a second time means that two parties have it, and nobody can tell which is the thief: the
session ends for both (RFC 9700, section 4.14.2). That holds for a client that sends it twice at once, too.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.reply import Problem
from chassis.identity import accounts, audit, sessions
from chassis.identity.accounts import Account, Address
from chassis.identity.identity import Identity
from chassis.identity.one_time import Opaque
from chassis.identity.sessions import ABSOLUTE_SECONDS, IDLE_SECONDS
from chassis.identity.tokens import LIFETIME_SECONDS
from chassis.identity.watch import stale
from chassis.observe.logs import get_logger

_log = get_logger("chassis.identity")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a client calls with from now on."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  (RFC 6750's word, not a secret)
    expires_in: int = LIFETIME_SECONDS


@dataclass(frozen=True, slots=True)
class _Session:
    id: UUID
    account_id: UUID
    tenant_id: UUID
    family_id: UUID
    user_agent: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Stale:
    account_id: UUID
    tenant_id: UUID
    family_id: UUID
    is_revoked: bool
    was_replaced: bool


# The latest tenant of the account; with no session yet, the first one.
_TENANT = query(
    "identity.tenant_to_sign_in_to",
    UUID,
    """
    select m.tenant_id from chassis.memberships m
    where m.account_id = $1
    order by (select max(s.used_at) from chassis.sessions s
              where s.account_id = $1 and s.tenant_id = m.tenant_id) desc nulls last, m.created_at, m.tenant_id
    limit 1
    """,
)
# Held until the commit, so that nobody can disable the account or take the role away in between.
_ROLE = query(
    "identity.role_for_session",
    str,
    """
    select m.role from chassis.memberships m join chassis.accounts a on a.id = m.account_id
    where m.tenant_id = $1 and m.account_id = $2 and a.disabled_at is null
      and ($3::text is null or a.password_hash = $3)
    for share
    """,
)
_START = query(
    "identity.start_session",
    UUID,
    """
    insert into chassis.sessions (id, account_id, tenant_id, token_hash, user_agent, expires_at, family_id)
    values ($1, $2, $3, $4, $5, coalesce($6::timestamptz, now() + make_interval(secs => $7)), coalesce($8::uuid, $1))
    """,
)
_ROTATE = query(
    "identity.rotate_refresh_token",
    _Session,
    """
    update chassis.sessions set token_hash = $3, used_at = now()
    where id = $1 and token_hash = $2 and revoked_at is null
      and expires_at > now() and used_at > now() - make_interval(secs => $4)
    returning {row}
    """,
)
_STALE = query(
    "identity.stale_refresh_token",
    _Stale,
    """
    select account_id, tenant_id, family_id, revoked_at is not null as is_revoked, token_hash <> $2 as was_replaced
    from chassis.sessions where id = $1
    """,
)
_REHASH = query(
    "identity.rehash",
    UUID,
    "update chassis.accounts set password_hash = $3 where id = $1 and password_hash = $2",
)
_PERSONAL_TENANT = query(
    "identity.personal_tenant",
    UUID,
    """
    with tenant as (insert into chassis.tenants (id, name) values ($1, 'Personal'))
    insert into chassis.memberships (tenant_id, account_id, role) values ($1, $2, 'owner')
    """,
)


async def sign_in(identity: Identity, address: Address, password: str, user_agent: str | None) -> Tokens:
    """Start a session. A wrong password and an unknown address are the same 401 problem, after the same work."""
    async with identity.database.unit_of_work(None, lookup=address.lookup) as db:
        account = await db.first(accounts.BY_ADDRESS, address.canonical)
    matches = await identity.passwords.matches(password, account.password_hash if account else None)
    # To say that an address is not verified yet would tell whoever has just signed up with it that nobody had before.
    if account is None or not matches or not _welcome(identity, account):
        reason = "account" if matches else "password" if account else "unknown"
        _log.warning("authn_login_fail", account=account.id if account else None, reason=reason)
        raise _refused()
    async with identity.database.unit_of_work(None, account_id=account.id) as db:
        await db.act_as(tenant_id=await db.first(_TENANT, account.id) or await _personal_tenant(db, account))
        tokens = await _start(identity, db, account.id, user_agent, password_hash=account.password_hash)
        await audit.record(db, "authn_login_success", actor=account.id, subject=account.id)
    if identity.passwords.outdated(account.password_hash):
        identity.background.offer(_rehash(identity, account, password))
    return tokens


def _welcome(identity: Identity, account: Account) -> bool:
    return not account.disabled_at and (account.verified_at is not None or not identity.verified_only)


async def refresh(identity: Identity, token: str) -> Tokens:
    """Exchange a refresh token for new tokens. Raises a 401 problem, and ends the session when it was used before."""
    used = _read(identity, token)
    async with identity.database.unit_of_work(None, lookup=used.id.bytes) as db:
        fresh, fresh_hash = identity.refresh_tokens.new(used.id)
        session = await db.first(_ROTATE, used.id, used.hash, fresh_hash, IDLE_SECONDS)
        if session is not None:
            await db.act_as(session.tenant_id, session.account_id)
            role = await db.first(_ROLE, session.tenant_id, session.account_id, None)
            if role is not None:
                return Tokens(_access_token(identity, session.id, session.account_id, session.tenant_id, role), fresh)
        await _stop(identity, db, used, rotated=session is not None)
    raise _refused()


async def switch(identity: Identity, token: str, tenant_id: UUID) -> Tokens:
    """Go on in another tenant of the same account: a new session, which lasts no longer than the one that it replaces.

    It takes the refresh token, since it gives one: an access token alone must not be worth more than its ten minutes.
    """
    used = _read(identity, token)
    async with identity.database.unit_of_work(None, lookup=used.id.bytes) as db:
        session = await db.first(_ROTATE, used.id, used.hash, b"", IDLE_SECONDS)
        if session is not None:
            await db.act_as(session.tenant_id, session.account_id)
            await sessions.end(identity, db, session.account_id, only=session.id)
            await db.act_as(tenant_id)
            tokens = await _start(identity, db, session.account_id, session.user_agent, switched_from=session)
            await audit.record(
                db, "authn_login_success", actor=session.account_id, subject=session.account_id, how="switch"
            )
            return tokens
        await _stop(identity, db, used, rotated=False)
    raise _refused()


async def _start(
    identity: Identity,
    db: UnitOfWork,
    account_id: UUID,
    user_agent: str | None,
    *,
    password_hash: str | None = None,
    switched_from: _Session | None = None,
) -> Tokens:
    """A session in the tenant of `db`; a 401 problem unless the account is a member there and as it was."""
    tenant_id, session_id = db.tenant_id, uuid4()
    role = await db.first(_ROLE, tenant_id, account_id, password_hash)
    if role is None or tenant_id is None:
        raise _refused()
    token, token_hash = identity.refresh_tokens.new(session_id)
    expires_at, family_id = (switched_from.expires_at, switched_from.family_id) if switched_from else (None, None)
    await db.run(
        _START, session_id, account_id, tenant_id, token_hash, user_agent, expires_at, ABSOLUTE_SECONDS, family_id
    )
    return Tokens(_access_token(identity, session_id, account_id, tenant_id, role), token)


async def _stop(identity: Identity, db: UnitOfWork, used: Opaque, *, rotated: bool) -> None:
    """A token that we made is not good any more: end its session, because it was stolen, or its time is over.

    `rotated` says that the token was still good, and the account's right to the tenant was not.
    """
    session = await db.first(_STALE, used.id, used.hash)
    if session is None:
        return
    await db.act_as(session.tenant_id, session.account_id)
    ended = await sessions.end(identity, db, session.account_id, family_id=session.family_id)
    if not ended:
        return  # it was signed out before, and what was switched from it as well
    if session.is_revoked or (session.was_replaced and not rotated):
        await audit.record(db, "authn_token_reuse", actor=session.account_id, subject=used.id)
    else:
        await audit.record(db, "session_expired", actor=session.account_id, subject=used.id)


async def _personal_tenant(db: UnitOfWork, account: Account) -> UUID:
    """For who was removed from every tenant: a new one, as at the beginning."""
    tenant_id = uuid4()
    await db.act_as(tenant_id=tenant_id)
    await db.run(_PERSONAL_TENANT, tenant_id, account.id)
    return tenant_id


async def _rehash(identity: Identity, account: Account, password: str) -> None:
    """Hash anew at today's cost."""
    hashed = await identity.passwords.hash(password)
    async with identity.database.unit_of_work(None, account_id=account.id) as db:
        await db.run(_REHASH, account.id, account.password_hash, hashed)


def _access_token(identity: Identity, session_id: UUID, account_id: UUID, tenant_id: UUID, role: str) -> str:
    try:
        return identity.access_tokens.issue(subject=account_id, tenant_id=tenant_id, role=role, session_id=session_id)
    except LookupError:
        raise stale() from None


def _read(identity: Identity, token: str) -> Opaque:
    used = identity.refresh_tokens.read(token)
    if used is None:
        raise _refused()
    return used


def _refused() -> Problem:
    return Problem(
        401,
        "credentials_refused",
        "These credentials are not good, or not any more: sign in.",
        headers=((b"www-authenticate", b"Bearer"),),
    )
