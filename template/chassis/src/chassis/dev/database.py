"""The development database: a PostgreSQL in `.dev/`, for everything that runs in a checkout without DATABASE_URL."""

from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from chassis.data import heads
from chassis.dev.postgres import Postgres, PostgresFailed
from chassis.features import PACKAGE
from chassis.settings import Settings

APP_ROLE = f"{PACKAGE}_app"

S = TypeVar("S", bound=Settings)


def state_folder() -> Path:
    """Where development keeps its state, `.dev/` in the service's folder. Raises FileNotFoundError outside of one."""
    return heads.service_revisions().parent.parent / ".dev"


def development_server() -> Postgres:
    """The server of the development database, running or not."""
    return Postgres(state_folder() / "postgres")


def with_database(settings: S) -> S:
    """The settings with the development database where none is set. Raises PostgresFailed when it does not run."""
    if settings.database_url is not None:
        return settings
    try:
        server = development_server()
    except FileNotFoundError as error:
        raise PostgresFailed(f"DATABASE_URL is not set, and there is {error}") from None
    if not server.running():
        raise PostgresFailed("DATABASE_URL is not set, and the development database does not run: start it with make dev")
    return settings.model_copy(
        update={
            "database_url": SecretStr(server.dsn(PACKAGE, APP_ROLE)),
            "migrator_database_url": SecretStr(server.dsn(PACKAGE)),
        }
    )
