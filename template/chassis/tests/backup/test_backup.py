"""Backups, restores and drills: on a real PostgreSQL, with an object store that speaks S3, and with sabotage."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import obstore
import psycopg
import pyrage
import pytest
from pydantic import SecretStr
from things import TABLE, Sql

from chassis.app import load_app
from chassis.backup import dump, streams
from chassis.backup.drill import drill, passed_on
from chassis.backup.dump import backup, program
from chassis.backup.restore import restore
from chassis.backup.store import Manifest, Store, new_name
from chassis.data import heads, migrate, roles
from chassis.data.catalog import catalog_problems
from chassis.dev.postgres import Postgres, binaries
from chassis.dev.processes import free_port, is_busy
from chassis.failure import Failure
from chassis.settings import ConfigurationRefused, Settings, load
from chassis.testing import TestDatabase, new_database

Make = Callable[..., Settings]

A, B = UUID(int=1, version=4), UUID(int=2, version=4)
KEY = pyrage.x25519.Identity.generate()
MARK = "a name that nobody else may read"
DUMP = ".dump.age"


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a bucket that is served as S3 does, to who has the key."""
    rclone = Path(sys.executable).with_name("rclone")
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    (folder / "bucket").mkdir()
    command = [rclone, "serve", "s3", "--auth-key", "KEY,SECRET", "--addr", f"127.0.0.1:{port}", folder]
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "KEY",
            "AWS_SECRET_ACCESS_KEY": "SECRET",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
        }.items():
            patch.setenv(name, value)
        server = subprocess.Popen(command, stdout=log, stderr=log)
        while not is_busy("127.0.0.1", port):
            assert server.poll() is None
        yield folder / "bucket"
        server.terminate()
        server.wait()


@pytest.fixture
def rows(sql: Sql) -> Sql:
    """The test's database with some things in it, of two tenants: three, and two."""
    sql("insert into things (tenant_id, name) select %s, %s || n from generate_series(1, 3) n", A, MARK)
    sql("insert into things (tenant_id, name) select %s, %s || n from generate_series(1, 2) n", B, MARK)
    return sql


