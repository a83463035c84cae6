"""The webhooks API: so far, what there is to deliver."""

from typing import Annotated

from fastapi import APIRouter

from chassis import Page, PageRequest, Principal, Transaction, may

from .queries import PAGE, WebhookEvent

router = APIRouter()


@router.get("/webhooks/events")
async def list_events(
    who: Annotated[Principal, may("webhooks:read")], db: Transaction, page: PageRequest
) -> Page[WebhookEvent]:
    """Events that subscribers will be told of, newest first."""
    return page.page(await db.all(PAGE, *page.before(), page.fetch))
