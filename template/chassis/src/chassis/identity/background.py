"""Work that a request causes and does not wait for, so that its answer takes as long whatever there was to do.

It lives in this process: a crash loses it. So it is for what can be asked for again, such as a mail with a link.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from chassis.http.problems import unavailable
from chassis.observe.logs import get_logger

_AT_ONCE = 4
_MOST_WAITING = 1000

_log = get_logger("chassis.identity")


class Background:
    """A bounded number of tasks, few of them running."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = asyncio.Semaphore(_AT_ONCE)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` soon. Raises a 503 problem when too much waits already."""
        if len(self._tasks) >= _MOST_WAITING:
            work.close()
            raise unavailable("overloaded", "Too much is waiting to be done. Try again shortly.")
        task = asyncio.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout_seconds: float) -> None:
        """Wait for what was started; what is not done in time is cancelled."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout_seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if late:
            _log.error("background work was cut off", count=len(late))

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        async with self._running:
            try:
                await work
            except Exception as error:
                _log.error("background work failed", exc_info=error)
