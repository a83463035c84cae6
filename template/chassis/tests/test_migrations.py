"""Migrating: by several at once, from half-way, past a lock, without a superuser; and what /readyz thinks of it."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from textwrap import indent
from threading import Barrier

import psycopg
import pytest

from chassis.data import heads, migrate, roles
from chassis.data.catalog import catalog_problems
from chassis.data.migrate import MigrationFailed, new_revision
from chassis.dev.migration_lint import lint
from chassis.dev.postgres import Postgres
from chassis.failure import Failure
from chassis.testing import TestDatabase, new_database


def versions(database: TestDatabase) -> set[str]:
    with psycopg.connect(database.superuser) as connection:
        return {version for (version,) in connection.execute("select version_num from chassis.alembic_version")}


@pytest.fixture
def fresh_cluster(tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL on which the roles were never made."""
    server = Postgres(tmp_path / "cluster", durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL of these tests alone, because they change its roles."""
    server = Postgres(tmp_path_factory.mktemp("cluster"), durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A service without migrations of its own: the folder for them."""
    folder = tmp_path / "migrations" / "versions"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    heads.revisions.cache_clear()
    yield folder
    heads.revisions.cache_clear()


def write(folder: Path, name: str, sql: str, down: str | None = None, *, outside_transaction: bool = False) -> None:
    """A revision of the service."""
    body = f'op.execute("""{sql}""")'
    if outside_transaction:
        body = f"with op.get_context().autocommit_block():\n{indent(body, '    ')}"
    (folder / f"{name}.py").write_text(
        f"from alembic import op\nrevision = {name!r}\ndown_revision = {down!r}\nbranch_labels = None\n"
        f"depends_on = 'chassis_0001'\ndef upgrade():\n{indent(body, '    ')}\n"
    )
    heads.revisions.cache_clear()


def test_a_second_run_changes_nothing(database: TestDatabase) -> None:
    before = versions(database)
    assert migrate.migrate(database.superuser) == "current"
    assert versions(database) == before
    assert heads.state(before) == "current"


def migrate_at_once(urls: list[str]) -> list[str]:
    """What as many processes, started together, say in the end."""
    code = "import sys; from chassis.data.migrate import migrate; print(migrate(sys.argv[1]))"
    runs = [subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) for url in urls]
    return [run.communicate()[0].strip() for run in runs]


def test_many_at_once_on_many_databases(fresh_cluster: Postgres) -> None:
    """Replicas that start together, and other databases of the cluster that need the same roles: nobody fails."""
    with ExitStack() as stack:
        databases = [stack.enter_context(new_database(fresh_cluster)) for _ in range(2)]
        urls = [database.superuser for database in databases for _ in range(2)]
        assert migrate_at_once(urls) == ["current"] * len(urls)
        for database in databases:
            assert heads.state(versions(database)) == "current"


def test_roles_may_be_changed_for_several_databases_at_once(fresh_cluster: Postgres) -> None:
    """They are the whole cluster's, and PostgreSQL refuses the second of two changes that meet."""
    meet = Barrier(4)

    def change(database: TestDatabase) -> None:
        with psycopg.connect(database.superuser, autocommit=True) as connection:
            meet.wait()
            roles.bootstrap(connection)
            for _ in range(20):
                roles.set_password(connection, roles.APP, "the same")

    with ExitStack() as stack, ThreadPoolExecutor(meet.parties) as threads:
        list(threads.map(change, [stack.enter_context(new_database(fresh_cluster)) for _ in range(meet.parties)]))
    with psycopg.connect(fresh_cluster.dsn("postgres")) as connection:
        names = connection.execute(
            "select array_agg(rolname::text order by rolname) from pg_roles where rolname ~ '_(app|backup|migrator)$'"
        )
        assert names.fetchone() == (sorted([roles.APP, roles.BACKUP, roles.MIGRATOR]),)


def test_what_failed_is_undone_and_what_came_before_stays(empty_database: TestDatabase, service: Path) -> None:
    write(service, "first", "create table first (id int)")
    write(service, "second", "create table second (id int); select 1 / 0", "first")
    with pytest.raises(MigrationFailed, match=r"^division by zero$"):
        migrate.migrate(empty_database.superuser)
    assert "first" in versions(empty_database)
    with psycopg.connect(empty_database.superuser) as connection:
        assert connection.execute("select to_regclass('first'), to_regclass('second')").fetchone() == ("first", None)

    write(service, "second", "create table second (id int)", "first")
    assert migrate.migrate(empty_database.superuser) == "current"
    assert "second" in versions(empty_database)