@pytest.fixture
def variables(rows: Sql, database: TestDatabase, environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """What a process is given that makes backups of that database, in a folder, and opens them."""
    store = tmp_path / "store"
    store.mkdir()
    return environment | {
        "BACKUP_DATABASE_URL": database.backup,
        "APP_BACKUP_URL": store.as_uri(),
        "APP_BACKUP_RECIPIENTS": str(KEY.to_public()),
        "APP_BACKUP_IDENTITY": str(KEY),
    }


@pytest.fixture
def make(variables: dict[str, str]) -> Make:
    """`make(APP_BACKUP_URL="…")`: the settings of those variables."""

    def settings(**more: str) -> Settings:
        return load(load_app().settings_class, variables | more)

    return settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store of `variables` keeps its objects."""
    return tmp_path / "store"


@pytest.fixture
def empty(postgres: Postgres, database_template: str) -> Iterator[TestDatabase]:
    """A database to restore into. The roles are there, because they are the whole server's."""
    del database_template
    with new_database(postgres) as database:
        yield database


def refused(work: Callable[[], object]) -> str:
    """Why `work` fails, in its one line."""
    with pytest.raises(Failure) as failure:
        work()
    assert "\n" not in str(failure.value)
    return str(failure.value)


def chassis(variables: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APP_")}
    return subprocess.run(
        [sys.executable, "-m", "chassis.cli", *arguments],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def contents(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute("select * from things order by tenant_id, id").fetchall()


# Backing up and restoring.


def test_what_is_restored_is_what_was_backed_up(
    bucket: Path, make: Make, database: TestDatabase, empty: TestDatabase
) -> None:
    settings = make(APP_BACKUP_URL="s3://bucket/some/prefix")
    made = backup(settings)
    assert made.tables["public.things"].rows == 5
    assert made.tables["public.things"].tenants == {str(A): 3, str(B): 2}
    stored = (bucket / "some" / "prefix" / f"{made.name}{DUMP}").read_bytes()
    assert stored.startswith(b"age-encryption.org/v1\n")
    assert MARK.encode() not in stored
    assert (hashlib.sha256(stored).hexdigest(), len(stored)) == (made.stored_sha256, made.stored_bytes)
    assert hashlib.sha256(pyrage.decrypt(stored, [KEY])).hexdigest() == made.dump_sha256

    assert restore(settings, empty.superuser) == made
    assert contents(empty.superuser) == contents(database.superuser)
    assert contents(empty.app) == []  # for the app role there are no rows without a tenant


def test_it_is_one_moment_of_a_database_that_is_written_to(
    make: Make, database: TestDatabase, empty: TestDatabase
) -> None:
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(database.superuser, autocommit=True) as connection:
            while not done.is_set():
                connection.execute("insert into things (tenant_id, name) values (%s, uuidv7())", [A])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = backup(make())
    finally:
        done.set()
        writer.join()
    assert len(contents(database.superuser)) > made.tables["public.things"].rows
    restore(make(), empty.superuser)
    assert len(contents(empty.superuser)) == made.tables["public.things"].rows


def test_one_can_be_named_and_the_latest_is_what_is_meant(make: Make, empty: TestDatabase, sql: Sql) -> None:
    first = backup(make())
    sql("delete from things where tenant_id = %s", A)
    second = backup(make())
    assert Store.of(make()).manifest() == second
    assert restore(make(), empty.superuser, first.name).name == first.name
    assert len(contents(empty.superuser)) == 5
    assert f"no backup yesterday's in {make().backup_url}" in refused(
        lambda: restore(make(), empty.superuser, "yesterday's")
    )


def test_the_command_writes_lines_of_json_and_metrics(variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "collector").mkdir()
    run = chassis(variables | {"APP_BACKUP_METRICS": str(tmp_path / "collector")}, "backup")
    assert (run.returncode, run.stderr) == (0, "")
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    made = lines[-1]
    assert (made["event"], made["rows"], made["tenants"]) == ("backup made", lines[-1]["rows"], 2)
    written = (tmp_path / "collector" / "chassis_backup.prom").read_text()
    assert written == (tmp_path / "store" / "backup.prom").read_text()
    assert re.search(rf"^backup_size_bytes {made['bytes']}\.0$", written, re.MULTILINE)
    taken = datetime.fromtimestamp(float(written.split("backup_last_success_timestamp_seconds ")[-1].split()[0]), UTC)
    assert datetime.now(UTC) - taken < timedelta(minutes=5)


def test_memory_does_not_grow_with_the_database(variables: dict[str, str], sql: Sql, empty: TestDatabase) -> None:
    """Rows that cannot be compressed, 4 and then 28 MB of them, there and back."""
    code = "import resource, sys; from chassis.cli import main; code = main(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(code)"

    def megabytes(*arguments: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return int(run.stdout.splitlines()[-1])

    def grow(rows: int) -> None:
        data = "(select string_agg(sha256((n || ' ' || row)::text::bytea), '') from generate_series(1, 4096) n)"
        sql(
            f"insert into things (tenant_id, name) select %s, encode({data}, 'base64') from generate_series(1, %s) row",
            A,
            rows,
        )

    sql("drop index things_by_time; alter table things drop constraint things_tenant_id_name_key")
    grow(32)
    small = megabytes("backup")
    grow(192)
    assert max(megabytes("backup"), megabytes("restore", "--to", empty.superuser)) < small + 12
    assert Store(variables["APP_BACKUP_URL"]).manifest().stored_bytes > 25e6


# What does not become a backup.


def test_a_role_that_does_not_see_all_rows_makes_no_backup(make: Make, database: TestDatabase, folder: Path) -> None:
    """The migrator owns every table, and the policies bind it: pg_dump alone would be content with empty tables."""
    assert "row-level security" in refused(lambda: backup(make(BACKUP_DATABASE_URL=database.migrator)))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--schema-only", r"does not have the rows of the database: .*chassis\.alembic_version 0 of \d"),
        ("--exclude-table-data=things", r"does not have the rows of the database: public\.things 0 of 5"),
        ("--exclude-table=things", r"does not have the rows of the database: public\.things 0 of 5"),
        ("--format=plain", r"pg_restore (failed: .*text|stopped reading)"),
        ("--no-such-option", r"pg_dump failed: .*no-such-option"),
    ],
)
def test_a_dump_that_is_not_the_database_makes_no_backup(
    make: Make, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, reason: str
) -> None:
    wrong = tmp_path / "pg_dump"
    wrong.write_text(f'#!/bin/sh\nexec "{binaries()}/pg_dump" "$@" {option}\n')
    wrong.chmod(0o755)

    def sabotaged(settings: Settings, name: str, major: int) -> str:
        return str(wrong) if name == "pg_dump" else program(settings, name, major)

    monkeypatch.setattr(dump, "program", sabotaged)
    said = refused(lambda: backup(make()))
    assert re.search(reason, said), said
    assert list(folder.iterdir()) == []


def test_a_database_that_was_never_migrated_makes_no_backup(make: Make, empty: TestDatabase) -> None:
    assert "never migrated" in refused(lambda: backup(make(BACKUP_DATABASE_URL=empty.superuser)))


def test_the_programs_are_not_older_than_the_server(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """In production they are those on PATH."""
    deployed = make().model_copy(update={"environment": "production"})
    monkeypatch.setenv("PATH", str(binaries().parents[1] / "pginstall" / "bin"))
    assert program(deployed, "pg_dump", 16).endswith("pginstall/bin/pg_dump")
    assert "is of PostgreSQL 16, and the server of 18" in refused(lambda: program(deployed, "pg_dump", 18))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "pg_dump is not on PATH" in refused(lambda: program(deployed, "pg_dump", 18))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_SECRET_ACCESS_KEY", "WRONG"), ("AWS_BUCKET", "bucket")],
)
def test_a_store_that_is_down_or_does_not_let_us_in_is_one_line(
    bucket: Path, variables: dict[str, str], variable: str, value: str
) -> None:
    url = "s3://bucket/refused" if variable != "AWS_BUCKET" else "s3://no-such-bucket/refused"
    run = chassis(variables | {"APP_BACKUP_URL": url, variable: value}, "backup")
    assert run.returncode == 1
    assert re.fullmatch(r"chassis: the backups in s3://[^\n]*/refused cannot be reached: [^\n]+\n", run.stderr), (
        run.stderr
    )
    assert not (bucket / "refused").exists()


def test_what_goes_to_s3_has_a_checksum(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket with a lock wants one. rclone takes what comes, so this listens itself."""
    del bucket  # its variables are those of an S3 on this machine
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        writing = threading.Thread(target=Store("s3://locked/backups").put_text, args=["a", "text"])
        writing.start()
        connection, _ = listening.accept()
        with connection:
            said = connection.recv(65536).decode().lower()
            connection.sendall(b"HTTP/1.1 200 OK\r\netag: x\r\ncontent-length: 0\r\n\r\n")
            writing.join()
    assert "\r\nx-amz-checksum-sha256: " in said


def test_a_full_disk_is_one_line_and_leaves_nothing(variables: dict[str, str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=32k tmpfs "$1" || exit 99; shift; "$@"; code=$?; ls -A "$0"; exit $code'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, disk, disk]
    run = subprocess.run(
        [*command, sys.executable, "-m", "chassis.cli", "backup"],
        env={**os.environ, **variables, "APP_BACKUP_URL": disk.as_uri()},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 99:
        pytest.skip("this machine lets nobody mount")
    assert run.returncode == 1
    assert re.fullmatch(
        r"chassis: the backups in file://[^\n]* cannot be reached: [^\n]*No space left[^\n]*\n", run.stderr
    )
    assert [line for line in run.stdout.splitlines() if not line.startswith("{")] == []


def test_one_that_is_stopped_half_way_leaves_nothing(variables: dict[str, str], sql: Sql, folder: Path) -> None:
    lock = "begin; lock table things in access exclusive mode"
    with psycopg.connect(variables["MIGRATOR_DATABASE_URL"]) as blocking:
        blocking.execute(lock.encode())
        environment = {**os.environ, **variables}
        command = [sys.executable, "-m", "chassis.cli", "backup"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            while not sql("select pid from pg_locks where not granted"):
                assert run.poll() is None
            run.terminate()
            assert run.wait() == 130
    assert [file.name for file in folder.iterdir()] == []


def test_half_of_a_backup_is_never_listed_and_goes_in_time(bucket: Path) -> None:
    store = Store("s3://bucket/halves")

    def breaks_off() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(1024 * 1024)
        raise Failure("stopped")

    now = datetime.now(UTC)
    assert refused(lambda: store.put_dump(new_name(now), breaks_off(), 0)) == "stopped"
    assert [file for file in bucket.glob("halves/**/*") if file.is_file()] == []
    killed, running = new_name(now - timedelta(days=3)), new_name(now)
    for name in (killed, running):
        store.put_dump(name, iter([b"half"]), 0)
    assert store.names() == []
    assert store.expire(1, 1) == [killed]
    assert [file.name for file in (bucket / "halves").iterdir()] == [f"{running}{DUMP}"]


def test_why_there_is_none_is_said_even_when_its_half_cannot_be_thrown_away(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(_: object, _path: str, pieces: Iterator[bytes], **_options: object) -> None:
        try:
            list(pieces)
        except Failure:
            raise OSError("there is no such upload") from None

    def breaks_off() -> Iterator[bytes]:
        yield b"half"
        raise Failure("stopped")

    monkeypatch.setattr(obstore, "put", put)
    store = Store("s3://bucket/halves")
    assert refused(lambda: store.put_dump(new_name(datetime.now(UTC)), breaks_off(), 0)) == "stopped"


def test_old_backups_go_by_age_but_the_newest_stay(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    names = [new_name(datetime.now(UTC) - timedelta(days=days)) for days in (50, 40, 30, 20, 10)]
    for name in names:
        store.put_dump(name, iter([b"dump"]), 0)
        store.put_text(f"{name}.json", "{}")
    (tmp_path / "notes.json").write_text("somebody else's")
    assert store.expire(5, 15) == []
    assert store.expire(1, 0) == []
    assert store.expire(1, 35) == names[:2]
    assert store.expire(3, 15) == []
    assert store.expire(2, 1) == names[2:3]
    assert store.names() == names[3:]
    assert sorted(file.name for file in tmp_path.iterdir() if names[2] in file.name) == []
    assert (tmp_path / "notes.json").exists()


# What is not restored.


def test_a_database_with_anything_in_it_is_left_alone(make: Make, database: TestDatabase, empty: TestDatabase) -> None:
    backup(make())
    assert "is not empty" in refused(lambda: restore(make(), database.superuser))
    with psycopg.connect(empty.superuser) as connection:
        connection.execute("create function public.mine() returns int language sql return 1")
    assert "is not empty, it has mine()" in refused(lambda: restore(make(), empty.superuser))


def test_what_is_needed_is_said_by_name(make: Make, variables: dict[str, str], empty: TestDatabase) -> None:
    assert f"there is no backup in {variables['APP_BACKUP_URL']}" in refused(lambda: restore(make(), empty.superuser))
    run = chassis({name: value for name, value in variables.items() if name != "BACKUP_DATABASE_URL"}, "backup")
    assert (run.returncode, run.stderr.split()[:3]) == (78, ["chassis:", "BACKUP_DATABASE_URL", "is"])
    deployed = make().model_copy(
        update={"environment": "production", "backup_identity": None, "backup_recipients": (), "backup_url": ""}
    )
    for work, variable in (
        (lambda: Store.of(deployed), "APP_BACKUP_URL is required"),
        (lambda: streams.recipients(deployed), "APP_BACKUP_RECIPIENTS is required"),
        (lambda: streams.identity(deployed), "APP_BACKUP_IDENTITY is required"),
    ):
        with pytest.raises(ConfigurationRefused, match=variable):
            work()
    assert chassis(variables, "restore").returncode == 2
    assert chassis(variables, "restore", "--to", "host=localhost password=hunter2").returncode == 2


@pytest.mark.parametrize(
    "more",
    [
        {"APP_ENVIRONMENT": "test", "APP_BACKUP_URL": ""},
        {"APP_ENVIRONMENT": "development", "APP_BACKUP_URL": "file:///backups"},
    ],
)
def test_a_key_is_made_for_nothing_but_development(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, str],
) -> None:
    monkeypatch.setattr(streams, "state_folder", lambda: tmp_path / ".dev")
    with pytest.raises(ConfigurationRefused, match="APP_BACKUP_RECIPIENTS is required"):
        streams.recipients(make(APP_BACKUP_RECIPIENTS="", **more))
    assert not (tmp_path / ".dev").exists()
    settings = make(APP_ENVIRONMENT="development", APP_BACKUP_RECIPIENTS="", APP_BACKUP_URL="", APP_BACKUP_IDENTITY="")
    made = [streams.recipients(settings) for _ in range(2)]
    assert made[0] == made[1]
    key = tmp_path / ".dev" / "backup.key"
    assert capsys.readouterr().err == f"chassis: made a key for backups of development: only {key} opens them\n"
    assert streams.identity(settings) == key.read_text().strip()


def test_a_dump_is_restored_with_the_rights_of_a_migration_and_a_backup(
    make: Make, database: TestDatabase, empty: TestDatabase
) -> None:
    """Whoever can write to the store can write a dump, which is a program: here, a constraint that looks around."""
    with psycopg.connect(database.superuser, autocommit=True) as admin:
        admin.execute(
            f"""
            set role "{roles.MIGRATOR}";
            create function looks() returns boolean language plpgsql as $$ begin
                if current_database() <> '{database.name}' and exists (
                    select from pg_roles where rolsuper and rolname in (session_user, current_user)
                ) then raise exception 'a superuser runs this'; end if;
                return true;
            end $$;
            alter table things add check (looks());
            """.encode()
        )
    settings = make()
    backup(settings)
    restore(settings, empty.superuser)
    assert len(contents(empty.superuser)) == 5
    with psycopg.connect(empty.superuser) as connection:
        found = connection.execute("select count(*) from pg_roles where rolname like '%restore%'").fetchone()
    assert found == (0,)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"name": "20200101T000000Z-abcdef"}, "is that of another backup, 20200101T000000Z-abcdef"),
        ({"taken_at": datetime(2020, 1, 1, tzinfo=UTC)}, "is that of another backup"),
        ({"service": "another"}, "is of another, and not of"),
    ],
)
def test_a_manifest_that_is_another_ones_is_refused(
    make: Make, folder: Path, empty: TestDatabase, facts: dict[str, object], reason: str
) -> None:
    made = backup(make())
    (folder / f"{made.name}.json").write_text(made.model_copy(update=facts).model_dump_json())
    assert reason in refused(lambda: restore(make(), empty.superuser))


def test_a_backup_of_the_future_is_refused(make: Make, folder: Path, empty: TestDatabase) -> None:
    made = backup(make())
    (folder / "99990101T000000000000Z-abcdef.json").write_text(
        made.model_copy(
            update={"name": "99990101T000000000000Z-abcdef", "taken_at": datetime(9999, 1, 1, tzinfo=UTC)}
        ).model_dump_json()
    )
    assert "in the future" in refused(lambda: restore(make(), empty.superuser))
    restore(make(), empty.superuser, made.name)


def test_a_folder_that_is_not_there_is_not_made(make: Make, empty: TestDatabase, tmp_path: Path) -> None:
    settings = make(APP_BACKUP_URL=(tmp_path / "misspelt").as_uri())
    for work in (lambda: backup(settings), lambda: restore(settings, empty.superuser)):
        assert "misspelt cannot be reached" in refused(work)
    assert not (tmp_path / "misspelt").exists()


def test_the_database_is_named(make: Make, cluster: Postgres) -> None:
    backup(make())
    url = cluster.dsn("postgres").removesuffix("/postgres")
    assert refused(lambda: restore(make(), url)).startswith("name the database in --to")


def test_an_older_server_is_refused(make: Make, empty: TestDatabase) -> None:
    made = backup(make())
    Store.of(make()).put_manifest(made.model_copy(update={"server_version": 190000}))
    assert "restore into one that is not older" in refused(lambda: restore(make(), empty.superuser))


def test_a_failed_restore_leaves_the_database_empty(make: Make, database: TestDatabase, empty: TestDatabase) -> None:
    made = backup(make())
    forge(Store.of(make()), made, pg_dump(database)[:-500])  # all that makes tables is there, and not all rows
    assert "pg_restore failed" in refused(lambda: restore(make(), empty.superuser))
    with psycopg.connect(empty.superuser) as connection:
        assert connection.execute("select count(*) from pg_namespace where nspname = 'chassis'").fetchone() == (0,)


# The drill.


def pg_dump(database: TestDatabase, *options: str) -> bytes:
    command = [binaries() / "pg_dump", "--format=custom", f"--dbname={database.superuser}", *options]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def forge(store: Store, manifest: Manifest, content: bytes) -> None:
    """Put another dump in a backup's place, with a manifest that says so and is otherwise the same."""
    stored = pyrage.encrypt(content, [KEY.to_public()])
    store.put_dump(manifest.name, iter([stored]), 0)
    facts = {
        "dump_bytes": len(content),
        "dump_sha256": hashlib.sha256(content).hexdigest(),
        "stored_bytes": len(stored),
        "stored_sha256": hashlib.sha256(stored).hexdigest(),
    }
    store.put_manifest(manifest.model_copy(update=facts))


def flip(folder: Path, name: str, _: TestDatabase) -> None:
    content = bytearray((folder / f"{name}{DUMP}").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / f"{name}{DUMP}").write_bytes(content)


def truncate(folder: Path, name: str, _: TestDatabase) -> None:
    content = (folder / f"{name}{DUMP}").read_bytes()
    (folder / f"{name}{DUMP}").write_bytes(content[:-1000])


def lose(folder: Path, name: str, _: TestDatabase) -> None:
    (folder / f"{name}{DUMP}").unlink()


def other_key(folder: Path, name: str, _: TestDatabase) -> None:
    content = pyrage.decrypt((folder / f"{name}{DUMP}").read_bytes(), [KEY])
    stored = pyrage.encrypt(content, [pyrage.x25519.Identity.generate().to_public()])
    (folder / f"{name}{DUMP}").write_bytes(stored)
    facts = {"stored_sha256": hashlib.sha256(stored).hexdigest(), "stored_bytes": len(stored)}
    store = Store(folder.as_uri())
    store.put_manifest(store.manifest().model_copy(update=facts))


def dumped(*options: str, after: str = "select 1") -> Callable[[Path, str, TestDatabase], None]:
    """Another dump of the same database: with other options, or after something has happened to it."""

    def damage(folder: Path, _: str, database: TestDatabase) -> None:
        with psycopg.connect(database.superuser) as connection:
            connection.execute(after.encode())
        store = Store(folder.as_uri())
        forge(store, store.manifest(), pg_dump(database, *options))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(flip, "was changed since it was stored", id="a flipped byte"),
        pytest.param(truncate, "is cut off", id="a truncated object"),
        pytest.param(lose, "the dump of .* is not in", id="a lost object"),
        pytest.param(other_key, "APP_BACKUP_IDENTITY does not open", id="a key that cannot decrypt"),
        pytest.param(dumped("--schema-only"), "migrations: at none", id="an empty dump"),
        pytest.param(dumped("--exclude-table=things"), "public.things: the table is missing", id="a missing table"),
        pytest.param(
            dumped(after="delete from things where version = 1"), "public.things: 0 rows and not 5", id="rows"
        ),
        pytest.param(
            dumped(after=f"update things set tenant_id = '{B}' where name like '%3'"),
            "public.things: its rows belong to other tenants",
            id="rows of another tenant",
        ),
        pytest.param(
            dumped(after="drop policy tenant_select on things"),
            "public.things: the policy .* is lost",
            id="a lost policy",
        ),
        pytest.param(
            dumped(after="alter table things no force row level security"),
            "row-level security is not (enabled and )?forced",
            id="security that is not forced",
        ),
        pytest.param(
            dumped(after=f"grant truncate on things to {roles.APP}"), "things: the app role may truncate", id="a right"
        ),
    ],
)
def test_a_backup_that_is_no_good_fails_the_drill(
    make: Make,
    cluster: Postgres,
    database: TestDatabase,
    folder: Path,
    damage: Callable[[Path, str, TestDatabase], None],
    reason: str,
) -> None:
    damage(folder, backup(make()).name, database)
    said = refused(lambda: drill(make(), cluster.dsn("postgres")))
    assert re.search(reason, said), said
    report = (folder / "drill.html").read_text()
    assert "does not restore" in report
    assert not (folder / "drill.prom").exists()
    assert leftovers(cluster) == []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL that has neither the roles nor anybody else's drills."""
    server = Postgres(tmp_path_factory.mktemp("cluster"), durable=False)
    server.start()
    yield server
    server.stop()


def leftovers(postgres: Postgres) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.dsn("postgres")) as connection:
        return connection.execute(
            "select datname from pg_database where datname ~ '_drill_' union all "
            "select rolname from pg_roles where rolname ~ '_drill_'"
        ).fetchall()


def test_a_drill_restores_starts_the_service_uses_it_and_measures(
    variables: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    assert chassis(variables, "backup").returncode == 0
    run = chassis(variables, "drill", "--report", str(tmp_path / "report.html"))
    assert (run.returncode, run.stderr) == (0, "")
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["event"] == "drill passed"
    assert 0 < last["rpo_seconds"] < 600
    metrics = (folder / "drill.prom").read_text()
    measured = float(metrics.split("\nrestore_drill_rto_seconds ")[1].split()[0])
    assert round(measured, 1) == last["rto_seconds"] > 0
    page = (tmp_path / "report.html").read_text()
    assert page == (folder / "drill.html").read_text()
    for text in (
        "Recovery time (RTO)",
        "Recovery point (RPO)",
        "write, read, delete: an API key",
        "prefers-color-scheme",
    ):
        assert text in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=|url\(|@import", page)


def test_a_server_without_a_superuser_will_do(make: Make, tmp_path: Path) -> None:
    backup(make())
    with managed(tmp_path) as server:
        assert drill(make(), server.dsn("postgres", "first")) == 0
        assert leftovers(server) == []


def test_where_nobody_can_give_bypassrls_a_policy_shows_all_rows_and_a_table_without_it_is_an_error(
    make: Make, tmp_path: Path, folder: Path
) -> None:
    with managed(tmp_path) as server:
        superuser, first = (server.dsn("source", user) for user in ("postgres", "first"))
        source = server.dsn("source", roles.BACKUP)
        settings = make(BACKUP_DATABASE_URL=source)
        assert migrate.migrate(first, source) == "current"
        with psycopg.connect(superuser, autocommit=True) as admin:
            assert admin.execute("select bool_or(rolbypassrls) from pg_roles where not rolsuper").fetchone() == (False,)
            admin.execute(TABLE.encode())
            admin.execute("insert into things (tenant_id, name) values (%s, 'one'), (%s, 'another')", [A, B])
            admin.execute(f'alter table things owner to "{roles.MIGRATOR}"'.encode())
            assert "things: the backup role is bound" in refused(lambda: backup(settings))

            migrate.migrate(first)
            tables = backup(settings).tables
            assert tables["public.things"].tenants == {str(A): 1, str(B): 1}
            restore(settings, server.dsn("target", "first"))

            admin.execute("create policy narrow on things as restrictive for select using (name = 'one')")
            assert "things: the backup role is bound" in refused(lambda: backup(settings))
            admin.execute("drop policy narrow on things; alter policy backup on things using (name = 'one')")
            assert "things: the backup role is bound" in refused(lambda: backup(settings))
            assert len(list(folder.glob("*.json"))) == 1
        with psycopg.connect(server.dsn("target")) as target:
            assert catalog_problems(target) == []


@contextmanager
def managed(folder: Path) -> Generator[Postgres]:
    """A server as those are that others manage: its user `first` may make roles and databases, and no more."""
    server = Postgres(folder / "managed", durable=False)
    server.start()
    try:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"create role first login createdb createrole password '{server.password}'".encode())
            for name in ("source", "target"):
                admin.execute(f"create database {name} owner first".encode())
        yield server
    finally:
        server.stop()


def test_a_backup_of_an_older_release_is_migrated(
    make: Make, cluster: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(make())
    versions = tmp_path / "newer" / "migrations" / "versions"
    shutil.copytree(heads.service_revisions(), versions)
    (versions / "newer.py").write_text(
        "from alembic import op\nrevision = 'newer'\ndown_revision = None\nbranch_labels = None\n"
        "depends_on = 'chassis_0001'\ndef upgrade():\n    op.execute('select 1')\n"
    )
    monkeypatch.chdir(versions)
    heads.revisions.cache_clear()
    try:
        assert drill(make(), cluster.dsn("postgres")) == 0
    finally:
        heads.revisions.cache_clear()


def test_the_restored_service_gets_no_variable_that_it_does_not_need(
    make: Make, cluster: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(make())
    monkeypatch.setenv("APP_OF_ANOTHER", "a secret")  # with which this service would not start
    assert drill(make(), cluster.dsn("postgres")) == 0


def test_the_restored_service_gets_what_it_does_not_start_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Settings):
        partner_key: SecretStr
        partner_name: str = "none"

    for name in ("APP_PARTNER_KEY_FILE", "APP_PARTNER_NAME", "APP_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, "here")
    passed = passed_on(Mine(partner_key=SecretStr("here"), revision="abc"))
    assert {name for name, value in passed.items() if value == "here"} == {"APP_PARTNER_KEY_FILE"}
    assert passed["APP_REVISION"] == "abc"


def test_a_service_that_does_not_work_on_what_was_restored_fails_the_drill(
    make: Make, cluster: Postgres, sql: Sql, folder: Path
) -> None:
    sql("create function no() returns trigger language plpgsql as $$ begin raise 'no'; end $$")
    sql("create trigger no before insert on chassis.sessions for each row execute function no()")
    backup(make())
    said = refused(lambda: drill(make(), cluster.dsn("postgres")))
    assert "the smoke test is red on the restored service: sign in: POST /v1/auth/signin: 500" in said
    assert leftovers(cluster) == []
    assert "does not restore" in (folder / "drill.html").read_text()


def test_migrating_gives_the_backup_role_its_password(cluster: Postgres) -> None:
    with new_database(cluster) as database:
        url = database.backup.replace(cluster.password, "another-password")
        migrate.migrate(database.superuser, url)
        with psycopg.connect(url) as connection:
            assert connection.execute("select rolbypassrls from pg_roles where rolname = user").fetchone() == (True,)


def test_serving_imports_nothing_of_this() -> None:
    code = "import sys, chassis.cli, chassis.server; from chassis.app import load_app; load_app(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert {"chassis.backup", "chassis.smoke", "httpx", "obstore", "pyrage"} & set(run.stdout.split()) == set()
