"""Migrations: bring roles and schema to what this release needs, alone, and without holding up those who serve.

Any number of replicas may do this at once: one works, the others wait and then find that nothing is left to do.
"""

import logging
import re
import time
from argparse import Namespace
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError, rev_id
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier
from sqlalchemy import Engine, StaticPool, create_engine
from sqlalchemy.exc import DBAPIError

from chassis.data import heads, roles
from chassis.failure import Failure
from chassis.settings import ConfigurationRefused

if TYPE_CHECKING:
    from chassis.settings import Settings

_log = logging.getLogger(__name__)
logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)

_LOCK = int.from_bytes(b"chassis!")  # any number, if only all of us take the same one
_LOCK_SECONDS = 600.0
_POLL_SECONDS = 0.25
# While ALTER TABLE waits for a lock, everyone else who wants the table waits behind it: so wait briefly, and often.
_SESSION = "set lock_timeout = '2s'; set statement_timeout = '15min'; set idle_in_transaction_session_timeout = '1min'"
_ATTEMPTS = 10


class MigrationFailed(Failure):
    """The database was not migrated, or not to the end."""


def migrate(url: str, *role_urls: str) -> heads.State:
    """Migrate the database at `url`, whose user must own it, to the newest revisions of the chassis and the service.

    Returns "current", or "ahead" where a newer release has migrated it, which is then left alone. Where one of
    `role_urls` names the app role or the backup role and has a password, the role gets it. Raises MigrationFailed; what
    had been migrated until then stays, and doing it again goes on from there.
    """
    try:
        with _connect(url) as connection, _alone(connection):
            roles.bootstrap(connection)
            _give_passwords(connection, role_urls)
            return _upgrade(connection)
    except psycopg.Error as error:
        raise MigrationFailed(_one_line(error)) from error
    except DBAPIError as error:
        raise MigrationFailed(_one_line(error.orig or error)) from error
    except CommandError as error:
        raise MigrationFailed(_one_line(error)) from error


def migrate_for(settings: "Settings") -> heads.State:
    """Migrate the database of MIGRATOR_DATABASE_URL. Raises ConfigurationRefused without one, or MigrationFailed."""
    if settings.migrator_database_url is None:
        raise ConfigurationRefused(["MIGRATOR_DATABASE_URL is required to migrate: the app role cannot"])
    urls = [url.get_secret_value() for url in (settings.database_url, settings.backup_database_url) if url]
    return migrate(settings.migrator_database_url.get_secret_value(), *urls)


def new_revision(name: str) -> Path:
    """Write an empty revision that follows all of the service's own, and return its file. Raises MigrationFailed."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:50]
    if not slug:
        raise MigrationFailed("the name of a migration needs a letter or a digit, as in add_invoices")
    folder = heads.service_revisions()
    if list(folder.glob(f"*_{slug}.py")):
        raise MigrationFailed(f"{folder} has a migration {slug} already: choose another name")
    script = ScriptDirectory.from_config(alembic_config())
    ours = [head.revision for head in map(script.get_revision, script.get_heads()) if Path(head.path).parent == folder]
    written = script.generate_revision(
        rev_id(),
        slug.replace("_", " "),
        head=tuple(ours) or "base",
        version_path=folder,
        depends_on=script.get_revisions("chassis@head")[0].revision,
    )
    assert written is not None  # it is None in Alembic's dry runs
    return Path(written.path)


def _connect(url: str) -> Connection[TupleRow]:
    return psycopg.connect(url, autocommit=True, connect_timeout=5, application_name="chassis migrate")


def alembic_config() -> Config:
    """Alembic's configuration, made here: there is no alembic.ini to forget."""
    config = Config(cmd_opts=Namespace(quiet=True))
    folders = (heads.CHASSIS_REVISIONS, heads.service_revisions())
    config.set_main_option("path_separator", "newline")
    config.set_main_option("script_location", _literally(heads.CHASSIS_REVISIONS.parent))
    config.set_main_option("version_locations", "\n".join(map(_literally, folders)))
    config.set_main_option("file_template", "%%(year)d_%%(month).2d_%%(day).2d_%%(slug)s")
    config.set_main_option("truncate_slug_length", "50")
    return config


def _literally(path: Path) -> str:
    return str(path).replace("%", "%%")


@contextmanager
def _alone(connection: Connection[TupleRow]) -> Generator[None]:
    """Hold the lock of migrations. It is asked for again and again, between transactions.

    Waiting in pg_advisory_lock would be a transaction that CREATE INDEX CONCURRENTLY, run by the holder of the lock, in
    turn waits for: a deadlock.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    told = False
    while connection.execute("select pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise MigrationFailed(f"another migration has been running for {_LOCK_SECONDS:.0f} seconds")
        if not told:
            _log.info("another migration is running: waiting for it")
            told = True
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(%s)", [_LOCK])


def _give_passwords(connection: Connection[TupleRow], urls: Iterable[str]) -> None:
    for parts in map(conninfo_to_dict, urls):
        role, password = parts.get("user"), parts.get("password")
        if role in (roles.APP, roles.BACKUP) and password:
            roles.set_password(connection, str(role), str(password))


def _upgrade(connection: Connection[TupleRow]) -> heads.State:
    connection.execute(_SESSION)
    connection.execute(SQL("set role {}").format(Identifier(roles.MIGRATOR)))
    if heads.state(_applied(connection)) == "ahead":
        _log.warning("the database has migrations that are not of this release: it is left alone")
        return "ahead"
    connection.autocommit = False
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    try:
        for attempt in range(1, _ATTEMPTS):
            try:
                return _upgrade_once(engine)
            except DBAPIError as error:
                if not isinstance(error.orig, LockNotAvailable):
                    raise
            _log.warning("a table stayed locked by others for 2 s: trying again (%d of %d)", attempt, _ATTEMPTS)
            time.sleep(min(attempt, 5))
        return _upgrade_once(engine)
    finally:
        connection.rollback()
        connection.autocommit = True


def _upgrade_once(engine: Engine) -> heads.State:
    config = alembic_config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
        connection.exec_driver_sql(roles.open_to_backup())
        connection.commit()
    _log.info("the database is up to date")
    return "current"


def _applied(connection: Connection[TupleRow]) -> list[str]:
    if connection.execute("select to_regclass('chassis.alembic_version')").fetchone() == (None,):
        return []
    return [str(row[0]) for row in connection.execute("select version_num from chassis.alembic_version")]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
