"""What webhooks keep of an event: in the transaction that caused it, so neither exists without the other."""

from chassis import UnitOfWork

from ..orders import OrderCancelled, OrderPlaced
from .queries import RECORD


async def on_order_placed(db: UnitOfWork, event: OrderPlaced) -> None:
    await db.run(RECORD, db.tenant_id, "order.placed", event)


async def on_order_cancelled(db: UnitOfWork, event: OrderCancelled) -> None:
    await db.run(RECORD, db.tenant_id, "order.cancelled", event)
