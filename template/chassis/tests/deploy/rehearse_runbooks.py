"""The runbooks, followed to the letter: what they have in blocks of `sh host` is run on a host of the rehearsal.

The database is a server of this test alone, since its passwords change. `make rehearse` runs this.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import httpx
import psycopg
import pytest
from host import SMOKE, Host, image_of
from pyrage import x25519

from chassis.dev.postgres import Postgres, binaries
from chassis.features import PACKAGE
from chassis.testing import WIDE_LIMITS

PAGES = Path(__file__).parents[3] / "docs" / "runbooks"
FOLLOWED = set[str]()
"""The blocks that were run."""
SOMEBODY = {"email": "somebody@example.com", "password": "four wandering kettles"}


def written(text: str) -> list[str]:
    """The blocks for a host."""
    return re.findall(r"^```sh host\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Stage:
    """A host, a shell on it, and somebody who uses the service. What it does not get is its own."""

    def __init__(
        self, folder: Path, server: Postgres, backups: str, key: x25519.Identity, smoke: Sequence[str]
    ) -> None:
        self.server = server
        variables = {
            **WIDE_LIMITS,
            "APP_ENVIRONMENT": "test",
            "APP_PUBLIC_URL": "http://localhost",
            "APP_DRAIN_SECONDS": "1",
            "APP_SMOKE_EMAILS": ",".join(smoke),
        }
        self.host = Host(folder, variables)
        (self.host.state / "backup.env").write_text(backups)
        self.secrets = self.host.state / "secrets"
        users = {"database_url": "app", "backup_database_url": "backup", "migrator_database_url": "postgres"}
        for secret, user in users.items():
            login = user if user == "postgres" else f"{PACKAGE}_{user}"
            url = f"postgresql://{login}:{server.password}@/{PACKAGE}?host=127.0.0.1&port={server.port}\n"
            (self.secrets / secret).write_text(url)
        (self.secrets / "postgres_password").write_text(server.password)
        (self.secrets / "app_secret_key").write_text(f"{token_urlsafe(32)}\n")
        with (self.host.state / "host.env").open("a") as lines:
            for secret in (*users, "app_secret_key"):
                lines.write(f"{secret.upper()}_FILE={self.secrets / secret}\n")
        for name in ("tls.crt", "tls.key"):
            (self.secrets / name).symlink_to(self.host.state / name)
        (self.host.state / "restore.key").write_text(f"{key}\n")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_")} | {
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{binaries()}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "TARGET": "deploy@host.example",
            "IMAGE": image_of("second"),
        }

    def follow(self, page: str, *sections: str) -> str:
        """Run what a page says at its top and in these sections, or all of it; returns what that printed."""
        parts = re.split(r"^## (.+)\n", (PAGES / page).read_text(), flags=re.MULTILINE)
        chosen = [parts[0]]
        for title, text in zip(parts[1::2], parts[2::2], strict=True):
            if title in sections or not sections:
                chosen.append(text)
        assert len(chosen) > len(sections), "a section is not there any more"
        blocks = written("".join(chosen))
        assert blocks
        FOLLOWED.update(blocks)
        folder = PAGES.parents[1] if page == "deploy.md" else self.host.state.parents[1]
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", "".join(blocks)],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, method: str, path: str, token: str = "", **body: Any) -> tuple[int, Any]:
        """What the service answers through the gateway."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"https://localhost:{self.host.port}/v1/{path}"
        with httpx.Client(verify=self.host.trust, headers=headers) as client:
            answer = client.request(method, url, json=body or None)
        return answer.status_code, answer.json() if answer.content else None

    def sign_in(self) -> dict[str, str]:
        status, tokens = self.ask("POST", "auth/signin", **SOMEBODY)
        assert status == 200, tokens
        return tokens


@contextmanager
def new_host(folder: Path, backups: str, key: x25519.Identity, smoke: Sequence[str]) -> Generator[Stage]:
    """A host to which nothing was deployed, and its server."""
    server = Postgres(folder / "postgres", durable=False)
    server.start()
    try:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {PACKAGE}".encode())
        stage = Stage(folder, server, backups, key, smoke)
        try:
            yield stage
        finally:
            stage.host.stop()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def key() -> x25519.Identity:
    """What opens backups."""
    return x25519.Identity.generate()


