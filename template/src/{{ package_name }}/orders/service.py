"""What may happen to an order."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from chassis import Page, Paging, Problem, UnitOfWork, changed, not_found

from . import queries
from .events import OrderCancelled, OrderPlaced
from .queries import Order, OrderStatus, OrderWithItems

if TYPE_CHECKING:
    from .api import NewOrder, OrderChange


async def place(db: UnitOfWork, new: NewOrder) -> OrderWithItems:
    total = sum(item.quantity * item.unit_price_minor for item in new.items)
    try:
        order = await db.one(
            queries.PLACE,
            db.tenant_id,
            new.reference,
            new.customer_email,
            new.currency,
            new.status,
            new.note,
            total,
            [item.sku for item in new.items],
            [item.quantity for item in new.items],
            [item.unit_price_minor for item in new.items],
        )
    except asyncpg.UniqueViolationError:
        raise Problem(409, "reference_taken", "You have an order with this reference.") from None
    if order.status == "placed":
        await _placed(db, order)
    return OrderWithItems.of(order, [queries.Item(i.sku, i.quantity, i.unit_price_minor) for i in new.items])


async def page(
    db: UnitOfWork,
    paging: Paging,
    status: OrderStatus | None,
    placed_from: datetime | None,
    placed_before: datetime | None,
) -> Page[Order]:
    bounds = (*paging.before(placed_before), paging.fetch, paging.since(placed_from))
    if status is None:
        return paging.page(await db.all(queries.PAGE, *bounds))
    return paging.page(await db.all(queries.PAGE_OF_STATUS, *bounds, status))


async def read(db: UnitOfWork, order_id: UUID) -> OrderWithItems:
    order = await db.first(queries.READ, db.tenant_id, order_id)
    if order is None:
        raise not_found()
    return await _with_items(db, order)


async def change(db: UnitOfWork, order_id: UUID, expected: int, change: OrderChange) -> OrderWithItems:
    order = await db.first(queries.LOCK, db.tenant_id, order_id)
    if order is None:
        raise not_found()
    if order.version != expected:
        raise changed()
    if order.status == "cancelled":
        raise Problem(409, "order_cancelled", "A cancelled order cannot be changed.")
    given = change.model_fields_set
    was_placed = order.status == "placed"
    order = await db.one(
        queries.CHANGE,
        db.tenant_id,
        order_id,
        change.customer_email or order.customer_email,
        change.note if "note" in given else order.note,
        change.status or order.status,
    )
    if order.status == "placed" and not was_placed:
        await _placed(db, order)
    return await _with_items(db, order)


async def cancel(db: UnitOfWork, order_id: UUID) -> OrderWithItems:
    order = await db.first(queries.LOCK, db.tenant_id, order_id)
    if order is None:
        raise not_found()
    if order.status != "cancelled":
        order = await db.one(queries.CHANGE, db.tenant_id, order_id, order.customer_email, order.note, "cancelled")
        await db.emit(OrderCancelled(order.id, order.reference))
    return await _with_items(db, order)


async def discard(db: UnitOfWork, order_id: UUID) -> None:
    order = await db.first(queries.LOCK, db.tenant_id, order_id)
    if order is None:
        raise not_found()
    if order.status != "draft":
        raise Problem(409, "order_not_a_draft", "Only a draft can be thrown away. Cancel the order instead.")
    await db.run(queries.DISCARD, db.tenant_id, order_id)


async def _placed(db: UnitOfWork, order: Order) -> None:
    await db.emit(OrderPlaced(order.id, order.reference, order.currency, order.total_minor))


async def _with_items(db: UnitOfWork, order: Order) -> OrderWithItems:
    return OrderWithItems.of(order, await db.all(queries.ITEMS, db.tenant_id, order.id))
