"""The orders API: what each request looks like, and who may send it."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from chassis import Email, ExpectedVersion, Idempotent, Input, Instant, Page, PageRequest, Principal, Transaction, may
from chassis.money import Currency

from . import service
from .queries import Order, OrderStatus, OrderWithItems

router = APIRouter()

Reader = Annotated[Principal, may("orders:read")]
Writer = Annotated[Principal, may("orders:write")]


class NewItem(Input):
    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=10_000)
    unit_price_minor: int = Field(ge=0, le=1_000_000_000, description="In the currency's smallest unit, such as cents.")


class NewOrder(Input):
    reference: str = Field(min_length=1, max_length=64, description="Your own name for the order, unique for you.")
    customer_email: Email
    currency: Currency
    items: list[NewItem] = Field(min_length=1, max_length=100)
    note: str | None = Field(default=None, max_length=2_000)
    status: Literal["draft", "placed"] = "placed"


class OrderChange(Input):
    """What is left out stays as it is; a note of null is removed."""

    customer_email: Email | None = None
    note: str | None = Field(default=None, max_length=2_000)
    status: Literal["placed"] | None = None


@router.post("/orders", status_code=201)
async def place_order(body: NewOrder, who: Writer, db: Transaction, once: Idempotent) -> OrderWithItems:
    """Place an order, or draft one. Repeating the request with the same Idempotency-Key returns the first answer."""
    return await service.place(db, body)


@router.get("/orders")
async def list_orders(
    who: Reader,
    db: Transaction,
    page: PageRequest,
    status: OrderStatus | None = None,
    placed_from: Instant | None = None,
    placed_before: Instant | None = None,
) -> Page[Order]:
    """Orders, newest first."""
    return await service.page(db, page, status, placed_from, placed_before)


@router.get("/orders/{order_id}")
async def read_order(order_id: UUID, who: Reader, db: Transaction) -> OrderWithItems:
    """One order with its items. Its ETag is what a change needs in If-Match."""
    return await service.read(db, order_id)


@router.patch("/orders/{order_id}")
async def change_order(
    order_id: UUID, body: OrderChange, who: Writer, db: Transaction, expected: ExpectedVersion
) -> OrderWithItems:
    """Change an order that is not cancelled, or place a draft."""
    return await service.change(db, order_id, expected, body)


@router.delete("/orders/{order_id}", status_code=204)
async def discard_order(order_id: UUID, who: Writer, db: Transaction) -> None:
    """Throw a draft away. What was placed stays, and can be cancelled."""
    await service.discard(db, order_id)


@router.post("/orders/{order_id}/cancel")
async def cancel_order(order_id: UUID, who: Writer, db: Transaction) -> OrderWithItems:
    """Cancel an order for good. Cancelling it again changes nothing."""
    return await service.cancel(db, order_id)
