"""`chassis restore`: a backup into an empty database, in one transaction, and a check that it is what was backed up.

The dump is read twice: first to see that every byte is the one that was written and that the key opens it, then to
restore. So a database is not touched for a backup that is no good, and no disk has to hold it.
"""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, LiteralString
from urllib.parse import urlsplit, urlunsplit

from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

from chassis.backup import streams
from chassis.backup.dump import Program, applied, census, connected, program
from chassis.backup.store import Manifest, Store, Table
from chassis.backup.streams import Tally, Undecryptable, decrypt, megabytes, tell
from chassis.data import roles
from chassis.data.catalog import catalog_problems
from chassis.failure import Failure
from chassis.features import PACKAGE

if TYPE_CHECKING:
    from chassis.settings import Settings

_PIECE_BYTES = 1024 * 1024
_NAMED = 3

_CONTENTS: LiteralString = """
    select 'the schema ' || nspname from pg_namespace
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'public')
    union all
    select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'public' and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    union all
    select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'public' and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
    limit 1
"""


def restore(settings: "Settings", url: str, name: str | None = None) -> Manifest:
    """Restore the latest backup, or the one of that name, into the empty database at `url`, and check it.

    The user of `url` is as one who migrates: it owns the database, and may make roles where they do not exist yet.
    Raises Failure. Until the checks, that leaves the database as empty as it was.
    """
    if not conninfo_to_dict(url).get("dbname"):
        raise Failure("name the database in --to: postgresql://user@host/name")
    store, key = Store.of(settings), streams.identity(settings)
    manifest = store.manifest(name)
    with connected(url, autocommit=True) as connection:
        refuse_contents(connection)
        pg_restore = suitable(settings, connection, manifest)
    verify(store, manifest, key)
    with restorer(url) as login:
        load(store, manifest, key, login, pg_restore)
        _, known = check(manifest, login)
    for problem in known:
        tell("problem from before the backup", f"As it was when it was backed up: {problem}", problem=problem)
    return manifest


def refuse_contents(connection: Connection[TupleRow]) -> None:
    """Raise Failure unless the database is empty."""
    found = connection.execute(_CONTENTS).fetchone()
    if found is not None:
        raise Failure(f"the database {connection.info.dbname} is not empty, it has {found[0]}: restore into a new one")


def suitable(settings: "Settings", connection: Connection[TupleRow], manifest: Manifest) -> str:
    """The pg_restore for this backup and this server. Raises Failure where the server is older than the backup's."""
    major = connection.info.server_version // 10_000
    if major < manifest.server_version // 10_000:
        raise Failure(
            f"the backup is of PostgreSQL {manifest.server_version // 10_000}, and the server here of {major}: "
            "restore into one that is not older"
        )
    return program(settings, "pg_restore", manifest.dump_version)


def verify(store: Store, manifest: Manifest, key: str) -> None:
    """Read the stored dump to its end. Raises Failure unless it is what was stored, and the key opens it."""
    stored, plain, refused = Tally("checking the backup"), Tally(), False
    with store.open_dump(manifest.name) as source:
        try:
            decrypt(source, key, stored, plain.add)
        except Undecryptable:
            refused = True
        while data := source.read(_PIECE_BYTES):
            stored.add(data)
    if stored.bytes != manifest.stored_bytes:
        raise Failure(
            f"the dump of {manifest.name} is cut off or not the one that was stored: "
            f"{stored.bytes:,} of {manifest.stored_bytes:,} bytes"
        )
    if stored.sha256 != manifest.stored_sha256:
        raise Failure(f"the dump of {manifest.name} was changed since it was stored: its SHA-256 is another one")
    if refused:
        raise Failure(
            f"APP_BACKUP_IDENTITY does not open {manifest.name}: it is encrypted for {', '.join(manifest.recipients)}"
        )
    if plain.sha256 != manifest.dump_sha256:
        raise Failure(f"what {manifest.name} decrypts to is not what was dumped: its SHA-256 is another one")
    tell("backup verified", f"{manifest.name} is what was stored: {megabytes(stored.bytes)}.", bytes=stored.bytes)


