"""The record of what people did: a line in the log, and a row in chassis.audit that nobody can change unseen.

Events have the names of the OWASP logging vocabulary. Neither place holds addresses, passwords or tokens.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.paging import Page, Paging
from chassis.observe.context import current
from chassis.observe.logs import get_logger

_log = get_logger("chassis.identity")

_RECORD = query(
    "audit.record",
    int,
    """
    insert into chassis.audit (tenant_id, actor, event, subject, details, request_id)
    values ($1, $2, $3, $4, $5, $6)
    """,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `position` counts from 1 without gaps."""

    position: int
    at: datetime
    actor: UUID | None
    event: str
    subject: str | None
    details: dict[str, Any]
    request_id: str | None

    @property
    def created_at(self) -> datetime:
        return self.at

    @property
    def id(self) -> UUID:
        """The position as what a cursor holds."""
        return UUID(int=self.position)


_LAST_POSITION = 2**63 - 1

_PAGE = query(
    "audit.page",
    Entry,
    """
    select {row} from chassis.audit
    where tenant_id = $1 and position < $2
    order by position desc
    limit $3
    """,
)


async def record(
    db: UnitOfWork,
    event: LiteralString,
    *,
    actor: UUID | None,
    subject: UUID | None = None,
    **details: str | int | bool | None,
) -> None:
    """Record what `actor` did to `subject` in the tenant of `db`: in its transaction, and after it in the log.

    Call it last: until the commit, it makes others of the tenant wait who also have something to record.
    """
    await db.run(_RECORD, db.tenant_id, actor, event, str(subject) if subject else None, details, request_id())
    db.after_commit(lambda: _log.info(event, actor=actor, subject=subject, **details))


def request_id() -> str | None:
    """Of the request that is being answered, if one is."""
    context = current.get()
    return context.request_id if context else None


async def page(db: UnitOfWork, paging: Paging) -> Page[Entry]:
    """What was recorded in the tenant of `db`, newest first."""
    before = min(paging.before()[1].int, _LAST_POSITION)
    return paging.page(await db.all(_PAGE, db.tenant_id, before, paging.fetch))
