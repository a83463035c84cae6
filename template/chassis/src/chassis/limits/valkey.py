"""Counting in Valkey, for all replicas together: one round trip, whatever the number of rules.

When Valkey is away, limits go on in each process by itself: nobody waits longer than `_SECONDS` for it, once; after
that one attempt a second finds out whether it is back, while requests do not wait at all.
"""

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from prometheus_client import Gauge

from chassis.limits.limiter import TOLERANCE, Counted, Rule, Use
from chassis.limits.valkey_connection import Connection
from chassis.observe.logs import get_logger

_log = get_logger("chassis.limits")

_SECONDS = 0.04
_CONNECT_SECONDS = 2.0
_RETRY_SECONDS = 1.0

store_up = Gauge("rate_limit_store_up", "1 while limits are shared through Valkey, 0 while it is away.")

# KEYS are the uses; ARGV[1] is the time, or empty for Valkey's own; then for each use its interval and its window in
# seconds. A negative interval gives a use back. Answers in how many seconds each quota was whole again before.
_SCRIPT = """
local now = tonumber(ARGV[1])
if not now then
    local clock = redis.call('TIME')
    now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
end
local waits, allowed = {}, true
for i, key in ipairs(KEYS) do
    local interval, window = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    waits[i] = math.max(tonumber(redis.call('GET', key) or 0) - now, 0)
    allowed = allowed and waits[i] + interval <= window + 1e-6
end
for i, key in ipairs(KEYS) do
    local wait = waits[i] + tonumber(ARGV[2 * i])
    if allowed and wait > 0 then
        redis.call('SET', key, string.format('%.17g', now + wait), 'PX', math.ceil(wait * 1000))
    elseif allowed then
        redis.call('DEL', key)
    end
    waits[i] = string.format('%.17g', waits[i])
end
return waits
"""

_Change = tuple[Rule, str | int, float]
"""A rule, one of its keys, and by how many seconds it is to be moved on."""


class ValkeyStore:
    """Counts in the Valkey at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._script = b""
        self._recovery: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, or go on trying. Never fails: a service can start without its Valkey."""
        try:
            await self._connect()
        except OSError as error:
            self._lose(error)

    async def take(self, uses: Sequence[Use], now: float | None = None) -> Counted | None:
        """Count the uses. When the rule of one does not allow it, none is counted. None while Valkey is away."""
        waits = await self._change([(rule, key, rule.interval) for rule, key in uses], "" if now is None else now)
        if waits is None:
            return None
        levels = [(rule, wait + rule.interval) for (rule, _), wait in zip(uses, waits, strict=True)]
        free_in = max(wait - rule.seconds for rule, wait in levels)
        if free_in > TOLERANCE:
            return Counted([(rule, wait) for (rule, _), wait in zip(uses, waits, strict=True)], free_in)
        return Counted(levels)

    async def give_back(self, uses: Sequence[Use]) -> None:
        """Undo the count of uses that were allowed."""
        await self._change([(rule, key, -rule.interval) for rule, key in uses])

    async def holds(self, use: Use) -> bool | None:
        """Whether a use of this key was counted, and its quota is not whole again. None while Valkey is away."""
        waits = await self._change([(*use, 0.0)])
        return None if waits is None else waits[0] > 0

    async def close(self) -> None:
        """Stop looking for a lost Valkey, and hang up."""
        if self._recovery is not None:
            self._recovery.cancel()
        if self._connection is not None:
            self._connection.close()

    async def _change(self, changes: list[_Change], now: float | str = "") -> list[float] | None:
        connection = self._connection
        if connection is None:
            return None
        keys = [_name(rule, key) for rule, key, _ in changes]
        numbers = [number for rule, _, interval in changes for number in (interval, rule.seconds)]
        try:
            asked = connection.ask("EVALSHA", self._script, len(keys), *keys, now, *numbers)
            return [float(wait) for wait in await _within(asked)]
        except OSError as error:
            if connection is self._connection:
                self._lose(error)
            return None

    async def _connect(self) -> None:
        async with asyncio.timeout(_CONNECT_SECONDS):
            connection = await Connection.to(self._url)
            self._script = await connection.ask("SCRIPT", "LOAD", _SCRIPT)
        self._connection = connection
        store_up.set(1)

    def _lose(self, error: OSError) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        store_up.set(0)
        _log.warning("shared limits are away: each process counts by itself", error=error)
        self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        while self._connection is None:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self._connect()
            except OSError:
                continue
            _log.info("shared limits are back")


async def _within(answer: "asyncio.Future[Any]") -> Any:
    """The answer, if it is there in time. Unlike asyncio.timeout, this takes one that came while we were busy."""
    try:
        if not (await asyncio.wait([answer], timeout=_SECONDS))[0]:
            raise TimeoutError
        return answer.result()
    finally:
        answer.cancel()


def _name(rule: Rule, key: str | int) -> bytes:
    """Keys hold nothing that a person could be known by: addresses and e-mail addresses are hashed."""
    return b"limit:" + blake2b(f"{rule.name}:{key}".encode(), digest_size=16).digest()
