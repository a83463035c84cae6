"""What an operator does to identity from a terminal: on the database alone, whatever the replicas are doing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

from chassis.app import Service
from chassis.data import roles
from chassis.data.pool import Database
from chassis.data.queries import query
from chassis.failure import Failure
from chassis.http.reply import Problem
from chassis.identity import accounts, audit, passwords, sessions, signup
from chassis.identity.identity import Identity
from chassis.identity.tokens import LIFETIME_SECONDS, OVERLAP, KeyRing
from chassis.identity.watch import ADD_KEY, PERIOD_SECONDS
from chassis.settings import Settings

T = TypeVar("T")

_MARGIN_SECONDS = 60

# A key is needed until the tokens that it signed are dead: it signed the last one when its successor began.
_DELETE_OLD = query(
    "identity.delete_old_signing_keys",
    str,
    """
    delete from chassis.signing_keys old
    where exists (
        select from chassis.signing_keys successor
        where successor.signs_from > old.signs_from and successor.signs_from < now() - make_interval(secs => $1)
    )
    returning kid
    """,
    scan_allowed="a handful of rows",
)
_BROKEN: LiteralString = """
    select distinct on (tenant_id) tenant_id, position, at
    from (
        select a.*, chassis.audit_hash(a) as expected,
               lag(position, 1, 0::bigint) over chain as position_before,
               lag(hash, 1, ''::bytea) over chain as hash_before
        from chassis.audit a
        window chain as (partition by tenant_id order by position)
    ) as entry
    where hash <> expected or previous_hash <> hash_before or position <> position_before + 1
    order by tenant_id, position
"""


def rotate_keys(service: Service, settings: Settings) -> int:
    """Add a signing key, and say when it begins."""
    rotated = _run(service, settings, lambda identity: rotate(identity.database, identity.keys))
    print(
        f"The key {rotated.kid} signs from {rotated.signs_from:%Y-%m-%d %H:%M:%S} UTC on; "
        f"{rotated.deleted} that no token needs any more deleted."
    )
    return 0


def set_disabled(service: Service, settings: Settings, email: str, *, disabled: bool) -> int:
    """Disable or enable the account with that address."""
    ended = _run(service, settings, lambda identity: _set_disabled(identity, email, disabled=disabled))
    if disabled:
        print(
            f"Disabled. {ended} sessions have ended: their tokens work for {PERIOD_SECONDS:.0f} seconds more at most."
        )
    else:
        print("Enabled.")
    return 0


def make_accounts(service: Service, settings: Settings, wanted: Sequence[tuple[str, str]]) -> int:
    """Make an account, verified and with a tenant of its own, for each address and password, unless it is there.

    What it says ends up in logs, and who knows an address can lock its account out: so it says which one by number.
    """

    async def make(identity: Identity) -> None:
        for number, (email, password) in enumerate(wanted, start=1):
            made = await _make(identity, f"account {number} of {len(wanted)}", email, password)
            print(f"account {number} of {len(wanted)} {'can sign in from now on' if made else 'is there already'}.")

    _run(service, settings, make)
    return 0


def verify_audit(settings: Settings) -> int:
    """Check every tenant's trail, as the backup role, which sees all of them and can change nothing."""
    if settings.migrator_database_url is None:
        raise Failure("MIGRATOR_DATABASE_URL is not set, and the role of the service sees one tenant at a time")
    try:
        with psycopg.connect(settings.migrator_database_url.get_secret_value(), connect_timeout=5) as connection:
            roles.join(connection, roles.BACKUP)
            connection.execute(SQL("set local role {}").format(Identifier(roles.BACKUP)))
            found = broken(connection)
            count = connection.execute("select count(*), count(distinct tenant_id) from chassis.audit").fetchone()
    except psycopg.Error as error:
        raise Failure(" ".join(str(error).split())) from error
    for line in found:
        print(line)
    if found:
        raise Failure(f"the audit trail was touched in {len(found)} tenants")
    rows, tenants = count or (0, 0)
    print(f"{rows} rows of {tenants} tenants are as they were recorded.")
    return 0


class Rotation(NamedTuple):
    kid: str
    signs_from: datetime
    deleted: int


async def rotate(database: Database, keys: KeyRing) -> Rotation:
    """Add a key that every replica knows before it signs, and delete those that no token needs any more."""
    key = keys.new(datetime.now(UTC) + OVERLAP)
    async with database.unit_of_work(None) as db:
        deleted = await db.all(_DELETE_OLD, float(LIFETIME_SECONDS + _MARGIN_SECONDS))
        await db.run(ADD_KEY, key.kid, key.sealed, key.signs_from)
    return Rotation(key.kid, key.signs_from, len(deleted))


def broken(connection: Connection[TupleRow]) -> list[str]:
    """The first row of each tenant that does not go on from the one before it, one a line. For who sees all tenants.

    A row that was removed shows in the row after it; of the last rows, only a copy of their hashes elsewhere can tell.
    """
    return [
        f"tenant {tenant}: the row at position {position}, of {at:%Y-%m-%d %H:%M:%S} UTC, is not what was recorded, "
        "or the one before it is gone"
        for tenant, position, at in connection.execute(_BROKEN)
    ]


async def _set_disabled(identity: Identity, email: str, *, disabled: bool) -> int:
    address = accounts.parse_address(email)
    async with identity.database.unit_of_work(None, lookup=address.lookup) as db:
        account = await db.first(accounts.BY_ADDRESS, address.canonical)
        if account is None:
            raise Failure("there is no account with this address")
        await accounts.become(db, account.id)
        await db.run(accounts.SET_DISABLED, account.id, disabled)
        ended = await sessions.end(identity, db, account.id) if disabled else 0
        if db.tenant_id is not None:
            event = "authn_login_lock" if disabled else "user_updated"
            await audit.record(db, event, actor=None, subject=account.id, how="operator")
        return ended


async def _make(identity: Identity, name: str, email: str, password: str) -> bool:
    """Whether the account had to be made. Raises Failure for one that others may have made: it is left as it is."""
    address = accounts.parse_address(email)
    async with identity.database.unit_of_work(None, lookup=address.lookup) as db:
        account = await db.first(accounts.BY_ADDRESS, address.canonical)
    if account is None:
        passwords.refuse_guessable(password, address.canonical)
        _, token, _ = await signup.create(identity, address, password)
        await signup.verify(identity, token)
        return True
    good = account.verified_at is not None and account.disabled_at is None
    if not (good and await identity.passwords.matches(password, account.password_hash)):
        raise Failure(f"{name} is somebody's already, with another password, or may not sign in: take another address")
    return False


def _run(service: Service, settings: Settings, work: Callable[[Identity], Awaitable[T]]) -> T:
    """Do some work with the service's identity, without serving."""

    async def run() -> T:
        service.configure(settings)
        await service.database.open()
        try:
            return await work(service.identity)
        except Problem as problem:
            raise Failure(problem.detail) from None
        finally:
            await service.database.close(1)

    return asyncio.run(run())
