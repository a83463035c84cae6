"""Stricter limits where secrets are guessed: by the address that guesses, and by the account that is aimed at.

    @router.post("/auth/signin", dependencies=[public, strictly_limited])
    async def sign_in(body: SignIn, here: Here) -> Tokens:
        attempt = await aim_at(here, canonical(body.email), SIGN_IN)
        …  # queries and the password hash
        await attempt.succeeded()

Both raise the 429 problem. How this keeps an attacker from locking anybody out: see `aim_at`.
"""

from typing import Annotated, NamedTuple

from fastapi import Request
from fastapi.params import Depends

from chassis.http.exchange import Exchange
from chassis.limits.limiter import Rule, Use, refusal

_DAY = 86_400


class Target(NamedTuple):
    """How often one account may be aimed at, without success, for one purpose."""

    from_place: Rule
    """From one address or IPv6 network."""
    overall: Rule
    """From all places together where that account has not signed in lately."""


SIGN_IN = Target(Rule("sign-in-place", 10, 600), Rule("sign-in-target", 100, 3600))
MAIL = Target(Rule("mail-place", 3, 600), Rule("mail-target", 10, 3600))
"""For what sends mail to the account: verification, password reset."""

_KNOWN_PLACE = Rule("known-place", 1, 30 * _DAY)


class Attempt:
    """One attempt at an account, which counts as a failure until it has `succeeded`."""

    def __init__(self, exchange: Exchange, place: Use, uses: list[Use]) -> None:
        self._limiter = exchange.edge.limiter
        self._place = place
        self._uses = uses

    async def succeeded(self) -> None:
        """Take the attempt out of the count, and remember that this place is one of the account's own."""
        undone = [*self._uses, self._place]  # so that the place is known for 30 days from now
        self._limiter.here.give_back(undone)
        self._limiter.here.take([self._place])
        if self._limiter.shared is not None:
            await self._limiter.shared.give_back(undone)
            await self._limiter.shared.take([self._place])


async def aim_at(exchange: Exchange, account: str, target: Target) -> Attempt:
    """Count an attempt at `account`, whether it exists or not. Raises the 429 problem when there were too many.

    `account` is the canonical form of an e-mail address. Call it before any query and any hash. From one place few
    attempts are allowed; from all places together more, for those who have many addresses. The second limit is not
    asked at a place where the account has signed in within 30 days, so that using it up keeps no owner out there.
    """
    limiter = exchange.edge.limiter
    at_place = f"{account} {exchange.address}"
    place = (_KNOWN_PLACE, at_place)
    known = limiter.here.holds(place)
    if not known and limiter.shared is not None:
        known = await limiter.shared.holds(place)
    uses: list[Use] = [(target.from_place, at_place)]
    if not known:
        uses.append((target.overall, account))
    # Not among the counts that the answer tells: they are about somebody who may not be the one who asks.
    counted = limiter.here.take(uses)
    if not counted.free_in and limiter.shared is not None:
        counted = await limiter.shared.take(uses) or counted
    if counted.free_in:
        raise refusal(counted)
    return Attempt(exchange, place, uses)


async def _exchange(request: Request) -> Exchange:
    return request.scope["chassis.exchange"]


Here = Annotated[Exchange, Depends(_exchange)]
"""In a handler's signature: what `aim_at` asks for, since it knows from where the request comes."""


async def _strictly(exchange: Here) -> None:
    await exchange.limit((exchange.edge.limiter.strict, exchange.address))


strictly_limited = Depends(_strictly)
"""Let an address ask a route only a thirtieth as often as others: `dependencies=[public, strictly_limited]`."""
