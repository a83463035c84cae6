"""Tenants, members, invitations, API keys and the audit trail, over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from chassis.data.unit_of_work import Transaction
from chassis.http.input import Input
from chassis.http.paging import Page, PageRequest
from chassis.identity import accounts, api_keys, audit, tenants
from chassis.identity.api_auth import Email
from chassis.identity.api_keys import LONGEST_DAYS, ApiKey, NewApiKey
from chassis.identity.audit import Entry
from chassis.identity.identity import Desk, Me
from chassis.identity.principal import Principal, may
from chassis.identity.tenants import Invitation, Member, Role, Tenant
from chassis.limits.strict import MAIL, Here, aim_at, strictly_limited

router = APIRouter()

MembersManager = Annotated[Principal, may("members:manage")]
KeysManager = Annotated[Principal, may("api_keys:manage")]


# Text on one line: nothing that controls, joins or turns around what is beside it, and no spaces but the plain one.
_VISIBLE = (
    r"[^\u0000-\u0020\u007f-\u00a0\u00ad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff0-\uffff"
    "\U000e0000-\U000e0fff]"
)
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=rf"^ *{_VISIBLE}(?: |{_VISIBLE})*$")]


class TenantChange(Input):
    name: Name


class MemberChange(Input):
    role: Role


class NewInvitation(Input):
    email: Email
    role: Role = "member"


class NewKey(Input):
    name: Name
    scopes: list[Annotated[str, Field(max_length=100)]] = Field(
        min_length=1, max_length=100, description="Permissions that you have yourself.", examples=[["members:read"]]
    )
    expires_in_days: int = Field(default=90, ge=1, le=LONGEST_DAYS)


@router.get("/tenants")
async def list_tenants(who: Me, desk: Desk, page: PageRequest) -> Page[Tenant]:
    """The tenants that you are a member of."""
    return await tenants.mine(desk, who, page)


@router.patch("/tenants/current", responses={404: {}})
async def rename_tenant(
    body: TenantChange, who: Annotated[Principal, may("tenants:manage")], db: Transaction
) -> Tenant:
    """Rename the tenant that the access token is for."""
    return await tenants.rename(db, who, body.name)


@router.post("/tenants/leave", status_code=204, responses={404: {}})
async def leave_tenant(who: Me, desk: Desk, db: Transaction) -> None:
    """Leave the tenant that the access token is for. Its last owner cannot."""
    await tenants.remove(desk, db, who, who.subject)


@router.get("/tenants/members")
async def list_members(
    who: Annotated[Principal, may("members:read")], db: Transaction, page: PageRequest
) -> Page[Member]:
    """Who is a member, newest first."""
    return await tenants.members(db, who, page)


@router.patch("/tenants/members/{account_id}")
async def change_member(
    account_id: UUID, body: MemberChange, who: MembersManager, desk: Desk, db: Transaction
) -> Member:
    """Give a member another role. Only owners make or unmake owners, and the last one stays."""
    return await tenants.set_role(desk, db, who, account_id, body.role)


@router.delete("/tenants/members/{account_id}", status_code=204)
async def remove_member(account_id: UUID, who: MembersManager, desk: Desk, db: Transaction) -> None:
    """Remove a member. Only owners remove owners, and the last one stays."""
    await tenants.remove(desk, db, who, account_id)


@router.post("/tenants/invitations", status_code=201, dependencies=[strictly_limited], responses={404: {}})
async def invite(body: NewInvitation, who: MembersManager, desk: Desk, here: Here) -> Invitation:
    """Invite somebody by mail."""
    address = accounts.parse_address(body.email)
    await aim_at(here, address.canonical, MAIL)
    return await tenants.invite(desk, who, address, body.role)


@router.get("/tenants/invitations")
async def list_invitations(who: MembersManager, db: Transaction, page: PageRequest) -> Page[Invitation]:
    """Invitations that nobody has accepted yet, newest first."""
    return await tenants.pending(db, who, page)


@router.delete("/tenants/invitations/{invitation_id}", status_code=204)
async def withdraw_invitation(invitation_id: UUID, who: MembersManager, db: Transaction) -> None:
    """Withdraw an invitation: its link works no more."""
    await tenants.withdraw(db, who, invitation_id)


@router.post("/api-keys", status_code=201)
async def create_api_key(body: NewKey, who: KeysManager, db: Transaction) -> NewApiKey:
    """Make a key for a program. The answer shows it this once."""
    return await api_keys.create(db, who, body.name, frozenset(body.scopes), body.expires_in_days)


@router.get("/api-keys")
async def list_api_keys(who: KeysManager, db: Transaction, page: PageRequest) -> Page[ApiKey]:
    """The tenant's keys, newest first, without what makes them work."""
    return await api_keys.page(db, who, page)


@router.delete("/api-keys/{key_id}", status_code=204)
async def revoke_api_key(key_id: UUID, who: KeysManager, desk: Desk, db: Transaction) -> None:
    """Have a key work no more."""
    await api_keys.revoke(desk, db, who, key_id)


@router.get("/audit")
async def list_audit(who: Annotated[Principal, may("audit:read")], db: Transaction, page: PageRequest) -> Page[Entry]:
    """What was done in this tenant, newest first."""
    return await audit.page(db, page)
