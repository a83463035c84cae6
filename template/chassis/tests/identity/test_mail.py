"""Mail: handed to a real SMTP server, tried again when that fails, and kept in a folder in development."""

import asyncio
import email
import email.policy
from collections.abc import AsyncGenerator, Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest

from chassis.app import Service
from chassis.identity import identity, mail
from chassis.identity.mail import Kept, Letters, Mail, Smtp, post
from chassis.settings import Settings, load

from .conftest import Person

pytestmark = pytest.mark.anyio

LETTER = Mail("ann@example.com", "The subject", "The text.\n")


class SmtpServer:
    """As much of RFC 5321 as a client needs that sends a mail; it can be told to refuse the next ones."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []
        self.logins: list[str] = []
        self.refusing = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say("220 mail.test")
        while line := (await reader.readline()).decode().strip():
            match line.split()[0].upper():
                case "EHLO":
                    say("250-mail.test")
                    say("250 AUTH PLAIN")
                case "AUTH":
                    self.logins.append(line.split()[2])
                    say("235 welcome")
                case "MAIL" if self.refusing:
                    self.refusing -= 1
                    say("451 try later")
                case "DATA":
                    say("354 go on")
                    content = await reader.readuntil(b"\r\n.\r\n")
                    message = email.message_from_bytes(content[:-3], policy=email.policy.default)
                    self.received.append(message)
                    say("250 taken")
                case "QUIT":
                    say("221 bye")
                    break
                case _:
                    say("250 fine")
            await writer.drain()
        writer.close()


@pytest.fixture
async def smtp() -> AsyncGenerator[tuple[SmtpServer, int]]:
    server = SmtpServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        yield server, listening.sockets[0].getsockname()[1]


async def test_a_mail_arrives_as_it_was_written(smtp: tuple[SmtpServer, int]):
    server, port = smtp
    await Smtp(f"smtp://shop:se%40cret@127.0.0.1:{port}", "no-reply@shop.test").send(LETTER)
    (received,) = server.received
    assert (received["To"], received["From"], received["Subject"]) == (
        "ann@example.com",
        "no-reply@shop.test",
        "The subject",
    )
    assert received["Auto-Submitted"] == "auto-generated"
    assert received.get_content().splitlines() == ["The text."]
    assert server.logins == ["AHNob3AAc2VAY3JldA=="]  # \0shop\0se@cret


async def test_a_server_that_is_busy_is_asked_again(smtp: tuple[SmtpServer, int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mail, "_PAUSES_SECONDS", (0.01, 0.01))
    server, port = smtp
    server.refusing = 2
    await Smtp(f"smtp://127.0.0.1:{port}", "no-reply@shop.test").send(LETTER)
    assert len(server.received) == 1


async def test_a_server_that_stays_away_is_given_up_without_the_address_in_the_log(
    monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str], free_tcp_port: int
):
    monkeypatch.setattr(mail, "_PAUSES_SECONDS", (0.01, 0.01))
    await Smtp(f"smtp://127.0.0.1:{free_tcp_port}", "no-reply@shop.test").send(LETTER)
    said = logged()
    assert "mail was not delivered" in said
    assert "ann@example.com" not in said


async def test_nothing_goes_in_the_clear_to_another_machine(
    smtp: tuple[SmtpServer, int], monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
):
    monkeypatch.setattr(mail, "_PAUSES_SECONDS", ())
    monkeypatch.setattr(mail, "is_loopback", "elsewhere".startswith)
    server, port = smtp  # which has no STARTTLS
    await Smtp(f"smtp://shop:secret@127.0.0.1:{port}", "no-reply@shop.test").send(LETTER)
    assert (server.received, server.logins) == ([], [])
    assert "SMTPNotSupportedError" in logged()


class Stuck:
    """A mail server that takes nothing, until it is told to."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()

    async def send(self, mail: Mail) -> None:
        await self.takes.wait()


async def test_a_mail_server_that_is_stuck_stops_no_request(
    app: Service, join: Callable[[], Awaitable[Person]], logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
):
    ann = await join()
    monkeypatch.setattr(identity, "_MOST_WAITING", 3)
    app.identity.post = stuck = Stuck()
    for _ in range(4):
        app.identity.send(LETTER)
    assert logged().count("mail was not sent: too many wait") == 1
    assert (await ann.call("POST", "/api-keys", json={"name": "ci", "scopes": ["members:read"]})).status_code == 201
    assert (await ann.call("POST", "/auth/password/forgot", json={"email": ann.email})).status_code == 202
    stuck.takes.set()


async def test_what_is_too_much_to_be_done_soon_is_refused(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identity, "_MOST_WAITING", 0)
    answer = await client.post("/v1/auth/password/forgot", json={"email": "ann@example.com"})
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")


async def test_development_keeps_and_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    await Kept(lambda: tmp_path / "mail", "service@localhost", show=True).send(LETTER)
    (file,) = (tmp_path / "mail").glob("*.eml")
    assert b"The text." in file.read_bytes()
    assert "The text." in capsys.readouterr().out


def test_a_mail_server_that_is_set_is_used():
    assert isinstance(post(load(Settings, {"APP_SMTP_URL": "smtp://127.0.0.1:2525"})), Smtp)
    assert isinstance(post(load(Settings, {})), Kept)


def test_every_link_begins_with_the_public_url_and_hides_its_token_from_servers():
    letters = Letters("https://shop.test")
    for letter in (
        letters.verify("a@example.com", "T"),
        letters.known("a@example.com", "T"),
        letters.reset("a@example.com", "T"),
        letters.invitation("a@example.com", "https://evil.test", "T"),
    ):
        assert "    https://shop.test/auth/" in letter.text
        assert "#token=T\n" in letter.text
        assert "?" not in letter.text


def test_no_name_of_a_tenant_is_a_link_in_a_mail():
    text = {
        name: Letters("https://shop.test").invitation("a@example.com", name, "T").text
        for name in ("Ann & Co", "https://evil.test", "evil.test/login", "ann@evil.test")
    }
    assert "in “Ann & Co”." in text.pop("Ann & Co")
    for mail_text in text.values():
        assert "in a team." in mail_text
        assert "evil" not in mail_text


@pytest.mark.parametrize("subject", ["x\nBcc: eve@example.com", "x\r\nBcc: eve@example.com"])
async def test_no_text_becomes_a_header(tmp_path: Path, subject: str):
    with pytest.raises(ValueError, match="linefeed"):
        await Kept(lambda: tmp_path, "service@localhost", show=False).send(Mail("a@example.com", subject, ""))
