"""Who is limited by what, and the 429 that says so."""

from typing import Protocol

from chassis.http.problems import Problem
from chassis.limits.memory import MemoryStore
from chassis.limits.rules import Count, Rule, Use, headers_of, up
from chassis.observe.metrics import refused_by_limit


class SharedStore(Protocol):
    """What counts for all replicas together."""

    async def take(self, uses: list[Use]) -> list[Count]: ...

    async def close(self) -> None: ...


class Limiter:
    """Counts requests: in this process first, so that a flood ends here, then for all replicas in one round trip."""

    def __init__(self, shared: SharedStore | None) -> None:
        self._here = MemoryStore()
        self._shared = shared

    async def take(self, uses: list[Use]) -> list[Count]:
        """Count the uses. Raises the 429 problem, having counted none, when one of the rules does not allow it."""
        counts = self._here.take(uses)
        _refuse(counts)
        if self._shared is not None:
            counts = await self._shared.take(uses)
            _refuse(counts)
        return counts

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()


def _refuse(counts: list[Count]) -> None:
    free_in = max((count.free_in for count in counts), default=0.0)
    if free_in == 0.0:
        return
    refusing: Rule = next(count.rule for count in counts if count.free_in)
    refused_by_limit.labels(refusing.name).inc()
    raise Problem(
        429,
        "rate_limited",
        "Too many requests. 'Retry-After' says in how many seconds the next one is welcome.",
        headers=((b"retry-after", str(up(free_in)).encode()), *headers_of(counts)),
    )
