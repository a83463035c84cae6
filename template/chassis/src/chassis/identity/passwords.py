"""Passwords: hashed with argon2id in threads, few at a time.

A hash takes 19 MiB and some twenty milliseconds on purpose. So it runs beside the event loop, on `_AT_ONCE` threads;
when more than `_MOST_WAITING` wait, the next is told to come back, before it costs anything.
"""

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import urandom
from typing import TypeVar

from chassis.http.problems import unavailable

SHORTEST = 15
"""Characters. NIST SP 800-63B-4 asks for 15 where the password is the only proof."""
LONGEST = 1000

_AT_ONCE = 2
_MOST_WAITING = 64
_SALT_BYTES = 16
_HASH_BYTES = 32
_VERSION = 19

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash costs: the least that OWASP asks for."""

    memory_kib: int = 19 * 1024
    passes: int = 2
    lanes: int = 1

    @property
    def prefix(self) -> str:
        """How every hash of this cost begins."""
        return f"$argon2id$v={_VERSION}$m={self.memory_kib},t={self.passes},p={self.lanes}$"


class Passwords:
    """Hashes and verifies."""

    def __init__(self, cost: Cost | None = None) -> None:
        self._cost = cost or Cost()
        # Of nobody's password: verifying against it costs the same and never succeeds.
        self._nobodys = f"{self._cost.prefix}{'A' * 22}${'A' * 43}"
        self._threads = ThreadPoolExecutor(_AT_ONCE, "argon2")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """A new hash with its salt and cost in it. Raises a 503 problem when too many wait."""
        return await self._run(lambda: _hash(password, self._cost))

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether the hash is this password's. None is the hash of somebody unknown: the same work, and False."""
        return await self._run(lambda: _matches(password, hashed or self._nobodys))

    def outdated(self, hashed: str) -> bool:
        """Whether the hash was made at another cost than today's."""
        return not hashed.startswith(self._cost.prefix)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= _MOST_WAITING:
            raise unavailable("overloaded", "Too many sign-ins at the same time. Try again shortly.")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._done)
        return await future

    def _done(self, _: object) -> None:
        self._waiting -= 1


def _hash(password: str, cost: Cost) -> str:
    from argon2.low_level import Type, hash_secret  # imported by the first who needs it, not by every start

    hashed = hash_secret(
        _bytes(password), urandom(_SALT_BYTES), cost.passes, cost.memory_kib, cost.lanes, _HASH_BYTES, Type.ID, _VERSION
    )
    return hashed.decode()


def _matches(password: str, hashed: str) -> bool:
    from argon2.exceptions import VerifyMismatchError
    from argon2.low_level import Type, verify_secret

    try:
        return verify_secret(hashed.encode(), _bytes(password), Type.ID)
    except VerifyMismatchError:
        return False


def _bytes(password: str) -> bytes:
    """NFKC, so that it does not matter which keyboard composed an accent."""
    return unicodedata.normalize("NFKC", password).encode()
