"""What the tests of the chassis share: a table of things, and ways to serve them."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from fastapi import APIRouter

from chassis import Module, Settings, create_app
from chassis.app import Service
from chassis.settings import load
from chassis.testing import TestDatabase, started

sys.path.insert(0, str(Path(__file__).parent))  # for things.py: pytest itself adds no folder to the path

import things
from things import AsPrincipal, Client, Serving, Sql, client_of


@pytest.fixture
def table(database: TestDatabase) -> TestDatabase:
    """The test's database, with the table `things` in it."""
    with psycopg.connect(database.migrator) as connection:
        connection.execute(things.TABLE.encode())
    return database


@pytest.fixture
def sql(table: TestDatabase) -> Sql:
    """Run SQL as the superuser, who sees every tenant: `sql("select name from things where version = %s", 1)`."""

    def run(statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(table.superuser) as connection:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def service_of(table: TestDatabase, environment: dict[str, str]) -> Callable[..., Service]:
    """`service_of(router, APP_DATABASE_POOL_SIZE="1")`: a service of that router, configured but not started."""

    def make(router: APIRouter = things.router, **more: str) -> Service:
        service = create_app(Settings, [Module(name="things", router=router, permissions=things.PERMISSIONS)])
        service.configure(load(Settings, environment | more))
        return service

    return make


@pytest.fixture
def serving(service_of: Callable[..., Service], as_principal: AsPrincipal) -> Serving:
    """`async with serving(router) as client`: such a service, and a client of it, the owner of the test's tenant."""

    @asynccontextmanager
    async def serve(router: APIRouter = things.router, **more: str) -> AsyncGenerator[Client]:
        service = service_of(router, **more)
        async with started(service), client_of(service, as_principal()) as client:
            yield client

    return serve


@pytest.fixture
async def api(serving: Serving) -> AsyncGenerator[Client]:
    """A client of the service of things."""
    async with serving() as client:
        yield client


@pytest.fixture
def other_tenant() -> UUID:
    """A tenant that is not the test's own."""
    return UUID("00000000-0000-4000-8000-00000000000f")
