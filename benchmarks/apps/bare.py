"""What people write without a chassis, each as small as it can be: what the service is measured against.

No authentication, no tenants, no transactions, no log, no limits. Every application has one route, and there are two
ways to write each, since neither is always the faster: the comparison takes the one that is.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from fastapi import FastAPI, Request
from pydantic import BaseModel

TENANT = UUID(os.environ.get("TENANT", "00000000-0000-4000-8000-000000000001"))


@asynccontextmanager
async def pool(app: FastAPI) -> AsyncGenerator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as app.state.pool:
        yield


class Hello(BaseModel):
    message: str


class Order(BaseModel):
    id: UUID
    reference: str
    customer_email: str
    currency: str
    status: str
    note: str | None
    total_minor: int
    version: int
    created_at: datetime
    updated_at: datetime


class Page(BaseModel):
    items: list[Order]
    next: str | None


class Item(BaseModel):
    sku: str
    quantity: int
    unit_price_minor: int


class NewOrder(BaseModel):
    reference: str
    customer_email: str
    currency: str
    items: list[Item]
    note: str | None = None
    status: str = "placed"


class OrderWithItems(Order):
    items: list[Item]


hello_model = FastAPI()
hello_dict = FastAPI()
page_model = FastAPI(lifespan=pool)
page_dict = FastAPI(lifespan=pool)
insert_statement = FastAPI(lifespan=pool)
insert_transaction = FastAPI(lifespan=pool)

_COLUMNS = "id, reference, customer_email, currency, status, note, total_minor, version, created_at, updated_at"
_PAGE = f"select {_COLUMNS} from orders where tenant_id = $1 order by created_at desc, id desc limit $2"  # noqa: S608  constants
_ORDER = f"""
    insert into orders (tenant_id, reference, customer_email, currency, status, note, total_minor)
    values ($1, $2, $3, $4, $5, $6, $7) returning {_COLUMNS}
"""  # noqa: S608  as above
_ITEM = """
    insert into order_items (tenant_id, order_id, position, sku, quantity, unit_price_minor)
    values ($1, $2, $3, $4, $5, $6)
"""
_ORDER_AND_ITEMS = f"""
    with placed as ({_ORDER}), items as (
        insert into order_items (tenant_id, order_id, position, sku, quantity, unit_price_minor)
        select $1, placed.id, item.position, item.sku, item.quantity, item.unit_price_minor
        from placed, unnest($8::text[], $9::int[], $10::bigint[])
            with ordinality as item (sku, quantity, unit_price_minor, position)
    )
    select * from placed
"""  # noqa: S608  as above


@hello_model.get("/hello")
async def hello_as_model() -> Hello:
    return Hello(message="hello")


@hello_dict.get("/hello")
async def hello_as_dict():  # without a type FastAPI looks at every value
    return {"message": "hello"}


@page_model.get("/orders", response_model=Page)
async def page_as_model(request: Request, limit: int = 20) -> Any:
    rows = await request.app.state.pool.fetch(_PAGE, TENANT, limit)
    return {"items": [dict(row) for row in rows], "next": None}


@page_dict.get("/orders")
async def page_as_dict(request: Request, limit: int = 20):
    rows = await request.app.state.pool.fetch(_PAGE, TENANT, limit)
    return {"items": [dict(row) for row in rows], "next": None}


def _total(order: NewOrder) -> int:
    return sum(item.quantity * item.unit_price_minor for item in order.items)


@insert_statement.post("/orders", status_code=201, response_model=OrderWithItems)
async def insert_in_one_statement(order: NewOrder, request: Request) -> Any:
    row = await request.app.state.pool.fetchrow(
        _ORDER_AND_ITEMS,
        TENANT,
        order.reference,
        order.customer_email,
        order.currency,
        order.status,
        order.note,
        _total(order),
        [item.sku for item in order.items],
        [item.quantity for item in order.items],
        [item.unit_price_minor for item in order.items],
    )
    return {**row, "items": order.items}


@insert_transaction.post("/orders", status_code=201, response_model=OrderWithItems)
async def insert_in_a_transaction(order: NewOrder, request: Request) -> Any:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            _ORDER,
            TENANT,
            order.reference,
            order.customer_email,
            order.currency,
            order.status,
            order.note,
            _total(order),
        )
        await connection.executemany(
            _ITEM,
            [
                (TENANT, row["id"], position, item.sku, item.quantity, item.unit_price_minor)
                for position, item in enumerate(order.items, 1)
            ],
        )
    return {**row, "items": order.items}
