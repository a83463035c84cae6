"""Webhooks: hears of what happens in other modules, and keeps it for delivery.

It learns of orders from their events alone, so either module can leave without the other's code changing.
"""

from chassis import Module

from ..orders import OrderCancelled, OrderPlaced
from . import queries, service
from .api import router

module = Module(
    name="webhooks",
    router=router,
    permissions={"webhooks:read": ("owner", "admin")},
    listens={OrderPlaced: service.on_order_placed, OrderCancelled: service.on_order_cancelled},
    sample=queries.SAMPLE,
)

__all__ = ["module"]
