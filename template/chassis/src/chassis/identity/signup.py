"""Signing up and proving the address.

Whoever knows an address must not learn here whether it has an account: for a known and an unknown one there is the same
answer, one hash, and the same number of queries. What differs goes by mail.
"""

from uuid import UUID, uuid4

from chassis.data.queries import query
from chassis.identity import accounts, audit, one_time, passwords, recovery
from chassis.identity.accounts import Account, Address
from chassis.identity.identity import Identity
from chassis.observe.logs import get_logger

_log = get_logger("chassis.identity")

_SIGN_UP = query(
    "identity.sign_up",
    UUID,
    """
    with account as (
        insert into chassis.accounts (id, email, email_canonical, password_hash) values ($1, $3, $4, $5)
        on conflict do nothing
        returning id
    ), tenant as (
        insert into chassis.tenants (id, name) select $2, 'Personal' from account
    ), membership as (
        insert into chassis.memberships (tenant_id, account_id, role) select $2, id, 'owner' from account
    ), recorded as (
        insert into chassis.audit (tenant_id, actor, event, subject, request_id)
        select $2, id, 'user_created', id::text, $6 from account
    )
    select id from account
    """,
)


async def sign_up(identity: Identity, address: Address, password: str) -> None:
    """Make an account with a tenant of its own, and mail a link that verifies the address.

    An address that has an account gets a mail that says so. One that was never verified gets a link that sets the
    password given now, so that nobody can prepare an account for somebody else's address.
    """
    account, token = await create(identity, address, password)
    letter = identity.letters.known if account.verified_at else identity.letters.verify
    identity.background.start(identity.post.send(letter(account.email, token)))


async def create(identity: Identity, address: Address, password: str) -> tuple[Account, str]:
    """What `sign_up` does before it sends mail: the account, new or not, and the token that goes to its address."""
    passwords.refuse_guessable(password, address.canonical)
    hashed = await identity.passwords.hash(password)
    new = uuid4()
    async with identity.database.unit_of_work(uuid4(), account_id=new, lookup=address.lookup) as db:
        created = await db.first(
            _SIGN_UP, new, db.tenant_id, address.typed, address.canonical, hashed, audit.request_id()
        )
        account = await db.one(accounts.BY_ADDRESS, address.canonical)
        await db.act_as(account_id=account.id)
        if account.verified_at:
            token = await one_time.new(identity, db, "reset", account.id)
        else:
            token = await one_time.new(identity, db, "verify", account.id, hashed)
    if created:
        _log.info("user_created", account=account.id)
    return account, token


async def verify(identity: Identity, token: str) -> None:
    """Use the token of a verifying link. Raises a 400 problem for one that is not good, or not any more."""
    opaque = one_time.read(identity, token)
    async with identity.database.unit_of_work(None, lookup=opaque.hash) as db:
        used = await one_time.use(db, opaque, "verify")
        account = await accounts.become(db, used.account_id)
        await recovery.set_password(identity, db, account, used.password_hash or account.password_hash)
        await audit.record(db, "user_updated", actor=account.id, subject=account.id, change="verified")