def test_an_index_is_built_while_another_replica_waits(empty_database: TestDatabase, service: Path) -> None:
    """A replica that waited in pg_advisory_lock would hold up CREATE INDEX CONCURRENTLY, and be held up by it."""
    write(service, "first", "create table first (id int)")
    write(service, "second", "create index concurrently by_id on first (id)", "first", outside_transaction=True)
    write(service, "third", "select pg_sleep(1)", "second")
    assert migrate_at_once([empty_database.superuser] * 2) == ["current"] * 2
    with psycopg.connect(empty_database.superuser) as connection:
        valid = connection.execute("select indisvalid from pg_index where indexrelid = 'by_id'::regclass").fetchone()
    assert valid == (True,)


def test_a_locked_table_is_asked_for_briefly_and_again(empty_database: TestDatabase, service: Path) -> None:
    write(service, "first", "create table first (id int); grant select on first to public")
    migrate.migrate(empty_database.superuser)
    write(service, "second", "alter table first add note text", "first")
    with ThreadPoolExecutor(1) as thread, psycopg.connect(empty_database.superuser) as reader:
        reader.execute("select from first")
        migrating = thread.submit(migrate.migrate, empty_database.superuser)
        with pytest.raises(TimeoutError):
            migrating.result(timeout=3)  # it was refused the lock once by now
        with psycopg.connect(empty_database.superuser) as other:
            other.execute("set statement_timeout = '2.5s'")
            other.execute("select from first")  # is behind the migration in the queue for 2 seconds at most
        reader.commit()
        assert migrating.result(timeout=30) == "current"


def test_a_table_that_stays_locked_ends_in_one_line(
    empty_database: TestDatabase, service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_ATTEMPTS", 1)
    write(service, "first", "create table first (id int)")
    migrate.migrate(empty_database.superuser)
    write(service, "second", "alter table first add note text", "first")
    with psycopg.connect(empty_database.superuser) as reader:
        reader.execute("select from first")
        with pytest.raises(MigrationFailed, match=r"^canceling statement due to lock timeout$"):
            migrate.migrate(empty_database.superuser)
    assert migrate.migrate(empty_database.superuser) == "current"


def test_a_newer_schema_is_left_alone(database: TestDatabase) -> None:
    """The deployment of an older release, to go back to it, migrates first as well."""
    with psycopg.connect(database.superuser) as connection:
        connection.execute("insert into chassis.alembic_version values ('from_the_future')")
    before = versions(database)
    assert migrate.migrate(database.superuser) == "ahead"
    assert versions(database) == before


def test_the_first_user_of_a_managed_postgresql_is_enough(fresh_cluster: Postgres) -> None:
    """It owns the database and has CREATEROLE, and is no superuser."""
    with psycopg.connect(fresh_cluster.dsn("postgres"), autocommit=True) as superuser:
        superuser.execute("create role nobody login password 'x'")
        superuser.execute("create role master login createrole password 'long enough'")
        superuser.execute("create database managed owner master")
    with pytest.raises(MigrationFailed, match=r"^permission denied to create role[^\n]*$"):
        migrate.migrate(f"postgresql://nobody:x@127.0.0.1:{fresh_cluster.port}/managed")
    url = f"postgresql://master:long%20enough@127.0.0.1:{fresh_cluster.port}/managed"
    assert [migrate.migrate(url), migrate.migrate(url)] == ["current", "current"]
    with psycopg.connect(fresh_cluster.dsn("managed")) as superuser:
        assert catalog_problems(superuser) == []
        owners = superuser.execute(
            "select distinct tableowner from pg_tables where schemaname in ('chassis', 'public')"
        )
        assert owners.fetchall() == [(roles.MIGRATOR,)]


def test_no_server_is_one_line_without_the_password() -> None:
    with pytest.raises(MigrationFailed) as failure:
        migrate.migrate("postgresql://someone:s3cret@127.0.0.1:1/nothing")
    assert "onnection refused" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "s3cret" not in str(failure.value)


def test_roles_that_were_changed_by_hand_are_put_right(cluster: Postgres) -> None:
    url = cluster.dsn("postgres")
    migrate.migrate(url)
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute(f'alter role "{roles.APP}" bypassrls createdb nologin'.encode())
        superuser.execute("grant all on database postgres to public; grant create on schema public to public")
        assert catalog_problems(superuser) != []
        migrate.migrate(url)
        assert catalog_problems(superuser) == []
        assert superuser.execute("select rolcanlogin from pg_roles where rolname = %s", [roles.APP]).fetchone() == (
            True,
        )


def test_the_app_role_gets_the_password_of_database_url_and_the_log_does_not(cluster: Postgres) -> None:
    url = cluster.dsn("postgres")
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute("alter system set log_statement = 'all'")
        superuser.execute("select pg_reload_conf()")
    for password in ("first%2Fpassword", "second%2Fpassword"):
        app_url = f"postgresql://{roles.APP}:{password}@127.0.0.1:{cluster.port}/postgres"
        migrate.migrate(url, app_url)
        psycopg.connect(app_url).close()
    log = cluster.log.read_text()
    assert "SCRAM-SHA-256$" in log
    assert "first/password" not in log


@pytest.mark.parametrize("user", ["postgres", "somebody"])
def test_no_other_role_gets_a_password(cluster: Postgres, user: str) -> None:
    migrate.migrate(cluster.dsn("postgres"), f"postgresql://{user}:changed@127.0.0.1:{cluster.port}/postgres")
    psycopg.connect(cluster.dsn("postgres")).close()


def test_what_is_applied_is_current_and_anything_less_is_behind(service: Path) -> None:
    write(service, "first", "")
    write(service, "second", "", "first")
    chassis = set(heads.revisions()) - {"first", "second"}
    assert heads.state({"second", *chassis}) == "current"
    assert heads.state({"second", max(chassis)}) == "current"  # those that came before are not named any more
    assert heads.state({"first", *chassis}) == "behind"
    assert heads.state(chassis) == "behind"
    assert heads.state([]) == "behind"


def test_an_older_replica_beside_a_newer_schema_is_not_behind(service: Path) -> None:
    write(service, "first", "")
    assert heads.state({"third"}) == "ahead"


def test_outside_of_a_service_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure, match=r"^there is no migrations/versions in [^\n]*$"):
        heads.service_revisions()


