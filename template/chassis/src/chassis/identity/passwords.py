"""Passwords: hashed with argon2id in threads, few at a time, and refused when they are easy to guess.

A hash takes 19 MiB and some twenty milliseconds on purpose. So it runs beside the event loop, on `_AT_ONCE` threads;
when more than `_MOST_WAITING` wait, the next is told to come back, before it costs anything.

What an attacker tries first is found offline. With fifteen characters at least, few of the famous passwords are left;
what people do instead is to stretch them: `password123456789`, `qwertyqwertyqwerty`, their own address twice. So what
counts is in how few pieces a password can be written down, a piece being one character, one famous word, one run along
the alphabet or the keyboard, or a repetition of what was there before; a word that is only common counts for two. A
passphrase of other words has as many pieces as letters.
"""

import asyncio
import unicodedata
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from os import urandom
from typing import TypeVar

from chassis.http.reply import Problem, unavailable

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


_FEWEST_PIECES = 10
"""One more than a word of eight letters and its repetition."""
_SHORTEST_PIECE = 3
_LOOKED_AT = 96
"""Characters. Whoever goes on for longer has made enough of them, or repeats: the first few pieces then tell."""

_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azerty",
         "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p", "1q2w3e4r5t6y7u8i9o0p", "q1w2e3r4t5y6u7i8o9p0")  # fmt: skip
_RUNS = tuple(row * 2 for row in _ROWS) + tuple(row[::-1] * 2 for row in _ROWS)
_DISGUISES = str.maketrans("@431!05$7", "aaeiiosst")


def refuse_guessable(password: str, *about: str) -> None:
    """Raise a 422 problem for a password that is easy to guess. `about` is what an attacker knows: the address."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Problem(422, "password_length", f"A password has {SHORTEST} to {LONGEST} characters.")
    if pieces(password, *about) < _FEWEST_PIECES:
        raise Problem(
            422,
            "password_guessable",
            "This password is easy to guess: it is made of common words, repetitions, runs or your address. "
            "Take a few words that nobody would expect together.",
        )


def pieces(password: str, *about: str) -> int:
    """In how few pieces the beginning of the password can be written down."""
    text = unicodedata.normalize("NFKC", password).casefold()[:_LOOKED_AT]
    words = _common() | {part: 1 for name in about for part in _parts(name)}
    plain = text.translate(_DISGUISES)
    longest = max(map(len, words))
    fewest = [0]
    for end in range(1, len(text) + 1):
        best = fewest[end - 1] + 1
        for start in range(max(0, end - max(longest, end // 2)), end - _SHORTEST_PIECE + 1):
            if fewest[start] + 1 < best:
                best = min(best, fewest[start] + _count(text, plain, start, end, words))
        fewest.append(best)
    return fewest[-1]


def _count(text: str, plain: str, start: int, end: int, words: Mapping[str, int]) -> int:
    """For how many pieces a part of the text counts."""
    part = text[start:end]
    # What has been there before may overlap: aaaa is a and its repetition.
    if part in text[: end - 1] or any(part in run for run in _RUNS):
        return 1
    unknown = len(part)
    return min(words.get(part, unknown), words.get(plain[start:end], unknown))


def _parts(name: str) -> list[str]:
    name = name.casefold()
    found = [name, *name.replace("@", ".").replace("+", ".").replace("-", ".").replace("_", ".").split(".")]
    return [part for part in found if len(part) >= _SHORTEST_PIECE]


@cache
def _common() -> dict[str, int]:
    """For how many pieces a known word counts: one, if it is famous or a year of living memory; two, if common.

    The famous are what people stretch, and every long password of the public lists; the common, the next 3,000 of them.
    """
    famous, common = (files("chassis.identity") / "common_passwords.txt").read_text("utf-8").split("\n\n")
    years = [str(year) for year in range(1930, 2040)]
    return dict.fromkeys(common.split(), 2) | dict.fromkeys([*famous.split(), *years], 1)
