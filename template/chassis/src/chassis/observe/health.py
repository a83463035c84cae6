"""`/livez`, `/readyz` and `/version`: what an orchestrator and a load balancer ask."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request

from chassis.data import heads
from chassis.data.pool import Database
from chassis.data.queries import query
from chassis.http.problems import Problem, unavailable
from chassis.identity.principal import public
from chassis.observe.logs import get_logger

_log = get_logger("chassis.health")
_READY_SECONDS = 1.5

PROBES = frozenset({"/livez", "/readyz"})
"""Asked every few seconds, by address, for ever: in whatever host name, and not worth a line in the log."""

router = APIRouter(dependencies=[public], include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Status:
    status: Literal["ok"] = "ok"


@dataclass(frozen=True, slots=True)
class Version:
    service: str
    version: str
    revision: str


_VERSIONS = query(
    "health.versions", str, "select version_num from chassis.alembic_version", scan_allowed="it has one row a branch"
)


class Readiness:
    """Whether traffic should come here: not while draining, without a database, or before its migrations."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.draining = False

    async def problem(self) -> Problem | None:
        """Why not, within 1.5 seconds; None when ready. Asked anew each time, so it recovers by itself."""
        if self.draining:
            return unavailable("draining", "This replica is shutting down.")
        try:
            async with asyncio.timeout(_READY_SECONDS), self._database.unit_of_work(None) as db:
                versions = await db.all(_VERSIONS)
        except Exception as error:  # whatever it is, it is a reason to stay away
            _log.warning("not ready", error=error)
            return unavailable("database_unavailable", "The database does not answer.")
        if heads.state(versions) == "behind":
            return unavailable("migrations_pending", "The database is behind this release: run 'chassis migrate'.")
        return None


@router.get("/livez")
async def livez() -> Status:
    """The process runs and answers. It asks nobody else, so that a database outage restarts nothing."""
    return Status()


@router.get("/readyz")
async def readyz(request: Request) -> Status:
    """Traffic is welcome."""
    if problem := await request.app.readiness.problem():
        raise problem
    return Status()


@router.get("/version")
async def version(request: Request) -> Version:
    """What runs here."""
    return request.app.version_info
