"""What an operator does to identity from a terminal: on the database alone, whatever the replicas are doing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
from psycopg.sql import SQL, Identifier

from chassis.app import Service
from chassis.data import roles
from chassis.failure import Failure
from chassis.http.problems import Problem
from chassis.identity import accounts, audit, emails, sessions
from chassis.identity.identity import Identity
from chassis.identity.rotation import rotate
from chassis.identity.verification import broken
from chassis.identity.watch import PERIOD_SECONDS
from chassis.settings import Settings

T = TypeVar("T")


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


async def _set_disabled(identity: Identity, email: str, *, disabled: bool) -> int:
    address = emails.parse(email)
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
