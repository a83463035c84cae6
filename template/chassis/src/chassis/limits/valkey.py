"""Counting in Valkey, for all replicas together: one round trip a request, whatever the number of rules.

When Valkey is away, limits go on in each process by itself: nobody waits longer than `_SECONDS` for it, once; after that
one attempt a second finds out whether it is back, while requests do not wait at all.
"""

import asyncio
from hashlib import blake2b

from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from chassis.limits.memory import MemoryStore
from chassis.limits.rules import Count, Use
from chassis.observe.logs import get_logger
from chassis.observe.metrics import limit_store_up

_log = get_logger("chassis.limits")

_SECONDS = 0.05
_RETRY_SECONDS = 1.0

# The algorithm of MemoryStore. KEYS are the uses; ARGV, for each, the interval and the window in seconds.
_SCRIPT = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local answers, whole, refused = {}, {}, false
for i, key in ipairs(KEYS) do
    local interval, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local before = math.max(tonumber(redis.call('GET', key) or 0), now)
    whole[i] = before + interval
    local free_in = whole[i] - now - window
    if free_in > 1e-6 then
        refused = true
        answers[i] = {tostring(before - now), tostring(free_in)}
    else
        answers[i] = {tostring(whole[i] - now), '0'}
    end
end
if not refused then
    for i, key in ipairs(KEYS) do
        redis.call('SET', key, string.format('%.6f', whole[i]), 'PX', math.ceil((whole[i] - now) * 1000))
    end
end
return answers
"""


class ValkeyStore:
    """Counts in the Valkey at `url`; in this process while that is away."""

    def __init__(self, url: str) -> None:
        self._client = Valkey.from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry=None)
        self._script = self._client.register_script(_SCRIPT)
        self._alone = MemoryStore()
        self._recovery: asyncio.Task[None] | None = None
        limit_store_up.set(1)

    async def take(self, uses: list[Use]) -> list[Count]:
        """Count each use that its rule allows; when one does not, none is counted."""
        if self._recovery is not None:
            return self._alone.take(uses)
        keys = [_name(use) for use in uses]
        arguments = [number for use in uses for number in (use.rule.interval, use.rule.seconds)]
        try:
            async with asyncio.timeout(_SECONDS):
                answers = await self._script(keys, arguments)
        except (ValkeyError, OSError) as error:  # TimeoutError is an OSError
            self._lose(error)
            return self._alone.take(uses)
        return [_count(use, float(full_in), float(free_in)) for use, (full_in, free_in) in zip(uses, answers, strict=True)]

    async def close(self) -> None:
        """Stop looking for a lost Valkey, and hang up."""
        if self._recovery is not None:
            self._recovery.cancel()
        await self._client.aclose()

    def _lose(self, error: Exception) -> None:
        if self._recovery is None:
            limit_store_up.set(0)
            _log.warning("shared limits are away: each process counts by itself", error=type(error).__name__)
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                async with asyncio.timeout(_RETRY_SECONDS):
                    await self._client.ping()
            except (ValkeyError, OSError):
                continue
            limit_store_up.set(1)
            _log.info("shared limits are back")
            self._recovery = None
            return


def _name(use: Use) -> bytes:
    """Keys hold nothing that a person could be known by: addresses and e-mail addresses are hashed."""
    return b"limit:" + blake2b(f"{use.rule.name}:{use.key}".encode(), digest_size=16).digest()


def _count(use: Use, full_in: float, free_in: float) -> Count:
    remaining = 0 if free_in else max(0, int((use.rule.seconds - full_in) / use.rule.interval + 1e-6))
    return Count(use.rule, remaining, full_in, free_in)
