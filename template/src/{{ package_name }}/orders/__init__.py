"""Orders: placed once, changed only by who has seen the latest version, cancelled for good.

Other modules import from here and nowhere deeper.
"""

from chassis import Module, Trial

from . import queries
from .api import router
from .events import OrderCancelled, OrderPlaced

_EVERYBODY = ("owner", "admin", "member", "viewer")

module = Module(
    name="orders",
    router=router,
    permissions={
        "orders:read": _EVERYBODY,
        "orders:write": ("owner", "admin", "member"),
    },
    sample=queries.SAMPLE,
    trial=Trial(
        "/orders",
        lambda name: {
            "reference": name,
            "customer_email": "smoke@example.com",
            "currency": "EUR",
            "items": [{"sku": "SMOKE", "quantity": 1, "unit_price_minor": 1}],
            "status": "draft",
        },
    ),
)

__all__ = ["OrderCancelled", "OrderPlaced", "module"]
