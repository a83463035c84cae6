"""What somebody with the app role's password, or an injection, can do to other tenants: nothing. All in plain SQL."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors

from chassis.data.roles import APP, BACKUP, MIGRATOR
from chassis.testing import TestDatabase

MINE = UUID("00000000-0000-4000-8000-00000000000a")
THEIRS = UUID("00000000-0000-4000-8000-00000000000b")

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def app(table: TestDatabase) -> Iterator[Connection]:
    """The app role's connection, in autocommit mode. Two tenants have a thing each, with the tenant's own id."""
    with psycopg.connect(table.superuser) as superuser:
        add = "insert into things (tenant_id, id, name) values (%(tenant)s, %(tenant)s, %(name)s)"
        superuser.cursor().executemany(add, [{"tenant": MINE, "name": "mine"}, {"tenant": THEIRS, "name": "theirs"}])
    with psycopg.connect(table.app, autocommit=True) as connection:
        yield connection


@contextmanager
def acting_as(connection: Connection, tenant: object) -> Generator[None]:
    """A transaction of that tenant."""
    with connection.transaction():
        connection.execute("select set_config('app.tenant_id', %s, true)", [str(tenant)])
        yield


def names(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute("select name from things order by name")]


def test_each_tenant_sees_its_own(app: Connection) -> None:
    with acting_as(app, MINE):
        assert names(app) == ["mine"]


def test_without_a_tenant_nothing_is_there(app: Connection) -> None:
    assert names(app) == []
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("insert into things (tenant_id, name) values (%s, 'x')", [MINE])


def test_after_a_transaction_the_tenant_is_gone(app: Connection) -> None:
    """The setting is then '' and not NULL: a policy that casts it would fail, and the pooled connection with it."""
    with acting_as(app, MINE):
        assert names(app) == ["mine"]
    assert app.execute("select current_setting('app.tenant_id', true)").fetchone() == ("",)
    assert names(app) == []


def test_a_tenant_that_is_no_uuid_sees_an_error_and_not_rows(app: Connection) -> None:
    with pytest.raises(errors.InvalidTextRepresentation), acting_as(app, "x' or true --"):
        names(app)


@pytest.mark.parametrize(
    "change",
    [
        "update things set name = 'stolen' where name = 'theirs'",
        "delete from things where name = 'theirs'",
        f"update things set name = 'stolen' where tenant_id = '{THEIRS}'",
    ],
)
def test_rows_of_others_are_out_of_reach(app: Connection, change: str) -> None:
    with acting_as(app, MINE):
        assert app.execute(change.encode()).rowcount == 0


@pytest.mark.parametrize(
    "change",
    [
        f"insert into things (tenant_id, name) values ('{THEIRS}', 'planted')",
        f"update things set tenant_id = '{THEIRS}'",
        f"merge into things using (select) on false when not matched then insert (tenant_id) values ('{THEIRS}')",
    ],
)
def test_nothing_can_be_planted_at_others(app: Connection, change: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"), acting_as(app, MINE):
        app.execute(change.encode())


def test_nothing_can_be_copied_in_for_others(app: Connection) -> None:
    with pytest.raises(errors.FeatureNotSupported, match="row-level security"), acting_as(app, MINE):
        app.execute("copy things (tenant_id, name) from stdin")


def test_a_leaky_function_does_not_see_other_rows_first(app: Connection) -> None:
    """A condition that raises with what it sees would tell, if the planner ran it before the policy."""
    with acting_as(app, MINE):
        found = app.execute("select name from things where 1 / (case name when 'theirs' then 0 else 1 end) = 1")
        assert found.fetchall() == [("mine",)]


def test_a_unique_key_does_not_tell_who_exists(app: Connection) -> None:
    with acting_as(app, MINE):
        app.execute("insert into things (tenant_id, id, name) values (%s, %s, 'theirs')", [MINE, THEIRS])


@pytest.mark.parametrize(
    "attack",
    [
        "truncate things",
        "alter table things disable row level security",
        "alter table things no force row level security",
        "drop policy tenant_select on things",
        "create policy open on things using (true)",
        "alter table things owner to current_user",
        "drop table things",
        "create table mine (id int)",
        "create temporary table things (id int)",
        "create schema mine",
        "create function public.mine() returns int language sql as 'select 1'",
        "create view public.mine as select 1",
        "set role postgres",
        f'set role "{MIGRATOR}"',
        f'set role "{BACKUP}"',
        "set session authorization postgres",
        f'alter role "{APP}" bypassrls',
        f'alter role "{APP}" superuser',
        f'grant "{MIGRATOR}" to "{APP}"',
        "create role mine",
        "create database mine",
        "copy things to program 'cat'",
        "copy things to '/tmp/things'",
        "select pg_read_file('/etc/hostname')",
        "select rolpassword from pg_authid",
        "update chassis.alembic_version set version_num = 'x'",
        "create trigger mine before insert on things execute function suppress_redundant_updates_trigger()",
        "alter system set log_statement = 'all'",
        "set session_replication_role = 'replica'",
    ],
)
def test_the_app_role_may_not(app: Connection, attack: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(attack.encode())


def test_turning_row_security_off_is_an_error_and_not_a_way_in(app: Connection) -> None:
    app.execute("set row_security = off")
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        names(app)


def test_the_owner_is_bound_too(table: TestDatabase, app: Connection) -> None:
    """FORCE: without it, whoever owns a table sees all of it."""
    with psycopg.connect(table.migrator) as migrator:
        assert names(migrator) == []


def test_the_backup_role_reads_all_and_writes_nothing(table: TestDatabase, app: Connection) -> None:
    with psycopg.connect(table.backup, autocommit=True) as backup:
        assert names(backup) == ["mine", "theirs"]
        for change in ("insert into things (tenant_id, name) values (gen_random_uuid(), 'x')", "delete from things"):
            with pytest.raises(errors.InsufficientPrivilege):
                backup.execute(change.encode())


def test_the_chassis_keeps_its_own_tables_apart(database: TestDatabase) -> None:
    """The answers of requests with an Idempotency-Key are a tenant's as well."""
    add = "insert into chassis.idempotency_keys (tenant_id, key_hash, fingerprint) values (%s, 'key', 'print')"
    with psycopg.connect(database.app, autocommit=True) as app:
        for tenant in (MINE, THEIRS):
            with acting_as(app, tenant):
                app.execute(add, [tenant])
        with acting_as(app, MINE):
            assert app.execute("select tenant_id from chassis.idempotency_keys").fetchall() == [(MINE,)]
        with acting_as(app, uuid4()):
            assert app.execute("delete from chassis.idempotency_keys").rowcount == 0