@contextmanager
def restorer(url: str) -> Generator[str]:
    """The database at `url`, with our roles, for who may do no more than a migration and a backup.

    A dump is a program, and whoever can write to the store may have written this one: as a superuser it could do
    anything to the server and to its machine.
    """
    with connected(url, autocommit=True) as connection:
        roles.prepare(connection)
    with temporary_login(url, roles.MIGRATOR, roles.BACKUP) as login:
        yield login


@contextmanager
def temporary_login(url: str, *members: str) -> Generator[str]:
    """A login that may do what these roles may, for the length of the block: the URL of the database as it.

    The roles' own passwords are left alone: on a server that is in use, replicas sign in with them.
    """
    name, password = f"{PACKAGE}_restore_{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    with connected(url, autocommit=True) as connection:
        granted = SQL(", ").join(map(Identifier, members))
        connection.execute(SQL("create role {} login inherit in role {}").format(Identifier(name), granted))
        roles.set_password(connection, name, password)
    parts = urlsplit(url)
    try:
        yield urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"))
    finally:
        with connected(url, autocommit=True) as connection:
            connection.execute(SQL("drop role {}").format(Identifier(name)))


def load(store: Store, manifest: Manifest, key: str, url: str, pg_restore: str) -> None:
    """Restore into the empty database of a `restorer`, in one transaction. Raises Failure."""
    loaded = Tally("restoring")
    command = (pg_restore, "--single-transaction", "--no-owner", f"--role={roles.MIGRATOR}")
    with store.open_dump(manifest.name) as source, Program(command, url) as restoring:

        def write(data: bytes) -> None:
            restoring.write(data)
            loaded.add(data)

        decrypt(source, key, Tally(), write)
        restoring.end()
        restoring.check()
    with connected(url, autocommit=True) as connection:
        connection.execute(SQL("set role {}").format(Identifier(roles.MIGRATOR)))
        connection.execute(roles.open_to_backup().encode())  # where it was backed up, the role may have needed none
        connection.execute("analyze")
    tell("backup restored", f"Restored {manifest.rows:,} rows.", rows=manifest.rows)


def check(manifest: Manifest, url: str) -> tuple[list[str], list[str]]:
    """Hold the database of a `restorer` against the manifest. Raises Failure with what differs.

    Returns what was checked, and what is wrong with the catalog here as it was in the database that was backed up.
    """
    with connected(url, autocommit=True) as connection:
        found = catalog_problems(connection)
        connection.execute(SQL("set role {}").format(Identifier(roles.BACKUP)))
        heads, tables = applied(connection), census(connection)
    problems = [problem for problem in found if problem not in manifest.problems]
    if heads != manifest.heads:
        problems.append(f"migrations: at {', '.join(heads) or 'none'} and not at {', '.join(manifest.heads)}")
    for name, table in manifest.tables.items():
        problems += _differences(name, table, tables.get(name))
    if problems:
        more = f" (and {len(problems) - _NAMED} more)" if len(problems) > _NAMED else ""
        shown = "; ".join(problems[:_NAMED])
        raise Failure(f"the restored database is not what was backed up, do not use it: {shown}{more}")
    forced = sum(table.forced for table in tables.values())
    checked = [
        f"{manifest.rows:,} rows of {_several(manifest.tenants, 'tenant')}, as many of each in each of the tables",
        f"row-level security forced on the {_several(forced, 'table')} that had it, with each of their policies",
        "the roles and what they may do: the app role is bound by the policies, the backup role only reads",
        f"migrations at {', '.join(heads)}",
    ]
    tell("restore checked", f"Checked {checked[0]}; {'; '.join(checked[1:])}.", rows=manifest.rows, tables=len(tables))
    return checked, [problem for problem in found if problem in manifest.problems]


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _differences(name: str, then: Table, now: Table | None) -> list[str]:
    if now is None:
        return [f"{name}: the table is missing"]
    if now.rows != then.rows:
        return [f"{name}: {now.rows} rows and not {then.rows}"]
    if now.tenants != then.tenants:
        return [f"{name}: its rows belong to other tenants"]
    if then.forced and not now.forced:
        return [f"{name}: row-level security is not forced any more"]
    if lost := sorted(set(then.policies) - set(now.policies)):
        return [f"{name}: the policy {lost[0]} is lost"]
    return []
