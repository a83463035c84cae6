"""Accounts: people, each with an address and a password."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    email: str
    email_canonical: str
    password_hash: str
    verified_at: datetime | None
    disabled_at: datetime | None


BY_ADDRESS = query(
    "identity.account_by_address", Account, "select {row} from chassis.accounts where email_canonical = $1"
)
"""Needs the address in `app.lookup`."""

_BY_ID = query("identity.account", Account, "select {row} from chassis.accounts where id = $1")
_HOME = query(
    "identity.home",
    UUID,
    "select tenant_id from chassis.memberships where account_id = $1 order by created_at, tenant_id limit 1",
)
SET_DISABLED = query(
    "identity.set_disabled",
    UUID,
    """
    update chassis.accounts set disabled_at = case when $2 then coalesce(disabled_at, now()) end
    where id = $1
    returning id
    """,
)


async def become(db: UnitOfWork, account_id: UUID) -> Account:
    """Go on as an account that this transaction has found, in the tenant that was its first."""
    await db.act_as(account_id=account_id)
    home = await db.first(_HOME, account_id)
    if home is not None:
        await db.act_as(tenant_id=home)
    return await read(db, account_id)


async def read(db: UnitOfWork, account_id: UUID) -> Account:
    """The account that this transaction acts as."""
    return await db.one(_BY_ID, account_id)
