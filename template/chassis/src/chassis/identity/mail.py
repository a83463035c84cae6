"""Mail: what it says, and its way through an SMTP server, or into a folder and before the developer's eyes.

Every link in a mail begins with APP_PUBLIC_URL, and never with anything that a request said. Its token is in the
fragment, which browsers send to nobody: it is in no log and no Referer. The page there reads it and posts it to the
endpoint of the same purpose.
"""

import asyncio
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from chassis.features import PROJECT
from chassis.observe.logs import get_logger
from chassis.settings_rules import is_loopback

if TYPE_CHECKING:
    from chassis.settings import Settings

_TIMEOUT_SECONDS = 10.0
_PAUSES_SECONDS = (1.0, 5.0)
"""Between tries: a mail that could not be handed over three times is given up, and logged."""

_log = get_logger("chassis.mail")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail of plain text to one person."""

    to: str
    subject: str
    text: str


class Post(Protocol):
    """Takes mail. What cannot be delivered is logged, without the address."""

    async def send(self, mail: Mail) -> None: ...


class Smtp:
    """Hands mail to the server at `url`; the channel is encrypted unless the server is on this machine."""

    def __init__(self, url: str, sender: str) -> None:
        self._url = urlsplit(url)
        self._sender = sender

    async def send(self, mail: Mail) -> None:
        """Try a few times."""
        message = _message(mail, self._sender)
        for pause in (*_PAUSES_SECONDS, None):
            try:
                await asyncio.to_thread(self._deliver, message)
                return
            except OSError as error:  # smtplib's errors are OSErrors, too
                if pause is None:
                    _log.error("mail was not delivered", error=error)
                    return
                _log.warning("mail server did not take a mail", error=error)
            await asyncio.sleep(pause)

    def _deliver(self, message: EmailMessage) -> None:
        import smtplib  # imported by the first mail, not by every start

        host, encrypted = self._url.hostname or "", self._url.scheme == "smtps"
        context = ssl.create_default_context()
        if encrypted:
            server = smtplib.SMTP_SSL(host, self._url.port or 465, timeout=_TIMEOUT_SECONDS, context=context)
        else:
            server = smtplib.SMTP(host, self._url.port or 587, timeout=_TIMEOUT_SECONDS)
        with server:
            if not encrypted and not is_loopback(host):
                server.starttls(context=context)
            if self._url.username and self._url.password:
                server.login(unquote(self._url.username), unquote(self._url.password))
            server.send_message(message)


class Kept:
    """Keeps each mail as a file in `folder`, which is made when it is first needed, and shows it."""

    def __init__(self, folder: Callable[[], Path], sender: str, *, show: bool) -> None:
        self._folder = folder
        self._sender = sender
        self._show = show

    async def send(self, mail: Mail) -> None:
        """Write it: at once, since this is a developer's machine."""
        folder = self._folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        message = _message(mail, self._sender)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{uuid4().hex[:8]}.eml"
        unfinished = folder / f".{name}"
        unfinished.write_bytes(message.as_bytes(policy=SMTPUTF8))
        unfinished.rename(folder / name)
        if self._show:
            sys.stdout.write(f"\n--- mail to {mail.to}: {mail.subject}\n{mail.text}---\n")
            sys.stdout.flush()


def post(settings: "Settings") -> Post:
    """Where mail goes in this environment."""
    if settings.smtp_url is not None:
        return Smtp(settings.smtp_url.get_secret_value(), settings.mail_from)

    def folder() -> Path:
        from chassis.dev.database import state_folder

        return state_folder() / "mail"

    return Kept(folder, settings.mail_from, show=settings.environment == "development")


def _message(mail: Mail, sender: str) -> EmailMessage:
    message = EmailMessage(
        policy=SMTP.clone(max_line_length=998)
    )  # RFC 5322's: a link stays whole for who reads the file
    message["From"] = sender
    message["To"] = mail.to
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answer, please
    message.set_content(mail.text)
    return message


def _shown(tenant: str) -> str:
    """The name in its quotes; not one that a mail program could make a link of, which would be somebody else's."""
    return "a team" if any(sign in tenant for sign in ".:/@") else f"“{tenant}”"


class Letters:
    """The letters of a service that is reached at `origin`."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def verify(self, to: str, token: str) -> Mail:
        return self._with_link(
            to,
            "Confirm your address",
            "somebody, presumably you, has signed up with this address. To confirm it, follow this link within a day:",
            "verify",
            token,
        )

    def again(self, to: str, token: str) -> Mail:
        return self._with_link(
            to,
            "Confirm your address",
            "somebody, presumably you, has signed up with this address, and not for the first time. To confirm it, "
            "choose your password with this link within half an hour:",
            "reset",
            token,
        )

    def known(self, to: str, token: str) -> Mail:
        return self._with_link(
            to,
            "You have an account already",
            "somebody, presumably you, has tried to sign up with this address, which has an account. Sign in as you "
            "did before; or choose a new password with this link within half an hour:",
            "reset",
            token,
        )

    def reset(self, to: str, token: str) -> Mail:
        return self._with_link(
            to,
            "Choose a new password",
            "somebody, presumably you, wants a new password for your account. Choose it with this link within half an "
            "hour:",
            "reset",
            token,
        )

    def password_changed(self, to: str) -> Mail:
        text = (
            "Hello,\n\nthe password of your account has just been changed, and everybody who was signed in is signed "
            f"out.\nIf that was not you, ask for a new one at once:\n\n    {self._origin}/auth/forgot\n"
        )
        return Mail(to, f"{PROJECT}: Your password was changed", text)

    def invitation(self, to: str, tenant: str, token: str) -> Mail:
        return self._with_link(
            to,
            "You are invited",
            f"you are invited to work in {_shown(tenant)}. Sign in or sign up with this address, and then accept with "
            "this link within a week:",
            "invitation",
            token,
        )

    def _with_link(self, to: str, subject: str, text: str, page: str, token: str) -> Mail:
        link = f"{self._origin}/auth/{page}#token={token}"
        text = f"Hello,\n\n{text}\n\n    {link}\n\nIf this was not you, do nothing: nothing will happen.\n"
        return Mail(to, f"{PROJECT}: {subject}", text)
