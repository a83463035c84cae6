"""Counting in Valkey, for all replicas together: one round trip, whatever the number of rules.

When Valkey is away, limits go on in each process by itself: nobody waits longer than `_SECONDS` for it, once; after that
one attempt a second finds out whether it is back, while requests do not wait at all.
"""

import asyncio
from collections.abc import Sequence
from hashlib import blake2b

from prometheus_client import Gauge
from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from chassis.limits.memory import uncounted
from chassis.limits.rules import Count, Use
from chassis.observe.logs import get_logger

_log = get_logger("chassis.limits")

_SECONDS = 0.04
_RETRY_SECONDS = 1.0

store_up = Gauge("rate_limit_store_up", "1 while limits are shared through Valkey, 0 while it is away.")

# KEYS are the uses; ARGV[1] is the time, or empty for Valkey's own; then for each use its interval and window in seconds.
# A negative interval gives a use back. Answers in how many seconds each quota was whole again, before these uses.
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


class ValkeyStore:
    """Counts in the Valkey at `url`."""

    def __init__(self, url: str) -> None:
        self._client = Valkey.from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
        self._script = self._client.register_script(_SCRIPT)
        self._recovery: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, or go on trying. Never fails: a service can start without its Valkey."""
        try:
            await self._run([], "")
        except (ValkeyError, OSError) as error:
            self._lose(error)
        else:
            store_up.set(1)

    async def take(self, uses: Sequence[Use], now: float | None = None) -> list[Count] | None:
        """Count the uses. When the rule of one does not allow it, none is counted. None while Valkey is away."""
        waits = await self._ask([(use, use.rule.interval) for use in uses], now)
        if waits is None:
            return None
        counts = [use.rule.count(wait) for use, wait in zip(uses, waits, strict=True)]
        return uncounted(counts) if any(count.free_in for count in counts) else counts

    async def give_back(self, uses: Sequence[Use]) -> None:
        """Undo the count of uses that were allowed."""
        await self._ask([(use, -use.rule.interval) for use in uses])

    async def holds(self, use: Use) -> bool | None:
        """Whether a use of this key was counted, and its quota is not whole again. None while Valkey is away."""
        waits = await self._ask([(use, 0.0)])
        return None if waits is None else waits[0] > 0

    async def close(self) -> None:
        """Stop looking for a lost Valkey, and hang up."""
        if self._recovery is not None:
            self._recovery.cancel()
        await self._client.aclose()

    async def _ask(self, uses: list[tuple[Use, float]], now: float | None = None) -> list[float] | None:
        if self._recovery is not None:
            return None
        try:
            return await self._run(uses, "" if now is None else repr(now))
        except (ValkeyError, OSError) as error:  # TimeoutError is an OSError
            self._lose(error)
            return None

    async def _run(self, uses: list[tuple[Use, float]], now: str) -> list[float]:
        numbers = [number for use, interval in uses for number in (interval, use.rule.seconds)]
        async with asyncio.timeout(_SECONDS):
            answer = await self._script([_name(use) for use, _ in uses], [now, *numbers])
        return [float(wait) for wait in answer]

    def _lose(self, error: Exception) -> None:
        if self._recovery is None:
            store_up.set(0)
            _log.warning("shared limits are away: each process counts by itself", error=error)
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self._run([], "")
            except (ValkeyError, OSError):
                continue
            store_up.set(1)
            _log.info("shared limits are back")
            self._recovery = None
            return


def _name(use: Use) -> bytes:
    """Keys hold nothing that a person could be known by: addresses and e-mail addresses are hashed."""
    return b"limit:" + blake2b(f"{use.rule.name}:{use.key}".encode(), digest_size=16).digest()
