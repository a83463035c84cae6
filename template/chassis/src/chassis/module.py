"""What a business module tells the composition root about itself."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

if TYPE_CHECKING:
    from chassis.data.queries import Query

Listener = Callable[[Any, Any], Awaitable[None]]
"""`async def on_order_placed(db: UnitOfWork, event: OrderPlaced) -> None`"""


@dataclass(frozen=True)
class Trial:
    """What `chassis smoke` may make and delete again: POST and GET `path`, GET and DELETE `path/{id}`."""

    path: str
    """Without the prefix: "/orders"."""
    body: Callable[[str], Mapping[str, Any]]
    """What to post, with a text in it that no other has."""


@dataclass(frozen=True, kw_only=True)
class Module:
    """One folder of business: `main.py` lists these, and nothing else of a module is known outside it."""

    name: str
    router: APIRouter | None = None
    permissions: Mapping[str, Collection[str]] = field(default_factory=lambda: {})
    """Permission to the roles that have it: `{"orders:read": ("owner", "admin", "member", "viewer")}`."""
    listens: Mapping[type, Listener] = field(default_factory=lambda: {})
    """Event type to what this module does about it, in the transaction of whoever emitted it."""
    sample: "Query[Any] | None" = None
    """SQL that fills this module's tables for the current tenant: $1 is how many rows. The test of plans needs it."""
    trial: Trial | None = None
    """What proves in production that this module works, and leaves nothing behind."""
    log_fields: Collection[str] = ()
    """Names of text fields that this module's log lines may show."""
