"""What other modules may hear of orders."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    order_id: UUID
    reference: str
    currency: str
    total_minor: int


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    order_id: UUID
    reference: str
