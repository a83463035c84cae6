"""One connection to a Valkey, over which requests follow each other without waiting for answers.

Answers come in the order of the requests. So one connection serves a whole process, and one that is slow is noticed by
all who wait for it. The parser is Valkey's own, libvalkey.
"""

import asyncio
import ssl
from collections import deque
from typing import Any
from urllib.parse import unquote, urlsplit

import libvalkey

_PORT = 6379


class Connection(asyncio.Protocol):
    """Everything that goes wrong is an OSError."""

    def __init__(self) -> None:
        self._reader = libvalkey.Reader(protocolError=ConnectionError, replyError=ConnectionError)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: Any = None  # set before anything else happens

    @classmethod
    async def to(cls, url: str) -> "Connection":
        """Connect, say who we are, choose the database. With TLS, the certificate is verified."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        if parts.scheme == "unix":
            connection = (await loop.create_unix_connection(cls, parts.path))[1]
        else:
            tls = ssl.create_default_context() if parts.scheme.endswith("s") else None
            connection = (await loop.create_connection(cls, parts.hostname or "", parts.port or _PORT, ssl=tls))[1]
        try:
            if parts.password:
                user = [unquote(parts.username)] if parts.username else []
                await connection.ask("AUTH", *user, unquote(parts.password))
            if parts.scheme != "unix":
                await connection.ask("SELECT", parts.path[1:] or "0")
        except BaseException:
            connection.close()
            raise
        return connection

    def ask(self, *words: str | bytes | float) -> asyncio.Future[Any]:
        """Send a command. The result is its answer, once that is there."""
        if self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._transport.write(libvalkey.pack_command(words))
        return answer

    def close(self) -> None:
        """Hang up at once: whoever waits for an answer gets a ConnectionError."""
        self._transport.abort()
        self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while self._waiting and (reply := self._reader.gets()) is not False:
                self._answer(reply)
        except ConnectionError:  # what came is not Valkey's protocol
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        while self._waiting:
            self._answer(ConnectionError("the connection was lost"))

    def _answer(self, reply: Any) -> None:
        answer = self._waiting.popleft()
        if answer.done():
            return  # nobody waits for it any more
        if isinstance(reply, ConnectionError):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)
