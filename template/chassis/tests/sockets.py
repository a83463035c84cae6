"""A client that sends what it likes, and what no client of a library would send."""

import asyncio
import contextlib
import json
import socket

HELLO = b"GET /v1/hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOON = 5.0
"""Seconds within which everything here ends."""


class Connection:
    """A client that sends what it likes. On a bare socket: a stream forgets what it received once it cannot send."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._received = b""

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            async with asyncio.timeout(SOON):
                await asyncio.get_running_loop().sock_sendall(self._client, part)

    async def trickle(self, part: bytes) -> None:
        """Send the part twenty times a second until the server has had enough, which it soon must have."""
        with contextlib.suppress(ConnectionError):
            for _ in range(60):
                await self.send(part)
                await asyncio.sleep(0.05)
            raise AssertionError("the connection is still open after three seconds")

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") != "chunked":
            return status, headers, await self._exactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(await self._until(b"\r\n"), 16):
            body += (await self._exactly(size + 2))[:-2]
        await self._until(b"\r\n")
        return status, headers, body

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        begin, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        return int(begin.split(" ")[1]), {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}

    async def rest(self) -> bytes:
        """All that comes until the connection is closed, as it soon must be."""
        with contextlib.suppress(ConnectionError):
            while await self._receive():
                pass
        rest, self._received = self._received, b""
        return rest

    async def is_closed(self) -> bool:
        return await self.rest() == b""

    def close(self) -> None:
        self._client.close()

    async def _receive(self) -> bool:
        async with asyncio.timeout(SOON):
            data = await asyncio.get_running_loop().sock_recv(self._client, 1_000_000)
        self._received += data
        return bool(data)

    async def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            assert await self._receive(), f"the connection ended after {self._received!r}"
        return await self._exactly(self._received.index(end) + len(end))

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            assert await self._receive(), f"the connection ended after {self._received!r}"
        taken, self._received = self._received[:size], self._received[size:]
        return taken


def post(path: str, *headers: bytes, body: bytes = b"") -> bytes:
    lines = (b"Host: localhost", b"Content-Type: application/json", *headers)
    return b"POST %b HTTP/1.1\r\n%b\r\n\r\n%b" % (path.encode(), b"\r\n".join(lines), body)


def check(answer: tuple[int, dict[str, str], bytes], status: int, code: str = "") -> None:
    """Assert that an answer is that problem."""
    assert answer[0] == status, answer
    assert answer[1]["content-type"] == "application/problem+json"
    assert answer[1]["x-content-type-options"] == "nosniff"
    problem = json.loads(answer[2])
    assert problem["request_id"] == answer[1]["x-request-id"]
    assert problem["code"] == code or not code


NO_HTTP = {
    "garbage": b"\x00\x01\x02\xff\xfe\r\n\r\n",
    "a word": b"HELLO\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v1/hello\r\n\r\n",
    "HTTP/9.9": b"GET /v1/hello HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "no method": b" /v1/hello HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method of its own": b"BREW /v1/hello HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a small method": b"get /v1/hello HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy's method": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "NUL in the path": b"GET /v1/\x00hello HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes in the path": b"GET /v1/h\xe9llo HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header without a colon": b"GET /v1/hello HTTP/1.1\r\nHost localhost\r\n\r\n",
    "a blank before the colon": b"GET /v1/hello HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "a header without a name": b"GET /v1/hello HTTP/1.1\r\n: localhost\r\n\r\n",
    "NUL in a header": b"GET /v1/hello HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
    "a line end in a header": b"GET /v1/hello HTTP/1.1\r\nHost: local\rhost\r\n\r\n",
    "a length that is no number": post("/v1/echo", b"Content-Length: ten"),
    "a negative length": post("/v1/echo", b"Content-Length: -1"),
    "a signed length": post("/v1/echo", b"Content-Length: +2", body=b"{}"),
    "a length with a fraction": post("/v1/echo", b"Content-Length: 2.0", body=b"{}"),
    "two lengths": post("/v1/echo", b"Content-Length: 2", b"Content-Length: 3", body=b"{}"),
    "two lengths in one": post("/v1/echo", b"Content-Length: 2, 2", body=b"{}"),
    "an enormous length": post("/v1/echo", b"Content-Length: 1" + b"0" * 30),
    "a length and chunks": post("/v1/echo", b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks and a length": post("/v1/echo", b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "another encoding": post("/v1/echo", b"Transfer-Encoding: gzip", body=b"{}"),
    "almost chunked": post("/v1/echo", b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked, and then not": post("/v1/echo", b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "an encoding in disguise": post("/v1/echo", b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n"),
    "a chunk of no size": post("/v1/echo", b"Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk of enormous size": post("/v1/echo", b"Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\n{}\r\n"),
    "a chunk longer than it says": post("/v1/echo", b"Transfer-Encoding: chunked", body=b"1\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is cut": post("/v1/echo", b"Transfer-Encoding: chunked", body=b"2\r\n{}x\r\n0\r\n\r\n"),
}
