"""Invitations: how somebody joins a tenant. They go to an address, and only its account can accept."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.paging import Page, Paging
from chassis.http.problems import Problem, not_found
from chassis.identity import accounts, audit
from chassis.identity.accounts import Address
from chassis.identity.identity import Identity
from chassis.identity.one_time import refused
from chassis.identity.principal import Principal
from chassis.identity.tenants import Role, check_may_give

_SECONDS = 7 * 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class Invitation:
    id: UUID
    email: str
    role: str
    invited_by: UUID
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Joined:
    """Switch to the tenant to act in it."""

    tenant_id: UUID
    role: str


@dataclass(frozen=True, slots=True)
class _Accepted:
    tenant_id: UUID
    email_canonical: str
    role: str


_INVITE = query(
    "identity.invite",
    Invitation,
    """
    insert into chassis.invitations (tenant_id, id, token_hash, email_canonical, role, invited_by, expires_at)
    values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
    returning id, email_canonical as email, role, invited_by, created_at, expires_at
    """,
)
_TENANT_NAME = query("identity.tenant_name", str, "select name from chassis.tenants where id = $1")
_PENDING = query(
    "identity.invitations",
    Invitation,
    """
    select id, email_canonical as email, role, invited_by, created_at, expires_at from chassis.invitations
    where tenant_id = $1 and (created_at, id) < ($2, $3)
      and accepted_at is null and expires_at > now()
    order by created_at desc, id desc
    limit $4
    """,
    scan_allowed="it leaves out the accepted and expired ones of one tenant, which are few",
)
_WITHDRAW = query(
    "identity.withdraw_invitation",
    UUID,
    "delete from chassis.invitations where tenant_id = $1 and id = $2 and accepted_at is null returning id",
)
_ACCEPT = query(
    "identity.accept_invitation",
    _Accepted,
    """
    update chassis.invitations set accepted_at = now()
    where token_hash = $1 and accepted_at is null and expires_at > now()
    returning {row}
    """,
)
_JOIN = query(
    "identity.join_tenant",
    str,
    """
    insert into chassis.memberships (tenant_id, account_id, role) values ($1, $2, $3)
    on conflict do nothing
    returning role
    """,
)


async def invite(identity: Identity, who: Principal, address: Address, role: Role) -> Invitation:
    """Invite an address, whether or not it has an account."""
    check_may_give(who, role)
    invitation_id = uuid4()
    token, token_hash = identity.one_time_tokens.new(invitation_id)
    async with identity.database.unit_of_work(who.tenant_id) as db:
        name = await db.first(_TENANT_NAME, who.tenant_id)
        if name is None:
            raise not_found()
        invitation = await db.one(
            _INVITE, who.tenant_id, invitation_id, token_hash, address.canonical, role, who.subject, _SECONDS
        )
        await audit.record(db, "authz_admin", actor=who.subject, subject=invitation.id, change="invited", role=role)
    identity.background.start(identity.post.send(identity.letters.invitation(address.typed, name, token)))
    return invitation


async def pending(db: UnitOfWork, who: Principal, paging: Paging) -> Page[Invitation]:
    return paging.page(await db.all(_PENDING, who.tenant_id, *paging.before(), paging.fetch))


async def withdraw(db: UnitOfWork, who: Principal, invitation_id: UUID) -> None:
    if await db.first(_WITHDRAW, who.tenant_id, invitation_id) is None:
        raise not_found()
    await audit.record(db, "authz_admin", actor=who.subject, subject=invitation_id, change="invitation withdrawn")


async def accept(identity: Identity, who: Principal, token: str) -> Joined:
    """Join the tenant that invited the caller's address. A member already keeps the role that they have."""
    opaque = identity.one_time_tokens.read(token)
    if opaque is None:
        raise refused()
    async with identity.database.unit_of_work(None, account_id=who.subject, lookup=opaque.hash) as db:
        account = await accounts.read(db, who.subject)
        accepted = await db.first(_ACCEPT, opaque.hash)
        if accepted is None:
            raise refused()
        if accepted.email_canonical != account.email_canonical:
            raise Problem(403, "invitation_for_another", "This invitation was sent to another address than yours.")
        await db.act_as(tenant_id=accepted.tenant_id)
        if await db.first(_JOIN, accepted.tenant_id, who.subject, accepted.role) is not None:
            await audit.record(
                db,
                "privilege_permissions_changed",
                actor=who.subject,
                subject=who.subject,
                before=None,
                after=accepted.role,
            )
        return Joined(accepted.tenant_id, accepted.role)
