"""What is limited, and how the answer says so."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from chassis.http.reply import Header


@dataclass(frozen=True, eq=False)
class Rule:
    """At most `quota` requests in `seconds`, in a burst or spread out, for each key that the rule is applied to."""

    name: str
    quota: int
    seconds: int

    @cached_property
    def interval(self) -> float:
        """Seconds until one more request is allowed, once the quota is used up."""
        return self.seconds / self.quota

    @cached_property
    def policy(self) -> str:
        return f'"{self.name}";q={self.quota};w={self.seconds}'


ADDRESS = Rule("address", 600, 60)
ACCOUNT = Rule("account", 600, 60)
TENANT = Rule("tenant", 3000, 60)
SIGN_IN_ADDRESS = Rule("sign-in-address", 20, 60)
SIGN_IN_TARGET = Rule("sign-in-target", 10, 60)


class Use(NamedTuple):
    """One request counted against one key of one rule."""

    rule: Rule
    key: str


class Count(NamedTuple):
    """How a use turned out. `free_in` is 0 when it was allowed, else the seconds until it would be."""

    rule: Rule
    remaining: int
    full_in: float
    free_in: float


def headers_of(counts: list[Count]) -> tuple[Header, ...]:
    """`RateLimit-Policy` and `RateLimit` as structured fields: draft-ietf-httpapi-ratelimit-headers-10.

    `q` is the quota, `w` its window in seconds, `r` what is left of it, `t` the seconds until it is whole again.
    """
    policy = ", ".join([count.rule.policy for count in counts])
    limit = ", ".join([f'"{count.rule.name}";r={count.remaining};t={up(count.full_in)}' for count in counts])
    return (b"ratelimit-policy", policy.encode()), (b"ratelimit", limit.encode())


def up(seconds: float) -> int:
    """Whole seconds, rounded up: coming back a fraction too early would be refused again."""
    return -int(-seconds // 1)
