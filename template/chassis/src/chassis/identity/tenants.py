"""Tenants, their members and their roles, and invitations: how somebody joins.

An invitation goes to an address, and only its account can accept.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.paging import Page, Paging
from chassis.http.reply import Problem, not_found
from chassis.identity import accounts, audit, sessions
from chassis.identity.accounts import Address
from chassis.identity.identity import Identity
from chassis.identity.one_time import refused
from chassis.identity.principal import Principal

Role = Literal["owner", "admin", "member", "viewer"]


@dataclass(frozen=True, slots=True)
class Tenant:
    id: UUID
    name: str
    role: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Member:
    account_id: UUID
    email: str
    role: str
    created_at: datetime

    @property
    def id(self) -> UUID:
        return self.account_id


_MINE = query(
    "identity.tenants",
    Tenant,
    """
    select t.id, t.name, m.role, t.created_at
    from chassis.memberships m join chassis.tenants t on t.id = m.tenant_id
    where m.account_id = $1 and (t.created_at, t.id) < ($2, $3)
    order by t.created_at desc, t.id desc
    limit $4
    """,
)
_RENAME = query(
    "identity.rename_tenant",
    Tenant,
    "update chassis.tenants set name = $2 where id = $1 returning id, name, $3::text as role, created_at",
)
_MEMBERS = query(
    "identity.members",
    Member,
    """
    select m.account_id, a.email, m.role, m.created_at
    from chassis.memberships m join chassis.accounts a on a.id = m.account_id
    where m.tenant_id = $1 and (m.created_at, m.account_id) < ($2, $3)
    order by m.created_at desc, m.account_id desc
    limit $4
    """,
)
_MEMBER = query(
    "identity.member",
    Member,
    """
    select m.account_id, a.email, m.role, m.created_at
    from chassis.memberships m join chassis.accounts a on a.id = m.account_id
    where m.tenant_id = $1 and m.account_id = $2
    """,
)
# All owners of the tenant are locked, in one order, so that two owners cannot remove each other at the same time.
_OWNERS = query(
    "identity.owners",
    UUID,
    "select account_id from chassis.memberships where tenant_id = $1 and role = 'owner' order by account_id for update",
)
_SET_ROLE = query(
    "identity.set_role",
    UUID,
    "update chassis.memberships set role = $3 where tenant_id = $1 and account_id = $2 returning account_id",
)
_REMOVE = query(
    "identity.remove_member",
    UUID,
    "delete from chassis.memberships where tenant_id = $1 and account_id = $2 returning account_id",
)


async def mine(identity: Identity, who: Principal, paging: Paging) -> Page[Tenant]:
    """The tenants that the caller is a member of."""
    async with identity.database.unit_of_work(None, account_id=who.subject) as db:
        return paging.page(await db.all(_MINE, who.subject, *paging.before(), paging.fetch))


async def rename(db: UnitOfWork, who: Principal, name: str) -> Tenant:
    tenant = await db.first(_RENAME, who.tenant_id, name, who.role)
    if tenant is None:
        raise not_found()
    await audit.record(db, "authz_admin", actor=who.subject, subject=who.tenant_id, change="tenant renamed")
    return tenant


async def members(db: UnitOfWork, who: Principal, paging: Paging) -> Page[Member]:
    return paging.page(await db.all(_MEMBERS, who.tenant_id, *paging.before(), paging.fetch))


async def set_role(identity: Identity, db: UnitOfWork, who: Principal, account_id: UUID, role: Role) -> Member:
    """Give a member another role. Their sessions in this tenant end: the tokens of those say the old one."""
    check_may_give(who, role)
    member = await _member(db, who, account_id, stays_owner=role == "owner")
    if member.role != role:
        await db.run(_UNINVITE, who.tenant_id, account_id)
        await db.run(_SET_ROLE, who.tenant_id, account_id, role)
        await sessions.end(identity, db, account_id, tenant_id=who.tenant_id)
        await _record(db, who, account_id, member.role, role)
    return Member(member.account_id, member.email, role, member.created_at)


async def remove(identity: Identity, db: UnitOfWork, who: Principal, account_id: UUID) -> None:
    """Remove a member, or leave. Their sessions in this tenant end."""
    member = await _member(db, who, account_id, stays_owner=False)
    await db.run(_REMOVE, who.tenant_id, account_id)
    await db.run(_UNINVITE, who.tenant_id, account_id)
    await sessions.end(identity, db, account_id, tenant_id=who.tenant_id)
    await _record(db, who, account_id, member.role, None)


_UNINVITE = query(
    "identity.withdraw_invitations_of",
    UUID,
    "delete from chassis.invitations where tenant_id = $1 and invited_by = $2 and accepted_at is null",
    scan_allowed="the open invitations of one tenant, which are few",
)


def check_may_give(who: Principal, role: str) -> None:
    """Only owners make owners: an admin who could would be one."""
    if role == "owner" and who.role != "owner":
        raise Problem(403, "owner_required", "Only an owner can do that to an owner.")


async def _member(db: UnitOfWork, who: Principal, account_id: UUID, *, stays_owner: bool) -> Member:
    """The member, if the caller may change it. Other changes to the tenant's owners wait until the commit."""
    owners = await db.all(_OWNERS, who.tenant_id)
    await accounts.check_still(db, who)
    member = await db.first(_MEMBER, who.tenant_id, account_id)
    if member is None:
        raise not_found()
    check_may_give(who, member.role)
    if owners == [account_id] and not stays_owner:
        raise Problem(409, "last_owner", "A tenant needs an owner: make somebody else one first.")
    return member


async def _record(db: UnitOfWork, who: Principal, account_id: UUID, before: str, after: str | None) -> None:
    await audit.record(
        db, "privilege_permissions_changed", actor=who.subject, subject=account_id, before=before, after=after
    )


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
        await accounts.check_still(db, who)
        name = await db.first(_TENANT_NAME, who.tenant_id)
        if name is None:
            raise not_found()
        invitation = await db.one(
            _INVITE, who.tenant_id, invitation_id, token_hash, address.canonical, role, who.subject, _SECONDS
        )
        await audit.record(db, "authz_admin", actor=who.subject, subject=invitation.id, change="invited", role=role)
    identity.send(identity.letters.invitation(address.typed, name, token))
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
        joined = await db.first(_JOIN, accepted.tenant_id, who.subject, accepted.role)
        if joined is not None:
            await audit.record(
                db,
                "privilege_permissions_changed",
                actor=who.subject,
                subject=who.subject,
                before=None,
                after=accepted.role,
            )
        role = joined or await db.one(accounts.ROLE_NOW, accepted.tenant_id, who.subject)
        return Joined(accepted.tenant_id, role)
