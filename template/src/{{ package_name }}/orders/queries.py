"""The orders' SQL, and what its rows are in Python."""

from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Literal, Self
from uuid import UUID

from chassis import Versioned, query

OrderStatus = Literal["draft", "placed", "cancelled"]


@dataclass(slots=True)  # not frozen: that would be a microsecond more for every row
class Order(Versioned):
    id: UUID
    reference: str
    customer_email: str
    currency: str
    status: OrderStatus
    note: str | None
    total_minor: int
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(slots=True)
class Item:
    sku: str
    quantity: int
    unit_price_minor: int


_values_of = attrgetter(*(field.name for field in fields(Order)))


@dataclass(slots=True)
class OrderWithItems(Order):
    items: list[Item]

    @classmethod
    def of(cls, order: Order, items: list[Item]) -> Self:
        return cls(*_values_of(order), items=items)


PLACE = query(
    "orders.place",
    Order,
    """
    with placed as (
        insert into orders (tenant_id, reference, customer_email, currency, status, note, total_minor)
        values ($1, $2, $3, $4, $5, $6, $7)
        returning {row}
    ), items as (
        insert into order_items (tenant_id, order_id, position, sku, quantity, unit_price_minor)
        select $1, placed.id, item.position, item.sku, item.quantity, item.unit_price_minor
        from placed, unnest($8::text[], $9::int[], $10::bigint[])
            with ordinality as item (sku, quantity, unit_price_minor, position)
    )
    select {row} from placed
    """,
)

PAGE = query(
    "orders.page",
    Order,
    """
    select {row}
    from orders
    where (created_at, id) < ($1, $2) and created_at >= $4
    order by created_at desc, id desc
    limit $3
    """,
)

PAGE_OF_STATUS = query(
    "orders.page_of_status",
    Order,
    """
    select {row}
    from orders
    where (created_at, id) < ($1, $2) and created_at >= $4 and status = $5
    order by created_at desc, id desc
    limit $3
    """,
)

READ = query("orders.read", Order, "select {row} from orders where tenant_id = $1 and id = $2")

LOCK = query("orders.lock", Order, "select {row} from orders where tenant_id = $1 and id = $2 for update")

ITEMS = query(
    "orders.items",
    Item,
    """
    select sku, quantity, unit_price_minor
    from order_items
    where tenant_id = $1 and order_id = $2
    order by position
    """,
)

CHANGE = query(
    "orders.change",
    Order,
    """
    update orders
    set customer_email = $3, note = $4, status = $5, version = version + 1, updated_at = now()
    where tenant_id = $1 and id = $2
    returning {row}
    """,
)

DISCARD = query("orders.discard", UUID, "delete from orders where tenant_id = $1 and id = $2")

SAMPLE = query(
    "orders.sample",
    str,
    """
    with placed as (
        insert into orders (tenant_id, reference, customer_email, currency, status, total_minor, created_at)
        select current_setting('app.tenant_id')::uuid, 'sample-' || n, 'customer-' || n || '@example.com', 'EUR',
               (array['placed', 'placed', 'draft', 'cancelled'])[n % 4 + 1], n * 100, now() - n * interval '1 minute'
        from generate_series(1, $1::int) as n
        on conflict do nothing
        returning tenant_id, id, total_minor
    )
    insert into order_items (tenant_id, order_id, position, sku, quantity, unit_price_minor)
    select tenant_id, id, 1, 'SAMPLE', 1, total_minor
    from placed
    """,
)
