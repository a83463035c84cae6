"""Logs: everything that a process says is one JSON object a line, and none of it is anybody's secret."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chassis.features import FEATURES
from chassis.observe.redaction import MAX_TEXT, allow_fields, redact, scrub

# One process that does all the things which usually escape: libraries, warnings, crashes in corners.
BUSY = """
import asyncio, gc, logging, sys, threading, uuid, warnings
import uvicorn
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from chassis.observe.context import RequestContext, current
from chassis.observe.logs import configure, get_logger
from chassis.settings import Settings, load

log = get_logger("shop.orders")
configure(load(Settings, {"APP_REVISION": "4f2a"}, environment="test"))

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    raise RuntimeError("canary-in-an-exception")

async def requests():
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for request in ("GET /reset/canary-in-a-path?token=canary-in-a-query HTTP/1.1", "rubbish"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{request}\\r\\nHost: x\\r\\n\\r\\n".encode())
        await reader.read(100)
        writer.close()
    server.should_exit = True
    await serving

    async def fail():
        raise ValueError("canary-in-a-task")
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()

    current.set(RequestContext("req-1", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", uuid.UUID(int=7)))
    await asyncio.gather(*(one(number) for number in range(50)))

async def one(number):
    log.info("order placed", number=number, order_id=uuid.uuid4(), total_minor=1 << 80, ratio=float("nan"))

asyncio.run(requests())
engine = create_engine("sqlite://")
with engine.connect() as connection:
    MigrationContext.configure(connection)
engine.dispose()
warnings.warn("an old name", DeprecationWarning, stacklevel=1)
warnings.warn("password=canary-in-a-warning", stacklevel=1)

child = logging.getLogger("library.deep.child")
child.warning("signed in as %s with %s", "canary-in-an-argument", {"password": "canary-in-a-mapping"})
child.warning("%(who)s", {"who": "canary-in-a-named-argument"})
child.warning("headers: [(b'authorization', b'Bearer canary-in-a-header'), (b'x', b'y')]")
child.warning("connecting to postgresql://shop:canary-in-a-dsn@db/shop failed")
child.error(ValueError("canary-in-an-exception-as-a-message"))
child.error("failed", extra={"session": "canary-in-extra", "attempts": 3})
child.error("%d", "canary-in-a-wrong-format")
child.error("first\\n{\\"level\\": \\"forged\\"}")
try:
    try:
        raise OSError("canary-in-a-cause")
    except OSError as error:
        raise ExceptionGroup("canary-in-a-group", [KeyError("canary-in-a-member")]) from error
except ExceptionGroup:
    log.exception("broke", kind="Cookie: session=canary-in-a-cookie; a=b")
log.info("nested", kind={"password": "canary-in-a-field", "reason": {"canary-in-a-key": 1}})
log.info("listed", kind=["token=canary-in-a-list", ("canary-in-a-set@example.com",)])
log.info("bytes", kind=b"canary-in-bytes", body="canary-in-a-body", error=ValueError("canary-in-an-error-field"))
log.info("mail", reason="sent to canary-in-mail@example.com with eyJhbGciOiJFZERTQSJ9.eyJjYW5hcnkiOjF9.canary-in-a-jwt")
class Odd(dict):
    def items(self):
        raise RuntimeError("canary-in-a-broken-field")
log.info("odd", kind=Odd(a=1))
log.info("huge", reason="canary-in-a-long-word" * 50_000)
log.info("many", **{f"field_{number}": number for number in range(5000)})
log.info("late", timestamp="canary-in-a-forged-field", level="forged", event_id="canary-in-an-unknown-field")
log.debug("not seen at this level")

class Crash:
    def __del__(self):
        raise RuntimeError("canary-in-del")
Crash()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise SystemError("canary-in-the-last-words")
"""

LEVELS = {"debug", "info", "warning", "error", "critical"}
NAMES = ["timestamp", "level", "event", "logger", "service", "version", "environment"]

Done = subprocess.CompletedProcess[bytes]
Lines = list[dict[str, Any]]


def run(code: str) -> Done:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    python = [sys.executable, "-Wdefault", "-c", code]
    return subprocess.run(python, capture_output=True, timeout=60, check=False, env=environ)


@pytest.fixture(scope="module")
def busy() -> Done:
    return run(BUSY)


@pytest.fixture(scope="module")
def lines(busy: Done) -> Lines:
    return [json.loads(line, parse_constant=pytest.fail) for line in busy.stdout.splitlines()]


def found(lines: Lines, **wanted: object) -> dict[str, Any]:
    matching = [line for line in lines if wanted.items() <= line.items()]
    assert matching, f"no line has {wanted}"
    return matching[0]


def test_every_line_of_a_process_is_one_of_ours(busy: Done, lines: Lines) -> None:
    assert busy.stderr == b""
    assert busy.returncode == 1
    for line in lines:
        assert list(line)[: len(NAMES)] == NAMES
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", line["timestamp"])
        assert line["level"] in LEVELS
        assert (line["version"], line["environment"]) == ("4f2a", "test")
        assert all(isinstance(line[name], str) for name in NAMES)
        assert line["event"].isprintable()
    assert max(map(len, busy.stdout.splitlines())) <= 32 * 1024


def test_libraries_warnings_and_crashes_write_lines_like_ours(lines: Lines) -> None:
    assert found(lines, logger="uvicorn.error", level="info")["event"].startswith("Started server process")
    found(lines, logger="uvicorn.error", level="error", event="Exception in ASGI application")
    found(lines, logger="uvicorn.error", level="warning", event="Invalid HTTP request received.")
    found(lines, logger="alembic.runtime.migration", event="Context impl SQLiteImpl.")
    found(lines, logger="asyncio", level="error", event="Task exception was never retrieved")
    assert any("DeprecationWarning: an old name" in line["event"] for line in lines if line["logger"] == "py.warnings")
    found(lines, event="exception that could not be raised", level="error")
    found(lines, event="uncaught exception in a thread", level="critical")
    assert lines[-1]["event"] == "uncaught exception"
    assert "uvicorn.access" not in {line["logger"] for line in lines}
    assert "not seen at this level" not in {line["event"] for line in lines}


def test_a_line_says_whose_request_it_belongs_to(lines: Lines) -> None:
    placed = [line for line in lines if line["event"] == "order placed"]
    assert [line["number"] for line in placed] == list(range(50))
    line = placed[0]
    assert line["request_id"] == "req-1"
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert line["span_id"] == "b7ad6b7169203331"
    assert line["tenant_id"] == "00000000-0000-0000-0000-000000000007"
    assert line["ratio"] is None
    assert line["total_minor"] == str(1 << 80)
    assert "request_id" not in found(lines, logger="alembic.runtime.migration")


def test_no_canary_is_in_any_line(busy: Done) -> None:
    planted = len(re.findall("canary-in", BUSY))
    assert planted >= 30
    assert re.findall(rb"canary-in[a-z-]*", busy.stdout + busy.stderr) == []


def test_an_exception_is_its_types_and_stacks(lines: Lines) -> None:
    line = found(lines, event="broke")
    assert [error["type"] for error in line["exception"]] == ["ExceptionGroup", "OSError"]
    assert line["exception"][0]["group"] == ["KeyError"]
    assert set(line["exception"][0]["stack"][0]) == {"file", "line", "function"}
    assert found(lines, event="bytes")["error"] == "ValueError"


def test_a_line_cannot_be_forged_or_grow_without_end(lines: Lines) -> None:
    found(lines, event='first\\n{"level": "forged"}')
    assert found(lines, event="late")["level"] == "info"
    assert found(lines, event="huge")["reason"] == "[cut: 1050000 characters]"
    assert found(lines, event="many")["cut_bytes"] > 32 * 1024


def test_a_field_that_cannot_be_shown_costs_the_line_and_not_the_caller(lines: Lines) -> None:
    line = found(lines, event="log line could not be rendered", logger="shop.orders")
    assert line["error"] == "RuntimeError"


def test_a_line_is_out_before_the_process_can_die() -> None:
    code = """
import os
from chassis.observe.logs import configure, get_logger
from chassis.settings import Settings
configure(Settings())
get_logger("x").info("said")
os._exit(9)
"""
    done = run(code)
    assert (done.returncode, json.loads(done.stdout)["event"]) == (9, "said")


def test_a_stdout_that_broke_hurts_nobody() -> None:
    code = """
import sys
from chassis.observe.logs import configure, get_logger
from chassis.settings import Settings
configure(Settings())
for number in range(5000):
    get_logger("x").info("still here", number=number)
sys.stderr.write("done")
"""
    reader, writer = os.pipe()
    os.close(reader)
    for stdout in (writer, os.open("/dev/full", os.O_WRONLY)):
        python = [sys.executable, "-c", code]
        done = subprocess.run(python, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"done")
        os.close(stdout)
    closed = f"exec 1>&-; exec '{sys.executable}' -c '{code}'"
    done = subprocess.run(["/bin/sh", "-c", closed], stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"done")


PRETTY = """
import logging
from chassis.observe.logs import configure, get_logger
from chassis.settings import Settings
configure(Settings(environment={environment!r}, log_format={format!r}, **{more}))
log = get_logger("shop")
log.info("placed", number=3, secret="canary", reason="a\\n12:00:00 [info] forged")
try:
    raise ValueError("what it says")
except ValueError:
    log.exception("broke")
"""


def test_pretty_lines_are_for_people_and_redacted_too() -> None:
    out = run(PRETTY.format(environment="development", format="pretty", more={})).stdout.decode()
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} \[info\] placed", out)
    assert "number=3" in out
    assert "canary" not in out
    assert "\n12:00:00" not in out
    assert "ValueError: what it says" in out


@pytest.mark.parametrize("environment", ["development", "production"])
def test_on_a_terminal_lines_are_pretty_unless_deployed(environment: str, tmp_path: Path) -> None:
    import pty

    more: dict[str, object] = {}
    if environment == "production":
        more = {
            "database_url": "postgresql://shop_app@localhost/shop",
            "secret_key": "qK3vZ9xT1mB7rW5yN8pL2sD4fG6hJ0aC",
            "allowed_hosts": ["a.test"],
            "public_url": "https://a.test",
            "smtp_url": "smtp://a.test",
            "mail_from": "no-reply@example.com",
            "security_contact": "mailto:security@example.com",
        }
        if "valkey" in FEATURES:
            more["valkey_url"] = "valkey://localhost"
    controller, terminal = pty.openpty()
    code = PRETTY.format(environment=environment, format="auto", more=more)
    subprocess.run([sys.executable, "-c", code], stdout=terminal, timeout=60, check=True)
    os.close(terminal)
    out = os.read(controller, 65536)
    os.close(controller)
    assert (b"what it says" in out) == (environment == "development")
    assert (out[:1] == b"{") == (environment == "production")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("GET /v1/orders/{order_id}", "GET /v1/orders/{order_id}"),
        ("Authorization: Basic YTpi", "Authorization: [redacted]"),
        ("got bearer abc.def-1 from it", "got bearer [redacted] from it"),
        ("basic dXNlcjpwYXNz!", "basic [redacted]"),
        ("basic authentication failed", "basic authentication failed"),
        ('{"refresh_token": "x y", "n": 1}', '{"refresh_token":[redacted], "n": 1}'),
        ("APP_SECRET_KEY=abc,x=1", "APP_SECRET_KEY=[redacted],x=1"),
        ("DB_PASSWORD: 'a b' left", "DB_PASSWORD:[redacted] left"),
        ("api-key=a&page=2", "api-key=[redacted]&page=2"),
        ("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOjF9", "[redacted]"),
        ("redis://:pa/ss@word@cache:6379/0", "redis://[redacted]@cache:6379/0"),
        ("http://127.0.0.1:8000/x", "http://127.0.0.1:8000/x"),
        ("to a.b+c@mail.example.co.uk.", "to [email]."),
        ("Set-Cookie: a=b; Path=/\nX: y", r"Set-Cookie: [redacted]\nX: y"),
        ("-----BEGIN EC PRIVATE KEY-----\nabc\n-----END", "[redacted]"),
        ("x\x1b[2J\u202e\u2028\udc80", r"x\x1b[2J\u202e\u2028\udc80"),
        ('password authentication failed for user "shop"', 'password authentication failed for user "shop"'),
    ],
)
def test_text_that_passes_is_scrubbed(text: str, seen: str) -> None:
    assert scrub(text) == seen


def test_text_passes_under_declared_names_only() -> None:
    assert redact("favourite_colour", "red") == "[redacted]"
    allow_fields("favourite_colour")
    assert redact("favourite_colour", "red") == "red"
    mixed = {"favourite_colour": "red", "other": 1}
    assert redact("kind", mixed) == {"favourite_colour": "red", "[redacted]": "[redacted]"}
    assert redact("anything", 12.5) == 12.5
    assert redact("kind", object()) == "[redacted]"


def test_long_and_deep_values_are_cut() -> None:
    assert len(scrub("word " * 300_000)) < MAX_TEXT + 40
    assert "hunter2" not in scrub("x" * (MAX_TEXT - 30) + " postgresql://shop:hunter2hunter2@db")
    assert len(redact("kind", ["x"] * 1000)) == 20
    deep: list[Any] = []
    deep.append(deep)
    assert redact("kind", deep) == [[[["[redacted]"]]]]


def test_scrubbing_hostile_text_takes_no_time() -> None:
    texts = [
        part * 1000 for part in ("aaaa", "://", "eyJ", "a@", "password", "bearer ", "basic a", "a.b-", "cookie ", "'")
    ]
    code = f"from chassis.observe.redaction import scrub\nfor text in {texts!r} * 20: scrub(text)"
    assert run(code).returncode == 0  # within the timeout: backtracking would take hours
