"""The orders' SQL, and what its rows are in Python."""

from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from chassis import query

OrderStatus = Literal["draft", "placed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Order:
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


@dataclass(frozen=True, slots=True)
class Item:
    sku: str
    quantity: int
    unit_price_minor: int


@dataclass(frozen=True, slots=True)
class OrderWithItems(Order):
    items: list[Item]

    @classmethod
    def of(cls, order: Order, items: list[Item]) -> Self:
        return cls(*astuple(order), items)


_COLUMNS = "id, reference, customer_email, currency, status, note, total_minor, version, created_at, updated_at"

PLACE = query(
    "orders.place",
    Order,
    f"""
    with placed as (
        insert into orders (tenant_id, reference, customer_email, currency, status, note, total_minor)
        values ($1, $2, $3, $4, $5, $6, $7)
        returning {_COLUMNS}
    ), items as (
        insert into order_items (tenant_id, order_id, position, sku, quantity, unit_price_minor)
        select $1, placed.id, item.position, item.sku, item.quantity, item.unit_price_minor
        from placed, unnest($8::text[], $9::int[], $10::bigint[])
            with ordinality as item (sku, quantity, unit_price_minor, position)
    )
    select {_COLUMNS} from placed
    """,
)

_PAGE = f"""
    select {_COLUMNS}
    from orders
    where ($1::timestamptz is null or (created_at, id) < ($1, $2::uuid))
      and ($4::timestamptz is null or created_at >= $4)
      and ($5::timestamptz is null or created_at < $5)
"""
_NEWEST_FIRST = "order by created_at desc, id desc limit $3"

PAGE = query("orders.page", Order, f"{_PAGE} {_NEWEST_FIRST}")

PAGE_OF_STATUS = query("orders.page_of_status", Order, f"{_PAGE} and status = $6 {_NEWEST_FIRST}")

READ = query("orders.read", Order, f"select {_COLUMNS} from orders where tenant_id = $1 and id = $2")

LOCK = query("orders.lock", Order, f"select {_COLUMNS} from orders where tenant_id = $1 and id = $2 for update")

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
    f"""
    update orders
    set customer_email = $3, note = $4, status = $5, version = version + 1, updated_at = now()
    where tenant_id = $1 and id = $2
    returning {_COLUMNS}
    """,
)

SAMPLE = query(
    "orders.sample",
    str,
    """
    insert into orders (tenant_id, reference, customer_email, currency, status, total_minor, created_at)
    select current_setting('app.tenant_id')::uuid, 'sample-' || n, 'customer-' || n || '@example.com', 'EUR',
           (array['placed', 'placed', 'draft', 'cancelled'])[n % 4 + 1]::order_status, n * 100,
           now() - n * interval '1 minute'
    from generate_series(1, $1::int) as n
    on conflict do nothing
    """,
)
