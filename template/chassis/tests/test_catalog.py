"""No table may be forgotten: each way to open one is tried here, and seen."""

import psycopg
import pytest

from chassis.data.catalog import catalog_problems
from chassis.data.roles import APP, BACKUP, MIGRATOR
from chassis.data.tenancy import TENANT, shared_table, tenant_table
from chassis.features import PACKAGE
from chassis.testing import TestDatabase

TABLE = "create table things (tenant_id uuid not null, id uuid not null, note text, primary key (tenant_id, id));"
CLOSED = TABLE + tenant_table("things")
MINE = f"tenant_id = {TENANT}"


def problems(url: str, change: str = "") -> list[str]:
    """What the catalog says after `change`."""
    with psycopg.connect(url) as connection:
        connection.execute(change.encode())
        found = catalog_problems(connection)
        connection.rollback()
    return found


def test_the_service_has_no_problem(database: TestDatabase) -> None:
    assert problems(database.migrator) == []


def test_what_the_helpers_make_has_no_problem(database: TestDatabase) -> None:
    shared = "create table rates (currency text primary key);" + shared_table("rates", "it's the same money for all")
    view = "create view few_things with (security_invoker) as select * from things limit 3;"
    assert problems(database.migrator, f"{CLOSED}{view}{shared}") == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(TABLE, "things: row-level security is not enabled and forced", id="nothing done"),
        pytest.param(
            f"{TABLE} comment on table things is 'without tenants: '",
            "things: row-level security is not enabled and forced",
            id="no reason given",
        ),
        pytest.param(
            "create table rates (currency text primary key)",
            "rates: no column tenant_id uuid not null",
            id="no tenant",
        ),
        pytest.param(
            f"{CLOSED} alter table things no force row level security", "is not enabled and forced", id="not forced"
        ),
        pytest.param(
            f"{CLOSED} alter table things disable row level security", "is not enabled and forced", id="disabled"
        ),
        pytest.param(
            f"{CLOSED} comment on table things is 'without tenants: of a person'; alter table things no force row level"
            " security",
            "things: it has policies, and row-level security is not enabled and forced",
            id="of a person, not forced",
        ),
        *(
            pytest.param(f"{CLOSED} drop policy tenant_{verb} on things", f"no tenant policy for {verb}", id=verb)
            for verb in ("select", "insert", "update", "delete")
        ),
        pytest.param(
            f"{CLOSED} alter policy tenant_select on things to {BACKUP}",
            "things: no tenant policy for select",
            id="for another role",
        ),
        pytest.param(
            f"{CLOSED} create policy open on things using (true)", "policy open lets more through", id="second policy"
        ),
        pytest.param(
            f"{CLOSED} create policy open on things for insert with check (true)",
            "policy open lets more through",
            id="second policy for inserts",
        ),
        pytest.param(
            f"{CLOSED} create policy open on things for update using ({MINE}) with check (true)",
            "policy open lets more through",
            id="update away",
        ),
        pytest.param(
            f"{CLOSED} alter policy tenant_select on things using (tenant_id = current_setting('app.tenant_id')::uuid)",
            "policy tenant_select lets more through",
            id="another condition",
        ),
        pytest.param(
            f"{CLOSED} create unique index on things (note)",
            "things_note_idx does not begin with tenant_id",
            id="unique among tenants",
        ),
        pytest.param(
            f"{CLOSED} create view all_things as select * from things",
            "all_things: a view shows what its owner sees",
            id="view",
        ),
        pytest.param(
            f"{CLOSED} create view all_things with (security_invoker = false) as select * from things",
            "all_things: a view shows what its owner sees",
            id="view that says so",
        ),
        pytest.param(
            f"{CLOSED} create materialized view all_things as select * from things",
            "all_things: row-level security does not hold",
            id="materialized view",
        ),
        pytest.param(
            f"{CLOSED} alter table things add other uuid references things (id)".replace(
                "primary key (tenant_id, id)", "primary key (tenant_id, id), unique (id)"
            ),
            "things_other_fkey without tenant_id may refer to another tenant's row",
            id="reference across tenants",
        ),
        pytest.param(
            f"{CLOSED} alter table things add other uuid,"
            " add foreign key (tenant_id, other) references things (tenant_id, id)",
            "no index for the foreign key things_tenant_id_other_fkey",
            id="reference without an index",
        ),
        pytest.param(
            f'{CLOSED} grant truncate on things to "{APP}"', "things: the app role may truncate", id="truncate"
        ),
        pytest.param(
            f'{CLOSED} revoke select on things from "{BACKUP}"', "things: the backup role cannot", id="backup"
        ),
        pytest.param(f'{CLOSED} grant insert on things to "{BACKUP}"', "things: the backup role may write", id="write"),
    ],
)
def test_a_migration_that_opens_something_is_seen(database: TestDatabase, change: str, expected: str) -> None:
    found = problems(database.migrator, change)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("alter role {app} bypassrls", "has BYPASSRLS"),
        ("alter role {app} createrole", "has CREATEROLE"),
        ("alter role {backup} nobypassrls", "is bound by row-level security"),
        ("grant {migrator} to {app}", "is a member of {migrator}"),
        ("grant pg_write_all_data to {app}", "is a member of pg_write_all_data"),
        ("alter table chassis.idempotency_keys owner to {app}", "owns table chassis.idempotency_keys"),
        ("grant temporary on database {database} to public", "may create temporary tables in this database"),
        ("grant create on database {database} to {app}", "may create schemas in this database"),
        ("grant create on schema public to {app}", "schema public: the app role may create objects in it"),
        (
            "create function see() returns int language sql security definer as 'select 1'",
            "see(): the app role may call it, and it runs as postgres, who sees all tenants",
        ),
        (
            """
            alter role {backup} nobypassrls;
            create function see() returns int language sql security definer as 'select 1';
            alter function see() owner to {backup}
            """,
            "see(): the app role may call it, and it runs as {backup}, who sees all tenants",
        ),
        (
            """
            alter role {backup} nobypassrls;
            create role {package}_sees_as_well in role {backup};
            create function see() returns int language sql security definer as 'select 1';
            alter function see() owner to {package}_sees_as_well
            """,
            "see(): the app role may call it, and it runs as {package}_sees_as_well, who sees all tenants",
        ),
        (
            """
            alter role {backup} nobypassrls;
            create role {package}_narrow role {backup};
            create policy backup on chassis.audit for select to {backup} using (true);
            create policy narrow on chassis.audit as restrictive for select to {package}_narrow using (false)
            """,
            "chassis.audit: the backup role is bound by row-level security",
        ),
        ("create policy backup on chassis.audit for select to {app} using (true)", "policy backup lets more through"),
        ("create policy backup on chassis.audit to {backup} using (true)", "policy backup lets more through"),
    ],
)
def test_a_change_by_hand_is_seen(database: TestDatabase, change: str, expected: str) -> None:
    names = {"package": PACKAGE, "app": APP, "backup": BACKUP, "migrator": MIGRATOR, "database": database.name}
    found = problems(database.superuser, change.format(**names))
    assert any(expected.format(**names) in problem for problem in found), found