@pytest.fixture(scope="module")
def stage(key: x25519.Identity, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A host on which a release serves."""
    folder, other = tmp_path_factory.mktemp("runbooks"), x25519.Identity.generate()
    (folder / "backups").mkdir()
    # While keys change, either one opens it.
    backups = f"""\
APP_BACKUP_URL={(folder / "backups").as_uri()}
APP_BACKUP_RECIPIENTS={other.to_public()},{key.to_public()}
"""
    with new_host(folder, backups, key, SMOKE) as stage:
        stage.host.deploy(stage.host.release("first"))
        assert stage.ask("POST", "auth/signup", **SOMEBODY)[0] == 202
        yield stage


def test_there_are_places_to_look(stage: Stage) -> None:
    said = stage.follow("alerts.md", "Where to look", "Backups")
    assert "active" in said
    assert len(list((stage.host.state.parents[2] / "backups").glob("*.json"))) == 2, "one was made by hand"


def test_what_does_not_run_is_started(stage: Stage) -> None:
    stage.host.stop()
    with pytest.raises(httpx.ConnectError):
        stage.sign_in()
    said = stage.follow("alerts.md", "Readiness")
    assert f"{image_of('first')} serves alone" in said
    stage.sign_in()


def test_a_signing_key_that_is_known_to_others_goes_at_once_and_sessions_stay(stage: Stage) -> None:
    tokens = stage.sign_in()
    assert stage.ask("GET", "auth/sessions", tokens["access_token"])[0] == 200
    assert "signs from" in stage.follow("keys.md", "Keys that sign tokens")
    deadline = time.monotonic() + 10
    # A replica may have heard of it before the other one.
    while [stage.ask("GET", "auth/sessions", tokens["access_token"])[0] for _ in range(4)] != [401] * 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    status, tokens = stage.ask("POST", "auth/refresh", refresh_token=tokens["refresh_token"])
    assert (status, stage.ask("GET", "auth/sessions", tokens["access_token"])[0]) == (200, 200)


def test_with_another_secret_everybody_signs_in_again_and_api_keys_stay(stage: Stage) -> None:
    tokens = stage.sign_in()
    status, made = stage.ask("POST", "api-keys", tokens["access_token"], name="kept", scopes=["members:read"])
    assert status == 201, made
    stage.follow("keys.md", "APP_SECRET_KEY")
    assert stage.ask("GET", "auth/sessions", tokens["access_token"])[0] == 401
    assert stage.ask("POST", "auth/refresh", refresh_token=tokens["refresh_token"])[0] == 401
    assert stage.ask("GET", "tenants/members", made["key"])[0] == 200
    stage.sign_in()


def test_the_passwords_of_the_database_change(stage: Stage) -> None:
    before = [url.read_text().strip() for url in stage.secrets.glob("*database_url")]
    stage.follow("keys.md", "Passwords of the database")
    for url in before:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)
    stage.sign_in()
    stage.follow("alerts.md", "Where to look", "Backups")


def test_a_new_certificate_is_served(stage: Stage) -> None:
    new, old = stage.host.state / "renewed", (stage.host.state / "tls.crt").read_text()
    new.mkdir()
    options = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        ["openssl", *options.split(), "-keyout", new / "privkey.pem", "-out", new / "fullchain.pem"],
        check=True,
        capture_output=True,
    )
    wanted = (new / "fullchain.pem").read_text()
    stage.environment["RENEWED_LINEAGE"] = str(new)
    stage.follow("keys.md", "The certificate")
    assert (stage.host.state / "tls.crt").read_text() == wanted != old
    deadline = time.monotonic() + 10
    while True:  # which is trusted only if it is the new one
        try:
            assert stage.ask("GET", "auth/sessions")[0] == 401
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_what_was_lost_is_there_again_and_what_came_later_is_kept_beside_it(stage: Stage) -> None:
    stage.follow("alerts.md", "Where to look", "Backups")
    late = SOMEBODY | {"email": "late@example.com"}
    assert stage.ask("POST", "auth/signup", **late)[0] == 202
    stage.follow("restore.md", "Bring it back")
    stage.sign_in()
    assert stage.ask("POST", "auth/signin", **late)[0] == 401
    kept = re.sub(f"/{PACKAGE}[?]", f"/{PACKAGE}_before?", (stage.secrets / "migrator_database_url").read_text())
    with psycopg.connect(kept.strip()) as connection:
        assert connection.execute("select count(*) from chassis.accounts").fetchone() == (2 + len(SMOKE),)


def test_on_a_new_host_users_find_what_the_old_one_had(stage: Stage, key: x25519.Identity, tmp_path: Path) -> None:
    """With nothing of the old one but its backups, what gives access to them, and the key that opens them."""
    stage.follow("alerts.md", "Where to look", "Backups")
    tokens = stage.sign_in()
    backups = (stage.host.state / "backup.env").read_text()
    with new_host(tmp_path, backups, key, [f"new-{email}" for email in SMOKE]) as new:
        new.follow("restore.md", "A new host")
        new.host.deploy(new.host.release("first"))
        assert new.ask("POST", "auth/signin", **SOMEBODY)[0] == 401, "its database is another one"
        new.follow("restore.md", "Bring it back")
        new.sign_in()
        assert new.ask("GET", "auth/sessions", tokens["access_token"])[0] == 401


def test_a_release_is_deployed_and_the_one_before_comes_back(stage: Stage) -> None:
    stage.host.release("second")
    said = stage.follow("deploy.md")
    assert f"{image_of('second')} serves alone" in said
    assert stage.host.serving() == {"first": 20}


def test_no_block_was_left_out() -> None:
    """By the tests above, all of them."""
    assert FOLLOWED == {block for page in PAGES.glob("*.md") for block in written(page.read_text())}