def test_the_server_needs_no_alembic_to_know() -> None:
    code = "import sys, chassis, chassis.server; print({'alembic', 'sqlalchemy', 'psycopg'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_new_migration_follows_all_others_and_runs(empty_database: TestDatabase, service: Path) -> None:
    """Also two of them, made in two branches of git."""
    write(service, "one", "")
    write(service, "other", "")
    first = new_revision("Add invoices!")
    assert first.name.endswith("_add_invoices.py")
    assert first.parent == service
    assert '("one", "other")' in first.read_text() or '("other", "one")' in first.read_text()
    heads.revisions.cache_clear()
    second = new_revision("add lines")
    heads.revisions.cache_clear()
    assert migrate.migrate(empty_database.superuser) == "current"
    (applied,) = versions(empty_database)
    assert f'revision = "{applied}"' in second.read_text()


def test_the_first_migration_of_all(empty_database: TestDatabase, service: Path) -> None:
    new_revision("begin")
    heads.revisions.cache_clear()
    assert migrate.migrate(empty_database.superuser) == "current"


@pytest.mark.parametrize("name", ["", "???", "../../etc"])
def test_a_new_migration_has_a_name_that_is_a_name(service: Path, name: str) -> None:
    if name == "../../etc":
        assert new_revision(name).parent == service
    else:
        with pytest.raises(MigrationFailed, match="needs a letter or a digit"):
            new_revision(name)


def test_a_new_migration_does_not_replace_another(service: Path) -> None:
    new_revision("twice")
    with pytest.raises(MigrationFailed, match="choose another name"):
        new_revision("twice")


def test_a_new_migration_is_formatted(service: Path) -> None:
    file = new_revision("add invoices")
    ruff = Path(sys.executable).with_name("ruff")
    for command in (["check", "--isolated"], ["format", "--check", "--isolated"]):
        subprocess.run([ruff, *command, file], check=True, capture_output=True)


def test_the_lint_sees_what_would_block_a_table_in_use(service: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(service, "first", "create table first (id bigint); create index on first (id);")
    write(
        service, "second", "create index concurrently if not exists x on first (id)", "first", outside_transaction=True
    )
    assert lint() == 0
    write(service, "third", "create index on first (id); alter table first alter id type text", "second")
    assert lint() == 1
    output = capfd.readouterr().out
    assert "require-concurrent-index-creation" in output
    assert "changing-column-type" in output
    assert "third.py" in output


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("drop table first", "ban-drop-table"),
        ("alter table first rename to second", "renaming-table"),
        ("alter table first drop column id", "ban-drop-column"),
        ("alter table first rename column id to number", "renaming-column"),
        ("alter table first alter column id type text", "changing-column-type"),
        ("alter table first alter column id set not null", "adding-not-nullable-field"),
        ("alter table first alter column id drop default", "ban-drop-default"),
        ("alter table first add column name text not null", "adding-required-field"),
        ("alter type kind rename value 'a' to 'b'", "renaming-object"),
    ],
)
def test_the_lint_refuses_what_the_release_before_could_not_work_with(
    service: Path, capfd: pytest.CaptureFixture[str], sql: str, rule: str
) -> None:
    write(service, "first", sql)
    assert lint() == 1
    assert rule in capfd.readouterr().out
