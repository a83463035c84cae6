"""Everything that identity is made of in one process, put together once, and what the edge asks of it: who is this?"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Request
from fastapi.params import Depends

from chassis.data.pool import Database
from chassis.http.reply import unavailable
from chassis.identity.api_keys import ApiKeys
from chassis.identity.mail import Letters, Mail, Post, post
from chassis.identity.one_time import OpaqueTokens
from chassis.identity.passwords import Passwords
from chassis.identity.principal import Principal, may
from chassis.identity.tokens import AccessTokens, KeyRing, access_tokens
from chassis.identity.watch import Watch
from chassis.observe.logs import get_logger

if TYPE_CHECKING:
    from chassis.http.exchange import Exchange
    from chassis.settings import Settings

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
        if not self.offer(work):
            raise unavailable("overloaded", "Too much is waiting to be done. Try again shortly.")

    def offer(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` soon, or never: whether it will be."""
        if len(self._tasks) >= _MOST_WAITING:
            work.close()
            return False
        task = asyncio.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

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


_SCHEME = b"bearer "


class Authenticate:
    """`Authorization: Bearer …` with an access token or an API key (RFC 6750); nothing else counts."""

    def __init__(self, tokens: AccessTokens, keys: ApiKeys, watch: Watch) -> None:
        self._tokens = tokens
        self._keys = keys
        self._watch = watch

    async def __call__(self, exchange: "Exchange", /) -> Principal | None:
        header = exchange.headers.get(b"authorization")
        if header is None or header[:7].lower() != _SCHEME:
            return None
        token = header[7:]
        if token[:3] == b"sk_":
            principal = await self._keys.principal(token, exchange.limit)
        else:
            principal = self._tokens.principal(token)
        if principal is None:
            self._watch.check_fresh()  # or this replica may only not know the key yet
            return None
        if self._watch.revoked(principal.session_id):
            _log.warning("authn_token_reuse", session=principal.session_id)
            return None
        return principal


_FINISH_SECONDS = 5.0


class Identity:
    """What the handlers and services of this package work with."""

    def __init__(self, settings: "Settings", database: Database, permissions: Mapping[str, frozenset[str]]) -> None:
        secret, origin = settings.secret_key.get_secret_value(), settings.public_url
        self.database = database
        self.permissions = permissions
        """Of each role."""
        self.verified_only = settings.deployed
        """Whether signing in needs a verified address: not in development, where no mail arrives."""
        self.keys = KeyRing(secret)
        self.watch = Watch(database, self.keys)
        self.access_tokens = access_tokens(self.keys, origin, permissions)
        self.refresh_tokens = OpaqueTokens(secret, b"refresh")
        self.one_time_tokens = OpaqueTokens(secret, b"one time")
        self.passwords = Passwords()
        self.letters = Letters(origin)
        self.post: Post = post(settings)
        self.background = Background()
        self._mails = Background()  # apart from what needs the database: a mail server may take its time
        self.api_keys = ApiKeys(database, self.background)
        self.authenticate = Authenticate(self.access_tokens, self.api_keys, self.watch)

    async def start(self) -> None:
        """Learn keys and revocations. The database need not be there yet."""
        await self.watch.start()

    def send(self, mail: Mail) -> None:
        """Have a mail go out soon. One too many is logged and lost: what it is about has happened already."""
        if not self._mails.offer(self.post.send(mail)):
            _log.error("mail was not sent: too many wait")

    async def finish(self) -> None:
        """Wait for what was started, and for the mails that it sends."""
        await self.background.finish(_FINISH_SECONDS)
        await self._mails.finish(_FINISH_SECONDS)

    async def stop(self) -> None:
        """Let mails that wait go out."""
        await self.finish()
        await self.watch.stop()
        self.passwords.close()


async def _identity(request: Request) -> Identity:
    return request.app.identity


Desk = Annotated[Identity, Depends(_identity)]
"""In a handler's signature: all of this."""

Me = Annotated[Principal, may("account:manage")]
"""In a handler's signature: a person, whatever the role in the tenant, and not an API key."""
