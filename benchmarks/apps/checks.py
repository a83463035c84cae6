"""Run by the rendered service's Python: print what single checks cost, as JSON, in µs of processor time.

Each figure is of one call, of which a round makes many; a list has one figure a round. The environment is that of a
service that has run on the database, and whose limits are wide.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from time import process_time
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from chassis.data.pool import Database
from chassis.identity.identity import Identity
from chassis.limits.limiter import Limiter
from chassis.limits.limiter import headers_of
from chassis.settings import Settings, load

CALLS = 20_000
FIRST_CALLS = 1_000


async def main(rounds: int) -> None:
    settings = load(Settings)
    database = Database(settings, {})
    await database.open()
    figures: dict[str, list[float]] = {"an access token, first seen": [], "an access token, cached": []}
    figures["the three limits of a request, and their headers"] = []
    for _ in range(rounds):
        identity = Identity(settings, database, {"owner": frozenset({"orders:read"})})
        await identity.start()
        first, cached, limited = figures.values()
        first.append(await first_seen(identity))
        cached.append(await already_seen(identity))
        limited.append(await three_limits(Limiter(settings)))
        await identity.stop()
    await database.close(1)
    print(json.dumps(figures))


def exchange(identity: Identity) -> Any:
    """As much of a request as is looked at: its headers, with a token that nobody has shown before."""
    token = identity.access_tokens.issue(subject=uuid4(), tenant_id=uuid4(), role="owner", session_id=uuid4())
    return SimpleNamespace(headers={b"authorization": b"Bearer " + token.encode()})


async def first_seen(identity: Identity) -> float:
    new = iter([exchange(identity) for _ in range(FIRST_CALLS)])

    async def check() -> None:
        assert await identity.authenticate(next(new)) is not None

    return await cost(check, FIRST_CALLS)


async def already_seen(identity: Identity) -> float:
    asks = exchange(identity)

    async def check() -> None:
        assert await identity.authenticate(asks) is not None

    return await cost(check, CALLS)


async def three_limits(limiter: Limiter) -> float:
    account, tenant = uuid4().int, uuid4().int

    async def check() -> None:
        address = limiter.addresses.key("192.0.2.1", ())
        levels = limiter.here.take(((limiter.per_address, address),)).levels
        levels += limiter.here.take(((limiter.per_account, account), (limiter.per_tenant, tenant))).levels
        assert len(headers_of(levels)) == 2

    return await cost(check, CALLS)


async def cost(check: Callable[[], Awaitable[None]], calls: int) -> float:
    started = process_time()
    for _ in range(calls):
        await check()
    return (process_time() - started) / calls * 1e6


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
