"""The gateway as it runs in production, in front of two replicas, and of one that remembers what reached it."""

import json
import re
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from edges import served
from gateway import OK, Answer, Gateway, Recorder, answer, get, running
from sockets import NO_HTTP, post

from chassis.dev.postgres import Postgres
from chassis.dev.processes import free_port
from chassis.testing import RunningServer, new_database

Start = Callable[..., Gateway]
PER_ADDRESS = 300
SPOOFED = (
    *("X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 127.0.0.1, 203.0.113.8", "X-Real-IP: 203.0.113.7"),
    *("Forwarded: for=203.0.113.7;proto=http", "X-Forwarded-Proto: http", "X-Forwarded-Host: evil.example"),
    *(
        "X-Forwarded-Port: 1",
        "X-Forwarded-Prefix: /x",
        "X-Forwarded-Server: evil.example",
        "True-Client-IP: 203.0.113.7",
    ),
    *("X-Client-IP: 203.0.113.7", "X-Original-URL: /metrics", "X-Rewrite-URL: /metrics", "Via: 1.1 evil.example"),
    *("X-HTTP-Method-Override: DELETE", "Proxy: http://evil.example", "Upgrade: h2c", "Connection: Upgrade"),
)


@pytest.fixture(scope="module")
def replicas(
    postgres: Postgres, database_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningServer]]:
    """Two of them, as in production, that trust the gateway's address alone."""
    folder = tmp_path_factory.mktemp("replicas")
    with new_database(postgres, database_template) as database, ExitStack() as servers:
        environment = {
            "APP_ENVIRONMENT": "test",
            "APP_PUBLIC_URL": "http://localhost",
            "APP_TRUSTED_PROXIES": "127.0.0.1/32",
            "APP_LIMIT_PER_ADDRESS": str(PER_ADDRESS),
            "DATABASE_URL": database.app,
            **served(folder),
        }
        started = [RunningServer(environment, folder / f"log-{number}") for number in (1, 2)]
        for server in started:
            servers.callback(server.stop)
        yield started


