"""The development database: a PostgreSQL in `.dev/`, for everything that runs in a checkout without DATABASE_URL.

A new one has an account with a few rows in its tenant, so that the first request needs no mail.
"""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from chassis.data import heads
from chassis.dev.postgres import Postgres
from chassis.failure import Failure
from chassis.features import PACKAGE
from chassis.settings import Settings

if TYPE_CHECKING:
    from chassis.app import Service

APP_ROLE = f"{PACKAGE}_app"

DEMO_EMAIL = "demo@example.com"
DEMO_PASSWORD = "three demo teapots"  # noqa: S105  (of a database that only this machine can reach)

_SAMPLE_ROWS = 5

S = TypeVar("S", bound=Settings)


def state_folder() -> Path:
    """Where development keeps its state, `.dev/` in the service's folder. Raises Failure outside of one."""
    return heads.service_revisions().parent.parent / ".dev"


def development_server() -> Postgres:
    """The server of the development database, running or not."""
    return Postgres(state_folder() / "postgres")


def with_database(settings: S) -> S:
    """The settings with the URLs of the development database. Raises Failure when it does not run."""
    server = development_server()
    if not server.running():
        raise Failure("DATABASE_URL is not set, and the development database does not run: start it with make dev")
    return settings.model_copy(
        update={
            "database_url": SecretStr(server.dsn(PACKAGE, APP_ROLE)),
            "migrator_database_url": SecretStr(server.dsn(PACKAGE)),
            "backup_database_url": SecretStr(f"{server.dsn(PACKAGE)}?options=-crole%3D{PACKAGE}_backup"),
        }
    )


async def make_demo(service: "Service", settings: Settings) -> None:
    """Sign the demo account up, and fill its tenant with what the modules have as samples."""
    from chassis.identity import accounts, signup

    service.configure(settings)
    identity, database = service.identity, service.database
    await database.open()
    account, _, _ = await signup.create(identity, accounts.parse_address(DEMO_EMAIL), DEMO_PASSWORD)
    async with database.unit_of_work(None) as db:
        await accounts.become(db, account.id)
        for module in service.modules:
            if module.sample is not None:
                await db.run(module.sample, _SAMPLE_ROWS)
    identity.passwords.close()
    await database.close(1)
