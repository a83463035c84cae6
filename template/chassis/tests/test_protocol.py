"""Sockets: what a server meets that clients with a library never send it.

Always a problem with a request id or a closed connection, never a hang; and the next request is answered.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

import pytest
from edges import served
from sockets import HELLO, NO_HTTP, SOON, Connection, check, post

from chassis.dev.postgres import Postgres
from chassis.testing import RunningServer, new_database

pytestmark = pytest.mark.anyio

Connect = Callable[..., Awaitable[Connection]]
HASTY = """
from chassis.http import protocol

protocol.HEADER_SECONDS = 0.5
protocol.WRITE_SECONDS = 0.5
protocol.MOST_CONNECTIONS = 40

from edges import app
"""


@pytest.fixture(scope="module")
def server(
    postgres: Postgres, database_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """`chassis serve`, but with little patience. Whatever it met, it lives at the end, and its log says nothing odd."""
    folder = tmp_path_factory.mktemp("hasty")
    (folder / "hasty.py").write_text(HASTY)
    with new_database(postgres, database_template) as database:
        server = RunningServer(
            {
                "APP_ENVIRONMENT": "test",
                "DATABASE_URL": database.app,
                "APP_REQUEST_TIMEOUT_SECONDS": "1.5",
                "APP_MAX_BODY_BYTES": "100000",
                **served(folder, "hasty:app"),
            },
            folder / "log",
        )
        yield server
        assert server.process.poll() is None
        assert server.stop() == 0
        assert {line["level"] for line in server.logs()} <= {"info", "warning", "error"}
        assert {line["event"] for line in server.logs() if line["level"] == "error"} <= {
            "unhandled exception",  # of the handlers that break off
            "ASGI callable returned without completing response.",  # and what uvicorn says to it
        }


@pytest.fixture
async def connect(server: RunningServer) -> AsyncGenerator[Connect]:
    """`await connect(b"…")` opens a connection and sends that. At the end a new one is answered as ever."""
    connections: list[Connection] = []

    async def open_one(*parts: bytes) -> Connection:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.setblocking(False)
        connections.append(Connection(client))
        await connections[-1].send(*parts)
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()
    async with asyncio.timeout(SOON):
        while (await (await open_one(HELLO)).answer())[0] == 503:
            await asyncio.sleep(0.02)
    connections[-1].close()


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_no_http_is_a_problem_and_the_end(connect: Connect, name: str) -> None:
    connection = await connect(NO_HTTP[name])
    answer = await connection.answer()
    check(answer, 400)
    assert answer[1]["connection"] == "close"
    assert await connection.is_closed()


@pytest.mark.parametrize(
    "parts",
    [[b"GET /v1/hello HTT"], [b"GET /v1/hello HTTP/1.1\r\n", b"Host: localhost\r\n"], [HELLO, HELLO[:-1]]],
    ids=["a line", "some headers", "a second request"],
)
async def test_half_a_header_gets_no_more_than_its_time(connect: Connect, parts: list[bytes]) -> None:
    connection = await connect(*parts)
    if parts[0] == HELLO:
        assert (await connection.answer())[0] == 200
    check(await connection.answer(), 408, "header_timeout")
    assert await connection.is_closed()


async def test_a_trickle_is_no_way_to_get_more_time(connect: Connect) -> None:
    connection = await connect(b"GET /v1/hello HTTP/1.1\r\n")
    await connection.trickle(b"a: b\r\n")
    check(await connection.answer(), 408)
    assert await connection.is_closed()


@pytest.mark.parametrize("first", [b"", HELLO], ids=["at first", "after an answer"])
async def test_line_breaks_are_no_way_to_stay(connect: Connect, first: bytes) -> None:
    connection = await connect(first)
    if first:
        assert (await connection.answer())[0] == 200
    await connection.trickle(b"\r\n")
    assert (await connection.rest()).count(b"HTTP/1.1 ") <= 1


async def test_a_connection_that_says_nothing_is_closed_without_a_word(connect: Connect) -> None:
    assert await (await connect()).is_closed()


@pytest.mark.parametrize(
    "lines",
    [
        b"a: " + b"b" * 100_000 + b"\r\n",
        b"a: b\r\n" * 20_000,
        b"".join(b"a%d: b\r\n" % number for number in range(101)),
        b"a: " + b"b" * 17_000 + b"\r\n",
        b"a" * 17_000 + b": b\r\n",
    ],
    ids=["100 KB", "20,000 times", "101 headers", "17 KB", "a name of 17 KB"],
)
async def test_a_header_that_is_too_long_is_431(connect: Connect, lines: bytes) -> None:
    connection = await connect(b"GET /v1/hello HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
    check(await connection.answer(), 431, "headers_too_large")


async def test_a_header_without_end_is_431_and_the_end(connect: Connect) -> None:
    connection = await connect(b"GET /v1/hello HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            await connection.send(b"a: " + b"b" * 1000 + b"\r\n")
    check(await connection.answer(), 431, "headers_too_large")
    assert await connection.is_closed()


async def test_an_address_that_is_too_long_is_414(connect: Connect) -> None:
    connection = await connect(b"GET /v1/hello?" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    check(await connection.answer(), 414, "uri_too_long")


async def test_pipelined_requests_are_answered_in_order(connect: Connect) -> None:
    sleepy = b"GET /v1/sleep?seconds=0.2 HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: 0\r\n\r\n"
    others = [HELLO[:-2] + b"X-Request-ID: %d\r\n\r\n" % number for number in range(1, 9)]
    missing = b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: 9\r\n\r\n"
    connection = await connect(sleepy + b"".join(others) + missing)
    answers = [await connection.answer() for _ in range(10)]
    assert [answer[1]["x-request-id"] for answer in answers] == [str(number) for number in range(10)]
    assert [answer[0] for answer in answers] == [200] * 9 + [404]


@pytest.mark.parametrize(
    "tail", [b"\x00garbage\r\n\r\n", b"GET /v1/hello HTTP/1.1\r\nHo"], ids=["garbage", "half a header"]
)
@pytest.mark.parametrize("seconds", [0, 0.8])
async def test_what_follows_a_request_does_not_spoil_its_answer(connect: Connect, tail: bytes, seconds: float) -> None:
    connection = await connect(b"GET /v1/sleep?seconds=%g HTTP/1.1\r\nHost: localhost\r\n\r\n" % seconds + tail)
    status, _, body = await connection.answer()
    assert (status, body) == (200, b'"awake"')
    rest = await connection.rest()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")


async def test_http_1_0_is_answered_and_closed(connect: Connect) -> None:
    connection = await connect(b"GET /v1/hello HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert (await connection.answer())[0] == 200
    assert await connection.is_closed()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_without_a_host_it_is_400(connect: Connect, version: bytes) -> None:
    check(await (await connect(b"GET /v1/hello HTTP/%b\r\n\r\n" % version)).answer(), 400, "unknown_host")


async def test_an_absolute_address_is_no_way_around_the_host(connect: Connect) -> None:
    connection = await connect(b"GET http://localhost/v1/hello HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    check(await connection.answer(), 400, "unknown_host")


@pytest.mark.parametrize(
    "length", [b"Content-Length: 100001", b"Transfer-Encoding: chunked"], ids=["declared", "chunked"]
)
@pytest.mark.parametrize("path", ["/v1/echo", "/v1/echo-by-fastapi", "/v1/raw"])
async def test_a_body_that_is_too_long_is_413(connect: Connect, length: bytes, path: str) -> None:
    connection = await connect(post(path, length))
    if length.startswith(b"Transfer"):
        for _ in range(11):
            await connection.send(b"2710\r\n" + b" " * 10_000 + b"\r\n")
    check(await connection.answer(), 413, "body_too_large")


async def test_a_body_of_just_the_limit_passes(connect: Connect) -> None:
    chunks = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    connection = await connect(post("/v1/raw", b"Transfer-Encoding: chunked"), chunks * 10, b"0\r\n\r\n")
    assert (await connection.answer())[2] == b"100000"
    await connection.send(post("/v1/raw", b"Content-Length: 100000", body=b" " * 100_000))
    assert (await connection.answer())[2] == b"100000"


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/add?then=return", "/v1/hello"], ids=["404", "401", "405"])
async def test_after_an_early_answer_the_rest_of_the_body_is_skipped(connect: Connect, path: str) -> None:
    body = b"GET /v1/hello HTTP/1.1\r\nHost: localhost\r\n\r\n"  # what a confused server would take for a request
    connection = await connect(post(path, b"Content-Length: %d" % (len(body) + 1)))
    check(await connection.answer(), {"/v1/nothing": 404, "/v1/hello": 405}.get(path, 401))
    await connection.send(body, b"}")
    await connection.send(b"GET /v1/hello/again HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"again" in (await connection.answer())[2]


async def test_after_an_early_answer_the_body_may_not_trickle_for_ever(connect: Connect) -> None:
    connection = await connect(post("/v1/nothing", b"Content-Length: 90000"))
    check(await connection.answer(), 404)
    await connection.trickle(b" ")


async def test_a_body_that_does_not_come_is_408(connect: Connect) -> None:
    requests = [post(path, b"Content-Length: 100", body=b'{"text":') for path in ("/v1/echo", "/v1/raw")]
    for connection in [await connect(request) for request in requests]:
        check(await connection.answer(), 408, "body_timeout")


async def test_a_body_that_ends_early_is_never_taken_for_whole(connect: Connect, server: RunningServer) -> None:
    header = post("/v1/raw", b"Transfer-Encoding: chunked", b"X-Request-ID: cut-off")
    (await connect(header, b"2\r\n{}\r\n")).close()
    assert await status_of(server, "cut-off") == 400


@pytest.mark.parametrize("path", ["/v1/wait-until-gone", "/v1/wait-until-gone-by-fastapi"])
async def test_a_handler_can_look_whether_its_client_is_still_there(
    connect: Connect, server: RunningServer, path: str
) -> None:
    request_id = path.replace("/", "_")
    head = b"GET %b HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: %b\r\n\r\n"
    connection = await connect(head % (path.encode(), request_id.encode()))
    await asyncio.sleep(0.1)
    connection.close()
    assert await status_of(server, request_id) == 200  # and not 504, which the deadline would make of it


async def status_of(server: RunningServer, request_id: str) -> int:
    """The status of a request by the log, for a client that is gone."""
    async with asyncio.timeout(SOON):
        while True:
            for line in server.logs():
                if (line["event"], line.get("request_id")) == ("request", request_id):
                    return line["status"]
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/echo-by-fastapi"])
async def test_who_asks_before_sending_is_told_to_go_on(connect: Connect, path: str) -> None:
    connection = await connect(post(path, b"Content-Length: 12", b"Expect: 100-continue"))
    assert (await connection.answer())[0] == 100
    await connection.send(b'{"text":"a"}')
    assert (await connection.answer())[0] == 200
    await connection.send(HELLO)
    assert (await connection.answer())[0] == 200


@pytest.mark.parametrize(("path", "status"), [("/v1/nothing", 404), ("/v1/echo", 413), ("/v1/add?then=return", 401)])
async def test_who_asks_and_is_refused_cannot_go_on_with_a_request(connect: Connect, path: str, status: int) -> None:
    connection = await connect(post(path, b"Content-Length: 100001", b"Expect: 100-continue"))
    answer = await connection.answer()
    check(answer, status)
    assert answer[1]["connection"] == "close"
    assert await connection.is_closed()


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/stream-by-fastapi"])
async def test_an_answer_that_breaks_off_does_not_look_whole(connect: Connect, path: str) -> None:
    connection = await connect(b"GET %b?until=failure HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    rest = await connection.rest()
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert rest.endswith(b"2\r\n2\n\r\n")  # a whole one ends in a chunk of no size


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/stream-by-fastapi"])
async def test_an_answer_in_parts_ends_with_the_deadline(connect: Connect, path: str) -> None:
    connection = await connect(b"GET %b?until=never HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    assert (await connection.rest()).endswith(b"2\r\n2\n\r\n")


async def test_a_client_that_does_not_read_is_let_go(connect: Connect) -> None:
    connection = await connect(b"GET /v1/megabytes HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(1)
    assert 0 < len(await connection.rest()) < 16_000_000  # what the kernel had room for


async def test_more_connections_than_it_can_hold_are_told_so(connect: Connect) -> None:
    connections = [await connect(HELLO) for _ in range(50)]
    answers = [await connection.answer() for connection in connections]
    refused = [answer for answer in answers if answer[0] == 503]
    assert len(refused) >= 10
    check(refused[0], 503, "too_many_connections")
    assert refused[0][1]["retry-after"] == "1"
    assert sum(answer[0] == 200 for answer in answers) > 30


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_an_upgrade_is_ignored_and_hides_no_second_request(connect: Connect, protocol: bytes) -> None:
    headers = (b"Connection: Upgrade", b"Upgrade: " + protocol, b"Content-Length: %d" % len(HELLO))
    connection = await connect(post("/v1/raw", *headers, body=HELLO) * 2)
    await connection.send(post("/v1/raw", *headers)[:-30], post("/v1/raw", *headers)[-30:])
    await asyncio.sleep(0.1)
    await connection.send(HELLO[:10], HELLO[10:])
    for _ in range(3):
        assert (await connection.answer())[::2] == (200, b"%d" % len(HELLO))
    await connection.send(
        post("/v1/raw", *headers[:2], b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n") + HELLO
    )
    assert (await connection.answer())[2] == b"2"
    assert (await connection.answer())[2] == b'{"hello":"world"}'


async def test_head_is_get_without_its_body(connect: Connect) -> None:
    for path in (b"/v1/hello", b"/v1/hello-by-fastapi/a", b"/v1/stream", b"/livez"):
        connection = await connect(b"HEAD %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        assert (await connection.head())[0] == 200
        await connection.send(HELLO)
        assert (await connection.answer())[2] == b'{"hello":"world"}'
    check(await (await connect(post("/v1/nothing", b"Content-Length: 0"))).answer(), 404)