@pytest.fixture(scope="module")
def gateway(replicas: list[RunningServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """In front of the two replicas."""
    with running(tmp_path_factory.mktemp("gateway"), *(server.port for server in replicas)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def remembering() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture
def recorder(remembering: Recorder) -> Recorder:
    """One that remembers nothing yet."""
    remembering.requests.clear()
    return remembering


@pytest.fixture(scope="module")
def recorded(remembering: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """In front of the one that remembers."""
    with running(tmp_path_factory.mktemp("recorded"), remembering.port) as gateway:
        yield gateway


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(port, …, changed=[(old, new), …])`: a gateway of a test's own in front of those."""
    with ExitStack() as gateways:

        def start(*ports: int, changed: Iterable[tuple[str, str]] = ()) -> Gateway:
            return gateways.enter_context(running(tmp_path, *ports, changed=changed))

        yield start


@contextmanager
def recording(reply: Callable[[], bytes] = lambda: OK) -> Generator[Recorder]:
    """A recorder for the length of the block."""
    with Recorder(reply) as recorder:
        yield recorder
        recorder.shutdown()


def check_problem(answer: Answer, status: int) -> None:
    """Assert that an answer is a problem as the service would write it."""
    assert answer.status == status, answer
    assert answer.all("content-type") == ["application/problem+json"]
    assert answer.all("x-content-type-options") == ["nosniff"]
    assert answer.all("strict-transport-security") == ["max-age=31536000; includeSubDomains"]
    problem = json.loads(answer.body)
    assert problem["status"] == status
    assert answer.all("x-request-id") == [problem["request_id"]]
    assert problem.keys() == {"type", "title", "status", "code", "detail", "request_id"}


# ---- Two replicas -----------------------------------------------------------------------------------------------


def test_both_replicas_are_asked_and_answers_pass_unchanged(gateway: Gateway, replicas: list[RunningServer]) -> None:
    for _ in range(4):
        answer = gateway.get("/v1/hello?a=b")
        assert (answer.status, answer.body) == (200, b'{"hello":"world"}')
        assert answer.all("strict-transport-security") == ["max-age=31536000; includeSubDomains"]
        assert answer.all("x-content-type-options") == ["nosniff"]
        assert answer.all("ratelimit") != []
    assert {line["replica"] for line in gateway.log(4)} == {f"127.0.0.1:{server.port}" for server in replicas}
    assert gateway.get("/v1/nothing").status == 404
    assert gateway.ask(post("/v1/echo", b"Content-Length: 2", body=b"{}")).status == 422


@pytest.mark.parametrize(
    "headers",
    [
        ["X-Request-ID: abc.DEF_1-2"],
        ["X-Request-ID: " + "a" * 128],
        ["X-Request-ID: " + "a" * 129],
        ["X-Request-ID: a b"],
        ['X-Request-ID: a"},{"x":"y'],
        ["X-Request-ID: "],
        [],
        ["traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        ["traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
        ["traceparent: 01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
        ["traceparent: 01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more"],
        ["traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        ["traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01"],
        ["traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
        ["traceparent: 00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        ["X-Request-ID: a b", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    ],
    ids=lambda headers: " ".join(headers)[:40] or "none",
)
def test_a_request_id_is_taken_or_made_as_the_service_does(
    gateway: Gateway, replicas: list[RunningServer], headers: list[str]
) -> None:
    def directly() -> str:
        with socket.create_connection(("127.0.0.1", replicas[0].port)) as connection:
            return answer(connection, get("/v1/hello", *headers)).all("x-request-id")[0]

    (given,) = gateway.get("/v1/hello", *headers).all("x-request-id")
    expected = directly()
    if expected == directly():
        assert given == expected
    else:
        assert re.fullmatch(r"[0-9a-f]{32}", given)
    until(lambda: given in {line["request_id"] for line in gateway.log()})
    assert given in {line.get("request_id") for server in replicas for line in server.logs()}


def test_limits_of_the_service_count_by_who_is_connected_whatever_is_said(gateway: Gateway) -> None:
    def left(source: str, *headers: str) -> int:
        policies = ",".join(gateway.get("/v1/hello", *headers, source=source).all("ratelimit"))
        return min(int(rest) for rest in re.findall(r"r=(\d+)", policies))

    counted = [left("127.0.0.2", f"X-Forwarded-For: 203.0.113.{number}") for number in range(6)]
    assert PER_ADDRESS - min(counted) == 3, "each of two replicas has counted three of one client"
    assert PER_ADDRESS - left("127.0.0.3") == 1, "another client's count is its own"


def test_bodies_as_large_as_allowed_pass(gateway: Gateway) -> None:
    answer = gateway.ask(post("/v1/raw", b"Content-Length: 1048576", body=b"x" * 1_048_576))
    assert (answer.status, answer.body) == (200, b"1048576")


def test_what_a_slow_client_sends_does_not_reach_the_service_until_it_is_whole(
    start: Start, replicas: list[RunningServer]
) -> None:
    hasty = [("client_header_timeout 10s", "client_header_timeout 1s"), ("body_timeout 10s", "body_timeout 1s")]
    gateway = start(*(server.port for server in replicas), changed=hasty)
    slow = [gateway.connect() for _ in range(40)]  # half a header, for ever
    for connection in slow:
        connection.sendall(get("/v1/hello")[:-2])
    bare = [socket.create_connection(("127.0.0.1", gateway.port), 5) for _ in range(40)]  # not even TLS
    body = gateway.connect()
    body.sendall(post("/v1/echo", b"Content-Length: 1000", body=b"{"))
    begun = time.monotonic()
    while time.monotonic() < begun + 0.8:  # a byte now and then does not win time
        for connection in slow:
            connection.sendall(b"X")
        assert gateway.get("/v1/hello").status == 200
        time.sleep(0.1)
    assert all(closed(connection) for connection in (*slow, *bare, body))
    assert time.monotonic() - begun < 5
    assert "body_incomplete" not in str([line for server in replicas for line in server.logs()])


def test_a_client_that_does_not_read_is_left(start: Start, replicas: list[RunningServer]) -> None:
    gateway = start(replicas[0].port, changed=[("send_timeout 10s", "send_timeout 1s")])
    with gateway.connect() as deaf:
        deaf.sendall(get("/v1/megabytes"))
        (line,) = gateway.log()
    assert line["path"] == "/v1/megabytes"
    assert line["bytes"] < 16_000_000


def test_a_connection_that_asks_nothing_more_is_closed(start: Start, recorder: Recorder) -> None:
    hasty = [("keepalive_timeout 30s", "keepalive_timeout 1s"), ("keepalive_min_timeout 2s", "keepalive_min_timeout 0")]
    gateway = start(recorder.port, changed=[*hasty, ("keepalive_requests 1000", "keepalive_requests 3")])
    idle, busy = gateway.connect(), gateway.connect()
    assert answer(idle, get("/")).status == 200
    assert [answer(busy, get("/")).all("connection") for _ in range(3)] == [["keep-alive"], ["keep-alive"], ["close"]]
    assert closed(idle)


def closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, in time and without an answer worth reading."""
    connection.settimeout(5)
    try:
        while connection.recv(10_000):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        connection.close()
    return True


# ---- What reaches a replica -------------------------------------------------------------------------------------


def test_forwarding_headers_are_the_gateways_own(recorded: Gateway, recorder: Recorder) -> None:
    answer = recorded.ask(get("/v1/hello", *SPOOFED), source="127.0.0.9")
    assert answer.status == 200
    (request,) = recorder.requests
    lines = request.head.decode().split("\r\n")
    assert sorted(lines[1:-2]) == [
        "Host: localhost",
        "X-Forwarded-For: 127.0.0.9",
        "X-Forwarded-Proto: https",
        f"X-Request-ID: {answer.all('x-request-id')[0]}",
    ]


def test_headers_that_the_gateway_adds_are_there_once(start: Start) -> None:
    headers = b"Strict-Transport-Security: max-age=1\r\nX-Request-ID: of-the-replica\r\nContent-Length: 0"
    with recording(lambda: b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n") as replica:
        answer = start(replica.port).get("/", "X-Request-ID: of-the-client")
    assert answer.all("strict-transport-security") == ["max-age=31536000; includeSubDomains"]
    assert answer.all("x-request-id") == ["of-the-client"]


CLOSED = (
    *("/metrics", "/metrics/", "/metrics/a", "/Metrics", "/%6detrics", "/metrics?a", "/debug", "/internal/a"),
    *("//metrics", "/./metrics", "/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/.%2e/metrics", "/%2fmetrics"),
)
AMBIGUOUS = (
    *(
        "//v1/hello",
        "/v1//hello",
        "/v1/hello//",
        "/v1/./hello",
        "/v1/hello/..",
        "/v1/hello/.",
        "/../metrics",
        "/..;/metrics",
        "/metrics;",
    ),
    *("/v1/hello;a=b", "/v1/%3bhello", "/v1/%2E/hello", "/v1%2fhello", "/v1\\hello", "/v1/%5chello", "/v1/hello#a"),
    *("/v1/%252e%252e/metrics", "/v1/%25252e/a", "/v1/hello%00", "/v1/hello%0d%0aX:%20y", "/v1/hello%7f", "/v1/h\xe9"),
)
PLAIN = (
    "/v1/hello/a.b?c=//..;%2e%2e",
    "/.well-known/x",
    "/v1/hello/100%25",
    "/v1/hello/%C3%A9",
    "/...",
    "/metricsystem",
)


@pytest.mark.parametrize(
    ("path", "status"),
    [(path, 404) for path in CLOSED] + [(path, 400) for path in AMBIGUOUS] + [(path, 200) for path in PLAIN],
)
def test_a_path_that_can_be_read_in_two_ways_is_refused(
    recorded: Gateway, recorder: Recorder, path: str, status: int
) -> None:
    answer = recorded.get(path)
    if status == 200:
        assert (answer.status, recorder.lines) == (200, [f"GET {path} HTTP/1.1".encode()])
    else:
        check_problem(answer, status)
        assert recorder.requests == []


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHAPES = {
    **{name: request for name, request in NO_HTTP.items() if name not in ("a method of its own", "a small method")},
    "CL.TE": post("/a", b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\nG"),
    "TE.CL": post(
        "/a", b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"5c\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
    ),
    "TE.TE": post("/a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "TE in two lines": post("/a", b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "TE with a blank": post("/a", b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "TE behind a tab": post("/a", b"X: y\n\tTransfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "TE of HTTP/1.0": b"POST /a HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two equal lengths": post("/a", b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
    "a length with a blank": post("/a", b"Content-Length : 2", body=b"{}"),
    "a folded header": post("/a", b"X: y\r\n Content-Length: 45", body=SMUGGLED),
    "a folded first header": b"GET /a HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "two hosts": b"GET /a HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "two hosts in one": b"GET /a HTTP/1.1\r\nHost: localhost, localhost\r\n\r\n",
    "no host": b"GET /a HTTP/1.1\r\n\r\n",
    "a chunk with a bare CR": post("/a", b"Transfer-Encoding: chunked", body=b"2\r{}\r0\r\r"),
    "a chunk size with a sign": post("/a", b"Transfer-Encoding: chunked", body=b"+2\r\n{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_request_is_smuggled_past_it(recorded: Gateway, recorder: Recorder, shape: str) -> None:
    with recorded.connect() as connection:
        connection.settimeout(1)
        refused = answer(connection, SHAPES[shape] + SMUGGLED)
        assert refused.status == 0 or 400 <= refused.status < 600, refused
        assert closed(connection)
    assert recorder.requests == [], "nothing of it is passed on, and nothing behind it is read as a request"


def test_a_chunked_body_reaches_the_service_with_a_length(recorded: Gateway, recorder: Recorder) -> None:
    with recorded.connect() as connection:
        body = b"5;a=b\r\nhello\r\n0\r\nX-Trailer: a\r\n\r\n"
        assert answer(connection, post("/a", b"Transfer-Encoding: chunked", body=body)).status == 200
        assert answer(connection, get("/b")).status == 200
    assert recorder.lines == [b"POST /a HTTP/1.1", b"GET /b HTTP/1.1"]
    assert recorder.requests[0].body == b"hello"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(post("/a", b"Content-Length: 1048577"), 413, id="a body"),
        pytest.param(
            post("/a", b"Transfer-Encoding: chunked", body=b"10000\r\n" + b"x" * 65536 + b"\r\n")
            + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 20,
            413,
            id="chunks",
        ),
        pytest.param(get("/a", "X: " + "x" * 9000), 431, id="a header"),
        pytest.param(get("/a", *(f"X-{number}: {'x' * 1000}" for number in range(50))), 431, id="headers"),
        pytest.param(get("/" + "a" * 9000), 414, id="an address"),
    ],
)
def test_what_is_too_large_does_not_reach_the_service(
    recorded: Gateway, recorder: Recorder, request_: bytes, status: int
) -> None:
    check_problem(recorded.ask(request_), status)
    assert recorder.requests == []


def test_methods_that_only_serve_attacks_are_refused(recorded: Gateway, recorder: Recorder) -> None:
    check_problem(recorded.ask(b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n"), 405)
    check_problem(recorded.ask(b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n"), 405)
    assert recorder.requests == []


def test_another_host_in_the_request_line_counts(recorded: Gateway, recorder: Recorder) -> None:
    assert recorded.ask(b"GET http://localhost/a HTTP/1.1\r\nHost: evil.example\r\n\r\n").status == 200
    assert b"\r\nHost: localhost\r\n" in recorder.requests[0].head
    assert recorded.ask(b"GET http://evil.example/a HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 0
    assert len(recorder.requests) == 1


# ---- How much ---------------------------------------------------------------------------------------------------


def test_requests_are_limited_by_who_is_connected(start: Start, recorder: Recorder) -> None:
    gateway = start(
        recorder.port, changed=[("burst=600", "burst=5"), ("rate=${GATEWAY_REQUESTS_PER_SECOND}r/s", "rate=1r/m")]
    )
    answers = [gateway.get("/", f"X-Forwarded-For: 203.0.113.{n}", source="127.0.0.2") for n in range(8)]
    assert [each.status for each in answers] == [200] * 6 + [429] * 2
    check_problem(answers[-1], 429)
    assert answers[-1].all("retry-after") == ["1"]
    assert gateway.get("/", source="127.0.0.3").status == 200


def test_a_client_of_ipv6_is_its_whole_network(start: Start, recorder: Recorder) -> None:
    # There are no two such addresses on every machine, so a proxy in front says who asks.
    gateway = start(
        recorder.port,
        changed=[
            ("burst=600", "burst=1"),
            ("rate=${GATEWAY_REQUESTS_PER_SECOND}r/s", "rate=1r/m"),
            ("listen ${GATEWAY_HTTPS_PORT} ssl", "listen ${GATEWAY_HTTPS_PORT} ssl proxy_protocol"),
            ("server_tokens off;", "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;"),
        ],
    )

    def status(address: str) -> int:
        return gateway.ask(get("/"), first=f"PROXY TCP6 {address} ::1 1 2\r\n".encode()).status

    assert [status(f"2001:db8::{number}") for number in (1, 2, 3)] == [200, 200, 429]
    assert status("2001:db8::a:b:c:d") == 429
    assert status("2001:db8:0:1::1") == 200
    assert [status(f"2001:db8:a0a:a0a:0a0a::{number}") for number in (1, 2, 3)] == [200, 200, 429]


def test_connections_are_limited_by_who_is_connected(start: Start) -> None:
    release = Event()

    def reply() -> bytes:
        release.wait(10)
        return OK

    with recording(reply) as recorder:
        gateway = start(recorder.port, changed=[("limit_conn connections 100", "limit_conn connections 2")])
        waiting = [Thread(target=gateway.get, args=("/",)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        until(lambda: len(recorder.requests) == 2)
        check_problem(gateway.get("/"), 429)
        release.set()
        for thread in waiting:
            thread.join()
        assert gateway.get("/").status == 200


LARGE = post("/a", b"Content-Length: 1000000", body=b"x" * 500_000)  # and no more, for now
CHUNKED = post("/a", b"Transfer-Encoding: chunked", body=b"7a120\r\n" + b"x" * 500_000)
SMALL = post("/a", b"Content-Length: 9999", body=b"x" * 9999)


@pytest.mark.parametrize("begun", [LARGE, CHUNKED], ids=["long", "chunked"])
def test_large_bodies_are_limited_by_who_is_connected(recorded: Gateway, begun: bytes) -> None:
    def ask(source: str) -> Answer:
        return recorded.ask(post("/a", b"Content-Length: 1000000", body=b"x" * 1_000_000), source)

    with ExitStack() as clients:
        slow: list[socket.socket] = []

        def no_more() -> bool:
            slow.append(clients.enter_context(recorded.connect("127.0.0.2")))
            slow[-1].sendall(begun)
            return ask("127.0.0.2").status == 429

        until(no_more)
        assert len(slow) >= 8, "it may be more: one of them can be what was refused"
        check_problem(ask("127.0.0.2"), 429)
        assert recorded.ask(SMALL, "127.0.0.2").status == 200
        assert recorded.get("/", source="127.0.0.2").status == 200
        assert ask("127.0.0.3").status == 200
    until(lambda: ask("127.0.0.2").status == 200)


def test_a_body_that_there_is_no_room_for_may_come_again(start: Start, recorder: Recorder) -> None:
    gateway = start(recorder.port)
    (gateway.folder / "bodies").rmdir()  # what nginx says to that is what it says to a full disk
    refused = gateway.ask(post("/a", b"Content-Length: 1000000", body=b"x" * 1_000_000))
    check_problem(refused, 503)
    assert refused.all("retry-after") == ["1"]
    assert gateway.ask(SMALL).status == 200
    assert recorder.lines == [b"POST /a HTTP/1.1"]
    assert "[crit]" in (gateway.folder / "errors").read_text(), "the log says why"
    (gateway.folder / "errors").write_text("")


def test_a_replica_that_is_busy_gets_fewer_requests(start: Start, recorder: Recorder) -> None:
    """Not none: the gateway may still be counting a request that has its answer already."""
    release = Event()

    def reply() -> bytes:
        first = len(busy.requests) == 1
        return OK if not first or release.wait(10) else b""

    with recording(reply) as busy:
        gateway = start(busy.port, recorder.port)
        asking = [Thread(target=gateway.get, args=("/",)) for _ in range(2)]
        for thread in asking:
            thread.start()
        until(lambda: len(busy.requests) == 1)
        assert [gateway.get("/").status for _ in range(20)] == [200] * 20
        release.set()
        for thread in asking:
            thread.join()
        assert len(busy.requests) <= 6


# ---- Retries ----------------------------------------------------------------------------------------------------

ORDER = post("/a", b"Content-Length: 2", body=b"{}")


def test_anything_is_sent_elsewhere_when_no_connection_is_made(start: Start, recorder: Recorder) -> None:
    gateway = start(free_port(), recorder.port)
    assert [gateway.ask(ORDER).status for _ in range(6)] == [200] * 6
    assert len(recorder.requests) == 6


def test_only_what_may_be_done_twice_is_sent_again(start: Start, recorder: Recorder) -> None:
    with recording(lambda: b"") as breaking_off:
        gateway = start(breaking_off.port, recorder.port)
        assert [gateway.get("/").status for _ in range(2)] == [200] * 2
        assert (len(breaking_off.requests), len(recorder.requests)) == (1, 2), "once more, elsewhere"
        answers = [gateway.ask(ORDER) for _ in range(4)]
        assert sorted(each.status for each in answers) == [200, 200, 502, 502]
        sent = [line for each in (breaking_off, recorder) for line in each.lines if line.startswith(b"POST")]
        assert len(sent) == 4, "none of them was sent twice"
    check_problem(next(each for each in answers if each.status == 502), 502)


def test_a_service_that_is_away_or_hangs_is_a_problem(start: Start) -> None:
    release = Event()
    with recording(lambda: OK if release.wait(10) else b"") as hanging:
        gateway = start(hanging.port, changed=[("proxy_read_timeout 15s", "proxy_read_timeout 500ms")])
        check_problem(gateway.ask(ORDER), 504)
        release.set()
    gateway.route([free_port()])
    gateway.reload()
    until(lambda: gateway.ask(ORDER).status == 502)


@pytest.mark.parametrize(("seconds", "status"), [("35s", 200), ("500ms", 0)])
def test_a_reload_waits_for_what_is_under_way_but_not_for_ever(start: Start, seconds: str, status: int) -> None:
    release = Event()
    with recording(lambda: OK if release.wait(10) else b"") as slow:
        gateway = start(slow.port, changed=[("worker_shutdown_timeout 35s", f"worker_shutdown_timeout {seconds}")])
        answers: list[int] = []
        asking = Thread(target=lambda: answers.append(gateway.get("/").status))
        asking.start()
        until(lambda: len(slow.requests) == 1)
        gateway.reload()
        asking.join(1.5)
        release.set()
        asking.join()
    assert answers == [status]


# ---- TLS --------------------------------------------------------------------------------------------------------


def test_plain_http_leads_to_https(recorded: Gateway, recorder: Recorder) -> None:
    def plain(request: bytes) -> Answer:
        with socket.create_connection(("127.0.0.1", recorded.plain_port), 5) as connection:
            return answer(connection, request)

    moved = plain(get("/v1/hello?a=b"))
    assert (moved.status, moved.all("location")) == (308, ["https://localhost/v1/hello?a=b"])
    assert plain(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").status == 0
    with socket.create_connection(("127.0.0.1", recorded.port), 5) as not_plain:
        check_problem(answer(not_plain, get("/v1/hello")), 400)
    challenge = recorded.folder / "acme" / ".well-known" / "acme-challenge" / "token"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("proof")
    assert plain(get("/.well-known/acme-challenge/token")).body == b"proof"
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("version", "accepted"), [("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)]
)
def test_tls_is_1_2_or_later(recorded: Gateway, version: str, accepted: bool) -> None:
    context = ssl.create_default_context(cafile=str(recorded.folder / "tls.crt"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions, which is why they are tried
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with socket.create_connection(("127.0.0.1", recorded.port), 5) as plain:
        if accepted:
            context.wrap_socket(plain, server_hostname="localhost").close()
        else:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize(
    ("cipher", "accepted"), [("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES128-SHA", False)]
)
def test_ciphers_authenticate_what_they_encrypt(recorded: Gateway, cipher: str, accepted: bool) -> None:
    context = ssl.create_default_context(cafile=str(recorded.folder / "tls.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    with socket.create_connection(("127.0.0.1", recorded.port), 5) as plain:
        if accepted:
            context.wrap_socket(plain, server_hostname="localhost").close()
        else:
            with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                context.wrap_socket(plain, server_hostname="localhost")


def test_a_session_goes_on_without_a_ticket(recorded: Gateway) -> None:
    context = ssl.create_default_context(cafile=str(recorded.folder / "tls.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    for reused in (False, True):
        with (
            socket.create_connection(("127.0.0.1", recorded.port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            assert answer(connection, get("/")).status == 200
            assert connection.session_reused == reused
            session = connection.session
            assert session is not None
            assert not session.has_ticket


def test_names_that_are_not_ours_get_no_certificate(recorded: Gateway, recorder: Recorder) -> None:
    for name in ("evil.example", None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", recorded.port), 5) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname=name)
    assert recorded.ask(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").status == 0
    assert recorder.requests == []


def test_the_log_has_no_query_and_no_secret(start: Start, recorder: Recorder) -> None:
    gateway = start(recorder.port)
    gateway.get("/a?token=c4n4ry", "Authorization: Bearer c4n4ry", "Cookie: c4n4ry", 'User-Agent: a"b\\c')
    (line,) = gateway.log()
    assert "c4n4ry" not in str(line)
    assert (line["path"], line["user_agent"], line["status"]) == ("/a", 'a"b\\c', 200)


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
