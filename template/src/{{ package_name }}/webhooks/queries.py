"""The webhooks' SQL, and what its rows are in Python."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from chassis import query


@dataclass(slots=True)
class WebhookEvent:
    id: UUID
    topic: str
    payload: dict[str, Any]
    created_at: datetime


RECORD = query(
    "webhooks.record",
    str,
    "insert into webhook_events (tenant_id, topic, payload) values ($1, $2, $3)",
)

PAGE = query(
    "webhooks.page",
    WebhookEvent,
    """
    select {row}
    from webhook_events
    where (created_at, id) < ($1, $2)
    order by created_at desc, id desc
    limit $3
    """,
)

SAMPLE = query(
    "webhooks.sample",
    str,
    """
    insert into webhook_events (tenant_id, topic, payload, created_at)
    select current_setting('app.tenant_id')::uuid, 'sample', '{}', now() - n * interval '1 minute'
    from generate_series(1, $1::int) as n
    """,
)
