"""Every named query of the service, on tables that have grown: none reads a whole table to answer with a page of it.

A query is explained as it will run: as the app role, under row-level security, with a plan for any argument. One that
must read much says why in `scan_allowed`. A module's `sample` query fills its tables.
"""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from chassis.app import Service
from chassis.data.pool import Database
from chassis.data.queries import QUERIES, Query
from chassis.settings import Settings, load
from chassis.testing import TestDatabase

TENANTS = (UUID(int=1), UUID(int=2))
ROWS_OF_A_TENANT = 50_000
MANY_ROWS = 1_000
MUCH_COST = 1_000  # of the planner: about as many rows, found through an index

# What needs all of its input before it can give the first row: a limit above it limits nothing below.
BLOCKING = {"Sort", "Aggregate", "Hash", "Materialize", "SetOp", "BitmapAnd", "BitmapOr"}

Plan = dict[str, Any]


def faults_of(plan: Plan, limited: bool = False) -> Iterator[str]:
    """What the plan costs more of, the more rows there are."""
    kind, rows = plan["Node Type"], plan["Plan Rows"]
    if table := plan.get("Relation Name") if "Scan" in kind else None:
        if kind == "Seq Scan":
            yield f"reads all of {table}"
        elif rows > MANY_ROWS and not limited:
            yield f"reads about {rows} rows of {table}: it needs a limit, and an index in its order"
        elif "Filter" in plan and plan["Total Cost"] > MUCH_COST:
            yield f"looks at many rows of {table} that it does not want: no index serves {plan['Filter']}"
    limited = kind == "Limit" or (limited and kind not in BLOCKING)
    for part in plan.get("Plans", ()):
        yield from faults_of(part, limited and part["Parent Relationship"] in {"Outer", "Inner"})


def explain(app: psycopg.Connection[Any], query: Query[Any]) -> list[str]:
    """The faults of a query's plan, unless they are excused."""
    try:
        row = app.execute(f"explain (generic_plan, format json) {query.sql}".encode()).fetchone()
    except psycopg.Error as error:
        app.rollback()
        found = [f"PostgreSQL cannot explain it: {str(error).splitlines()[0]}"]
    else:
        assert row is not None
        found = list(faults_of(row[0][0]["Plan"]))
    return [] if query.scan_allowed else [f"{query.name} {fault}" for fault in found]


def explained(database: TestDatabase, queries: list[Query[Any]], session: str = "select") -> list[str]:
    with psycopg.connect(database.app) as app:
        app.execute(f"set session app.tenant_id = '{TENANTS[0]}'; {session}".encode())
        app.commit()
        return [fault for query in queries for fault in explain(app, query)]


def unfilled(database: TestDatabase) -> list[str]:
    """Tables of tenants that hold too little for a plan to mean anything."""
    found: list[str] = []
    with psycopg.connect(database.superuser) as superuser:
        tables = superuser.execute("select oid::regclass::text from pg_class where relkind = 'r' and relrowsecurity")
        for (table,) in tables.fetchall():
            counted = superuser.execute(
                f"select tenant_id from {table} group by tenant_id having count(*) >= {ROWS_OF_A_TENANT}".encode()
            )
            if len(counted.fetchall()) < len(TENANTS):
                found.append(f"{table} is not filled by the sample query of any module")
    return found


@pytest.mark.anyio
async def test_no_query_of_the_service_costs_more_the_more_rows_there_are(
    app: Service, database: TestDatabase, environment: dict[str, str]
):
    filling = Database(load(Settings, environment | {"APP_STATEMENT_TIMEOUT_SECONDS": "120"}), {})
    await filling.open()
    for tenant in TENANTS:
        for module in app.modules:
            if module.sample is not None:
                async with filling.unit_of_work(tenant) as db:
                    await db.run(module.sample, ROWS_OF_A_TENANT)
    await filling.close(1)
    with psycopg.connect(database.superuser, autocommit=True) as superuser:
        superuser.execute(
            f"""
            insert into chassis.idempotency_keys (tenant_id, key_hash, fingerprint, created_at)
            select tenant::uuid, sha256(convert_to(n::text, 'utf8')), '', now() - n * interval '2 seconds'
            from generate_series(1, {ROWS_OF_A_TENANT}) as n, unnest(array['{TENANTS[0]}', '{TENANTS[1]}']) as tenant
        """.encode()
        )
        superuser.execute("vacuum analyze")
    assert unfilled(database) == []
    assert explained(database, list(QUERIES.values())) == []


@pytest.fixture
def grown(table: TestDatabase) -> TestDatabase:
    """The table of things with many rows."""
    with psycopg.connect(table.superuser, autocommit=True) as superuser:
        superuser.execute(
            f"""
            insert into things (tenant_id, name, version, created_at)
            select tenant::uuid, n::text, n, now() - n * interval '1 minute'
            from generate_series(1, {ROWS_OF_A_TENANT}) as n, unnest(array['{TENANTS[0]}', '{TENANTS[1]}']) as tenant
        """.encode()
        )
        superuser.execute("vacuum analyze things")
    return table


def asking(sql: str, scan_allowed: str | None = None) -> Query[Any]:
    return Query("things.asked", str, sql, scan_allowed)


def test_what_an_index_serves_is_found_good(grown: TestDatabase):
    good = [
        "select id from things where (created_at, id) < ($1, $2) order by created_at desc, id desc limit $3",
        "select id from things where tenant_id = $1 and id = $2 and version = $3",
        "select id from things where name = any ($1::text[])",
        "select a.id from things a join things b using (tenant_id, name) where a.id = $1",
        "update things set version = version + 1 where id = $1",
        "insert into things (tenant_id, name) values ($1, $2)",
        "delete from things where id in (select id from things order by created_at limit 100)",
    ]
    assert explained(grown, [asking(sql) for sql in good]) == []
    assert not any(fault.startswith("things") for fault in unfilled(grown))


def test_what_grows_with_the_table_is_found_out_unless_it_is_excused(grown: TestDatabase):
    bad = {
        "select id from things where version = $1": "reads all of things",
        "select id from things order by version limit $1": "reads all of things",
        "select count(*) from things": "reads all of things",
        "update things set version = 1 where version = $1": "reads all of things",
        "select id from things order by created_at desc, id desc": "reads about",
        "select id from things where $1::timestamptz is null or (created_at, id) < ($1, $2::uuid)"
        " order by created_at desc, id desc limit $3": "looks at many rows of things that it does not want",
        "select id from things where version > $1 order by created_at desc limit $2": "looks at many rows of things",
        "lock table things": "PostgreSQL cannot explain it: syntax error",
        "select nothing from things": 'PostgreSQL cannot explain it: column "nothing" does not exist',
    }
    for sql, fault in bad.items():
        [found] = explained(grown, [asking(sql)])
        assert found.startswith(f"things.asked {fault}")
        assert explained(grown, [asking(sql, scan_allowed="it runs once a night")]) == []
    # Where the planner prefers an index to the table, as it does for one tenant among many: all of it is sorted.
    [found] = explained(grown, [asking("select id from things order by version limit $1")], "set enable_seqscan = off")
    assert found.startswith("things.asked reads about")


def test_a_table_that_no_sample_fills_is_found_out(table: TestDatabase):
    assert "things is not filled by the sample query of any module" in unfilled(table)
