"""`/livez`, `/readyz` and `/version`: what an orchestrator and a load balancer ask."""

import asyncio
import math
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from fastapi import APIRouter, Request

from chassis.data import heads
from chassis.data.pool import Database
from chassis.data.queries import query
from chassis.http.reply import Problem, unavailable
from chassis.identity.principal import public
from chassis.observe.logs import get_logger

_log = get_logger("chassis.health")
_READY_SECONDS = 1.5
FRESH_SECONDS = 1.0
"""How long an answer about the database holds: `/readyz` is open to all, and must not be a way to wear it out."""
_Reason = tuple[str, str]

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
        self._check: asyncio.Task[_Reason | None] | None = None
        self._checked = -math.inf
        self.draining = False

    async def problem(self) -> Problem | None:
        """Why not, within 1.5 seconds; None when ready.

        Asked anew, so it recovers by itself; but once a second at the most, and by one request for all that wait.
        """
        if self.draining:
            return unavailable("draining", "This replica is shutting down.")
        if self._check is None or (self._check.done() and monotonic() - self._checked >= FRESH_SECONDS):
            self._check = asyncio.create_task(self._reason())
        reason = await asyncio.shield(self._check)
        return unavailable(*reason) if reason else None

    async def _reason(self) -> _Reason | None:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                versions = await self._versions()
        except Exception as error:  # whatever it is, it is a reason to stay away
            _log.warning("not ready", error=error)
            return "database_unavailable", "The database does not answer."
        finally:
            self._checked = monotonic()
        if heads.state(versions) == "behind":
            return "migrations_pending", "The database is behind this release: run 'chassis migrate'."
        return None

    async def _versions(self) -> list[str]:
        """Read on a connection of its own: a pool that is busy must not take the replica out of service."""
        connection = await self._database.connect()
        try:
            versions = _VERSIONS.read(await connection.fetch(_VERSIONS.sql))
            await connection.close()
        finally:
            connection.terminate()  # unless that has been closed
        return versions


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
