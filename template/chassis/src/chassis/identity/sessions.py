"""Sessions: one sign-in on one device each, listed and ended one by one or all.

What ends a session is written where every replica reads it every few seconds, since its access tokens live for minutes.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.paging import Page, Paging
from chassis.http.reply import not_found
from chassis.identity import audit
from chassis.identity.identity import Identity
from chassis.identity.principal import Principal

IDLE_SECONDS = 14 * 24 * 60 * 60.0
ABSOLUTE_SECONDS = 90 * 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class Session:
    id: UUID
    tenant_id: UUID
    user_agent: str | None
    created_at: datetime
    used_at: datetime
    current: bool


_PAGE = query(
    "identity.sessions",
    Session,
    """
    select id, tenant_id, user_agent, created_at, used_at, id = $5 as current
    from chassis.sessions
    where account_id = $1 and (created_at, id) < ($2, $3)
      and revoked_at is null and expires_at > now() and used_at > now() - make_interval(secs => $6)
    order by created_at desc, id desc
    limit $4
    """,
)
_END = query(
    "identity.end_sessions",
    UUID,
    """
    with ended as (
        update chassis.sessions set revoked_at = now()
        where account_id = $1 and revoked_at is null
          and ($2::uuid is null or id = $2) and ($3::uuid is null or id <> $3) and ($4::uuid is null or tenant_id = $4)
          and ($5::uuid is null or family_id = $5)
        returning id
    )
    insert into chassis.revocations (id) select id from ended returning id
    """,
)


async def end(
    identity: Identity,
    db: UnitOfWork,
    account_id: UUID,
    *,
    only: UUID | None = None,
    but: UUID | None = None,
    tenant_id: UUID | None = None,
    family_id: UUID | None = None,
) -> int:
    """End an account's sessions: all, `only` one, all `but` one, those in one tenant or of one family.

    Returns how many.
    """
    ended = await db.all(_END, account_id, only, but, tenant_id, family_id)
    db.after_commit(lambda: identity.watch.heard(*ended))
    return len(ended)


async def page(identity: Identity, who: Principal, paging: Paging) -> Page[Session]:
    """The caller's live sessions."""
    async with identity.database.unit_of_work(None, account_id=who.subject) as db:
        return paging.page(
            await db.all(_PAGE, who.subject, *paging.before(), paging.fetch, who.session_id, IDLE_SECONDS)
        )


async def sign_out(identity: Identity, who: Principal, session_id: UUID) -> None:
    """End the caller's session. One that has ended stays so."""
    async with identity.database.unit_of_work(who.tenant_id, account_id=who.subject) as db:
        await end(identity, db, who.subject, only=session_id)
        await audit.record(db, "authn_token_revoked", actor=who.subject, subject=session_id, how="signed out")


async def end_one(identity: Identity, who: Principal, session_id: UUID) -> None:
    """End one of the caller's sessions; a 404 problem when there is no such one."""
    async with identity.database.unit_of_work(who.tenant_id, account_id=who.subject) as db:
        if not await end(identity, db, who.subject, only=session_id):
            raise not_found()
        await audit.record(db, "authn_token_revoked", actor=who.subject, subject=session_id)


async def end_all(identity: Identity, who: Principal) -> None:
    """End all of the caller's sessions, this one too."""
    async with identity.database.unit_of_work(who.tenant_id, account_id=who.subject) as db:
        count = await end(identity, db, who.subject)
        await audit.record(db, "authn_token_revoked", actor=who.subject, subject=who.subject, sessions=count)
