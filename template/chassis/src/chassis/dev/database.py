"""The development database: a PostgreSQL in `.dev/`, for everything that runs in a checkout without DATABASE_URL."""

from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from chassis.data import heads
from chassis.dev.postgres import Postgres
from chassis.failure import Failure
from chassis.features import PACKAGE
from chassis.settings import Settings

APP_ROLE = f"{PACKAGE}_app"

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
        }
    )
