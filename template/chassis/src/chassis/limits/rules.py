"""What is limited, and how an answer tells of it.

Uses are counted by the generic cell rate algorithm. Of each key one number is kept: the time at which its quota is
whole again. A use moves it on by one interval, and is refused if that would put it further away than the window is
long. So a quota can be used up in a burst or spread out, and comes back evenly: nobody waits for a window to end.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from chassis.http.problems import Problem
from chassis.http.reply import Header
from chassis.observe.metrics import refused_by_limit

TOLERANCE = 1e-6
"""Seconds: what floating point may leave over."""


class Rule:
    """At most `quota` uses in `seconds`, for each key that the rule is applied to. Equal only to itself."""

    __slots__ = ("interval", "name", "policy", "quota", "seconds", "service_limit")

    def __init__(self, name: str, quota: int, seconds: int) -> None:
        self.name = name
        self.quota = quota
        self.seconds = seconds
        self.interval = seconds / quota
        """Seconds until one more use is allowed, once the quota is used up."""
        self.policy = f'"{name}";q={quota};w={seconds}'.encode()
        self.service_limit = f'"{name}";r=%d;t=%d'.encode()


Use = tuple[Rule, str | int]
"""One request, counted against one key of a rule. A plain tuple: some are made for every request."""

Level = tuple[Rule, float]
"""A rule, and the seconds until the quota of the key that was used is whole again."""


class Counted(NamedTuple):
    """How uses turned out together: all of them were counted, or none."""

    levels: list[Level]
    free_in: float = 0.0
    """0 when they were allowed; else the seconds until they would be."""


def headers_of(levels: Sequence[Level]) -> list[Header]:
    """`RateLimit-Policy` and `RateLimit`, two structured fields: draft-ietf-httpapi-ratelimit-headers-10.

    Of the policy, `q` is the quota and `w` its window in seconds. Of the limit, `r` is what remains of the quota and
    `t` the seconds until there is more.
    """
    limits: list[bytes] = []
    for rule, wait in levels:
        room = rule.seconds - wait + TOLERANCE
        remaining = int(room / rule.interval)
        limits.append(rule.service_limit % (remaining, up((remaining + 1) * rule.interval - room)))
    return [_policies(*[rule for rule, _ in levels]), (b"ratelimit", b", ".join(limits))]


@lru_cache(256)
def _policies(*rules: Rule) -> Header:
    return b"ratelimit-policy", b", ".join([rule.policy for rule in rules])


def refusal(counted: Counted) -> Problem:
    """The 429 problem for uses that were not allowed."""
    for rule, wait in counted.levels:
        if wait + rule.interval > rule.seconds + TOLERANCE:
            refused_by_limit.labels(rule.name).inc()
    return Problem(
        429,
        "rate_limited",
        "Too many requests. 'Retry-After' says in how many seconds the next one is welcome.",
        headers=((b"retry-after", b"%d" % up(counted.free_in)),),
    )


def up(seconds: float) -> int:
    """Whole seconds, rounded up: coming back a fraction too early would be refused again."""
    return -int(-seconds // 1)
