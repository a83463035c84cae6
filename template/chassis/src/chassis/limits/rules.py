"""What is limited, how a use of a limit is counted, and how the answer tells of it.

The count is the generic cell rate algorithm. Of each key one number is kept: the time at which its quota is whole
again. A use moves it on by one interval, and is refused when that would put it further away than the window is long.
So a quota can be used up in a burst or spread out, and comes back evenly: nobody waits for a window to end.
"""

from collections.abc import Sequence
from typing import NamedTuple

from chassis.http.problems import Problem
from chassis.http.reply import Header
from chassis.observe.metrics import refused_by_limit

_TOLERANCE = 1e-6
"""Seconds, for what floating point leaves over."""


class Rule:
    """At most `quota` uses in `seconds`, for each key that the rule is applied to. Equal only to itself."""

    __slots__ = ("interval", "item", "name", "policy", "quota", "seconds")

    def __init__(self, name: str, quota: int, seconds: int) -> None:
        self.name = name
        self.quota = quota
        self.seconds = seconds
        self.interval = seconds / quota
        """Seconds until one more use is allowed, once the quota is used up."""
        self.policy = f'"{name}";q={quota};w={seconds}'.encode()
        self.item = f'"{name}";r='.encode()

    def count(self, wait: float) -> "Count":
        """How one more use turns out for a key whose quota is whole again in `wait` seconds."""
        room = self.seconds - wait
        uses = int((room + _TOLERANCE) / self.interval)
        if uses:
            return Count(self, uses - 1, (uses + 1) * self.interval - room, 0.0)
        return Count(self, 0, self.interval - room, self.interval - room)


class Use(NamedTuple):
    """One request that counts against one key of one rule."""

    rule: Rule
    key: str | int


class Count(NamedTuple):
    """How a use turned out."""

    rule: Rule
    remaining: int
    more_in: float
    """Seconds until one more use than those remaining is allowed."""
    free_in: float
    """0 when the use was allowed, else the seconds until it would be."""


def headers_of(counts: Sequence[Count]) -> tuple[Header, Header]:
    """`RateLimit-Policy` and `RateLimit`, two structured fields: draft-ietf-httpapi-ratelimit-headers-10.

    Of the policy, `q` is the quota and `w` its window in seconds. Of the limit, `r` is what remains of the quota and `t`
    the seconds until there is more.
    """
    return (
        (b"ratelimit-policy", b", ".join([count[0].policy for count in counts])),
        (b"ratelimit", b", ".join([b"%b%d;t=%d" % (count[0].item, count[1], up(count[2])) for count in counts])),
    )


def refusal(counts: Sequence[Count]) -> Problem | None:
    """The 429 problem when one of the counts is a refusal."""
    refused = [count for count in counts if count.free_in]
    if not refused:
        return None
    for count in refused:
        refused_by_limit.labels(count.rule.name).inc()
    return Problem(
        429,
        "rate_limited",
        "Too many requests. 'Retry-After' says in how many seconds the next one is welcome.",
        headers=((b"retry-after", b"%d" % up(max(count.free_in for count in refused))),),
    )


def up(seconds: float) -> int:
    """Whole seconds, rounded up: coming back a fraction too early would be refused again."""
    return -int(-seconds // 1)
