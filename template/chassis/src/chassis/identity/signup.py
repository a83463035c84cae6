"""Signing up and proving the address, and choosing another password: by knowing the one before, or by reading mail.

Whoever knows an address must not learn here whether it has an account: for a known and an unknown one there is the same
answer, one hash, and the same number of queries. What differs goes by mail.
"""

from uuid import UUID, uuid4

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.reply import Problem
from chassis.identity import accounts, audit, one_time, passwords, sessions
from chassis.identity.accounts import Account, Address
from chassis.identity.identity import Identity
from chassis.identity.principal import Principal
from chassis.observe.logs import get_logger

_log = get_logger("chassis.identity")

_SET = query(
    "identity.set_password",
    UUID,
    """
    update chassis.accounts set password_hash = $2, verified_at = coalesce(verified_at, now())
    where id = $1 and disabled_at is null
    returning id
    """,
)
_CHANGE = query(
    "identity.change_password",
    UUID,
    "update chassis.accounts set password_hash = $3 where id = $1 and password_hash = $2 returning id",
)


async def forgot(identity: Identity, address: Address) -> None:
    """Mail a link for a new password, if there is such an account. All of the work is done after the answer."""
    identity.background.start(_mail_link(identity, address))


async def _mail_link(identity: Identity, address: Address) -> None:
    async with identity.database.unit_of_work(None, lookup=address.lookup) as db:
        account = await db.first(accounts.BY_ADDRESS, address.canonical)
        if account is None or account.disabled_at:
            return
        await db.act_as(account_id=account.id)
        token = await one_time.new(identity, db, "reset", account.id)
    identity.send(identity.letters.reset(account.email, token))


async def reset(identity: Identity, token: str, password: str) -> None:
    """Set a new password with the token of a mail, and end every session of the account."""
    opaque = one_time.read(identity, token)
    async with identity.database.unit_of_work(None, lookup=opaque.hash) as db:
        found = await one_time.find(db, opaque, "reset")
        account = await accounts.become(db, found.account_id)
    passwords.refuse_guessable(password, account.email_canonical)
    hashed = await identity.passwords.hash(password)
    async with identity.database.unit_of_work(None, lookup=opaque.hash) as db:
        used = await one_time.use(db, opaque, "reset")
        account = await accounts.become(db, used.account_id)
        await set_password(identity, db, account, hashed)
        await audit.record(db, "authn_password_change", actor=account.id, subject=account.id, how="reset")
    identity.send(identity.letters.password_changed(account.email))


async def change(identity: Identity, who: Principal, current: str, new: str) -> None:
    """Change the caller's password, and end all sessions but the caller's."""
    async with identity.database.unit_of_work(who.tenant_id, account_id=who.subject) as db:
        account = await accounts.read(db, who.subject)
    if not await identity.passwords.matches(current, account.password_hash):
        _log.warning("authn_password_change_fail", account=account.id)
        raise Problem(403, "password_wrong", "The current password is not right.")
    passwords.refuse_guessable(new, account.email_canonical)
    hashed = await identity.passwords.hash(new)
    async with identity.database.unit_of_work(who.tenant_id, account_id=who.subject) as db:
        if await db.first(_CHANGE, account.id, account.password_hash, hashed) is None:
            raise Problem(409, "contended", "Another request has just changed the password.")
        await one_time.void(db, account.id)
        await sessions.end(identity, db, account.id, but=who.session_id)
        await audit.record(db, "authn_password_change", actor=account.id, subject=account.id, how="changed")
    identity.send(identity.letters.password_changed(account.email))


async def set_password(identity: Identity, db: UnitOfWork, account: Account, hashed: str) -> None:
    """Whoever follows a link owns the address: it is verified, and nobody who knew another password stays."""
    if await db.first(_SET, account.id, hashed) is None:
        raise one_time.refused()
    await one_time.void(db, account.id)
    if hashed != account.password_hash:
        await sessions.end(identity, db, account.id)


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

    An address that has an account gets a mail that says so. One that was never verified gets a link to choose the
    password anew, and the link before is void: whoever signed up first may have been somebody else.
    """
    account, token, created = await create(identity, address, password)
    letters = identity.letters
    letter = letters.verify if created else letters.known if account.verified_at else letters.again
    identity.send(letter(account.email, token))


async def create(identity: Identity, address: Address, password: str) -> tuple[Account, str, bool]:
    """What `sign_up` does before it sends mail: the account, the token that goes to its address, whether it is new."""
    hashed = await identity.passwords.hash(password)
    new = uuid4()
    async with identity.database.unit_of_work(uuid4(), account_id=new, lookup=address.lookup) as db:
        created = await db.first(
            _SIGN_UP, new, db.tenant_id, address.typed, address.canonical, hashed, audit.request_id()
        )
        account = await db.one(accounts.BY_ADDRESS, address.canonical)
        await db.act_as(account_id=account.id)
        await one_time.void(db, account.id)
        token = await one_time.new(identity, db, "verify" if created else "reset", account.id)
    if created:
        _log.info("user_created", account=account.id)
    return account, token, created is not None


async def verify(identity: Identity, token: str) -> None:
    """Use the token of a verifying link. Raises a 400 problem for one that is not good, or not any more."""
    opaque = one_time.read(identity, token)
    async with identity.database.unit_of_work(None, lookup=opaque.hash) as db:
        used = await one_time.use(db, opaque, "verify")
        account = await accounts.become(db, used.account_id)
        await set_password(identity, db, account, account.password_hash)
        await audit.record(db, "user_updated", actor=account.id, subject=account.id, change="verified")
