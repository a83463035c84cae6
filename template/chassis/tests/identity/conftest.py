"""People with accounts, and the mail that they get."""

import asyncio
import email
import email.policy
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from chassis.app import Service, create_app
from chassis.data.unit_of_work import UnitOfWork
from chassis.identity import watch
from chassis.identity.mail import Kept
from chassis.observe import logs
from chassis.settings import Settings
from chassis.testing import TestDatabase, configure, started

QUICK_SECONDS = 0.2
PASSWORD = "a stool, two maps and rust"


@dataclass
class Person:
    """Somebody who is signed in."""

    client: httpx.AsyncClient
    email: str
    tokens: dict[str, Any]
    id: UUID
    tenant_id: UUID

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}

    async def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return await self.client.request(method, f"/v1{path}", headers=self.headers, **arguments)


class Mailbox:
    """The mail of a service, read back from where it is kept."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder

    async def to(self, address: str) -> list[EmailMessage]:
        """All mail to an address, once everything that was to be sent is sent."""
        await self._service.identity.finish()
        files = sorted(self._folder.glob("*.eml")) if self._folder.exists() else []
        mails = [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]
        return [mail for mail in mails if mail["To"] == address]

    async def token(self, address: str, of: int = -1) -> str:
        """The token in the latest mail to an address, or in another one."""
        text = (await self.to(address))[of].get_content()
        return re.findall(r"#token=(\S+)", text)[-1]


@pytest.fixture
def mailbox(app: Service, settings: Settings, tmp_path: Path) -> Mailbox:
    folder = tmp_path / "mail"
    app.identity.post = Kept(lambda: folder, settings.mail_from, show=False)
    return Mailbox(app, folder)


@pytest.fixture
def join(client: httpx.AsyncClient, mailbox: Mailbox) -> Callable[..., Awaitable[Person]]:
    """`await join()`: sign up with a new address, and sign in."""

    async def person(address: str | None = None) -> Person:
        address = address or f"{uuid4().hex}@example.com"
        credentials = {"email": address, "password": PASSWORD}
        assert (await client.post("/v1/auth/signup", json=credentials)).status_code == 202
        return await sign_in(client, address)

    return person


async def sign_in(client: httpx.AsyncClient, address: str, password: str = PASSWORD) -> Person:
    answer = await client.post("/v1/auth/signin", json={"email": address, "password": password})
    assert answer.status_code == 200, answer.text
    return person_of(client, address, answer.json())


def person_of(client: httpx.AsyncClient, address: str, tokens: dict[str, Any]) -> Person:
    """Who holds these tokens, as the access token says."""
    import base64
    import json

    content = tokens["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
    return Person(client, address, tokens, UUID(claims["sub"]), UUID(claims["tenant"]))


class Work:
    """Counts what the service does for a request: hashes, queries, transactions."""

    def __init__(self, app: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        for owner, name, kind in (
            (app.identity.passwords, "hash", "hash"),
            (app.identity.passwords, "matches", "hash"),
            (UnitOfWork, "all", "query"),
            (UnitOfWork, "first", "query"),
            (UnitOfWork, "one", "query"),
            (UnitOfWork, "run", "query"),
            (UnitOfWork, "begin", "begin"),
        ):
            monkeypatch.setattr(owner, name, self._counted(kind, getattr(owner, name)))

    def _counted(self, kind: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*arguments: Any) -> Any:
            self.done.append(kind)
            return await call(*arguments)

        return counted

    async def of(self, request: Awaitable[httpx.Response]) -> tuple[int, dict[str, Any], list[str]]:
        self.done.clear()
        answer = await request
        body: dict[str, Any] = answer.json() if answer.content else {}
        body.pop("request_id", None)
        return answer.status_code, body, list(self.done)


@pytest.fixture
def work(app: Service, monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(app, monkeypatch)


@pytest.fixture
async def replica(app: Service, settings: Settings) -> AsyncGenerator[httpx.AsyncClient]:
    """A second replica of the service, on the same database."""
    second = create_app(app.settings_class, app.modules[:-1])
    configure(second, settings)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(started(second))
        transport = httpx.ASGITransport(second)
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://localhost"))


@pytest.fixture
def logged(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """What the service has logged since."""
    file = tmp_path / "log"
    with file.open("wb") as stream:
        logs.configure(settings, stream=stream)
        yield file.read_text
    logs.configure(settings)


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas ask for revocations and keys sooner than in production. To be named before what starts one."""
    monkeypatch.setattr(watch, "PERIOD_SECONDS", QUICK_SECONDS)


@pytest.fixture
def sql(database: TestDatabase) -> Callable[..., list[tuple[Any, ...]]]:
    """Run SQL past all policies, as an attacker or an operator with the superuser's password could."""

    def run(statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(database.superuser, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    return run


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float) -> float:
    """Wait until a condition holds; returns how long that took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not await condition():
        assert loop.time() - begun < seconds, f"not within {seconds} seconds"
        await asyncio.sleep(0.05)
    return loop.time() - begun
