"""The smoke test, against the service as it runs in production, and against it with something broken in it."""

import re
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psycopg
import pytest

from chassis import smoke
from chassis.app import load_app
from chassis.cli import main
from chassis.failure import Failure
from chassis.settings import ConfigurationRefused, Settings, load
from chassis.testing import WIDE_LIMITS, RunningServer, TestDatabase

Serve = Callable[..., RunningServer]
Sql = Callable[[str], list[tuple[object, ...]]]

# What this may leave: that somebody signed in and out, and which tokens must not be believed any more.
RECORDS = "audit|idempotency_keys|revocations|sessions|signing_keys"


@pytest.fixture
def superuser(database: TestDatabase) -> Sql:
    """Run SQL as the superuser."""

    def run(statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(database.superuser) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def red(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, str]]:
    """`red(url, revision="…")`: the checks that are red, each with its reason."""

    def run(url: str, **more: str) -> dict[str, str]:
        with pytest.raises(Failure, match=r"^\d+ of \d+ checks are red: [^\n]*$"):
            smoke.main(load_app(), settings, url, more.get("revision"))
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok ", "red"))]
        assert lines
        found = (line.removeprefix("red ").rpartition(": ") for line in lines if line.startswith("red "))
        return {line[0]: line[2] for line in found}

    return run


def counts(superuser: Sql) -> dict[object, object]:
    """The rows of every table."""
    tables = superuser(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'chassis') "
        f"and tablename !~ '^({RECORDS})$'"
    )
    return {name: superuser(f"select count(*) from {name}") for (name,) in tables}


def sabotage(tmp_path: Path, code: str) -> dict[str, str]:
    """The variable that has every Python process run `code` first."""
    folder = tmp_path / "sabotage"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def test_a_good_service_is_green_and_nothing_is_left_behind(
    serve: Serve, settings: Settings, superuser: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(APP_REVISION="abc123")
    before = counts(superuser)
    assert smoke.main(load_app(), settings, server.url, "abc123") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok  ") for line in lines), lines
    assert [line for line in lines if "write, read, delete" in line]
    assert counts(superuser) == before


def test_with_accounts_of_an_operator_it_makes_none(serve: Serve, environment: dict[str, str], superuser: Sql) -> None:
    server = serve()
    accounts = smoke.new_accounts()
    password = accounts[0].password
    with smoke.Smoke(server.url, [account._replace(password=password) for account in accounts], []) as first:
        first.sign_in(signs_up=True)
    before = counts(superuser)
    given = {"APP_SMOKE_EMAILS": ",".join(account.email for account in accounts), "APP_SMOKE_PASSWORD": password}
    settings = load(load_app().settings_class, environment | given)
    assert smoke.main(load_app(), settings, server.url, None) == 0
    after = counts(superuser)
    keys = "chassis.api_keys"
    assert {name: after[name] for name in after if name != keys} == {
        name: before[name] for name in before if name != keys
    }
    assert superuser(f"select count(*) from {keys} where revoked_at is null") == [(0,)]
    assert superuser("select count(*) from chassis.sessions where revoked_at is null") == [
        (2,)
    ]  # of making the accounts


def test_twice_in_a_row_it_stays_within_the_limits_of_production(serve: Serve, settings: Settings) -> None:
    defaults = {name: str(type(settings).model_fields[name[4:].lower()].default) for name in WIDE_LIMITS}
    server = serve(**defaults)
    assert [smoke.main(load_app(), settings, server.url, None) for _ in range(2)] == [0, 0]


def test_elsewhere_than_here_it_needs_accounts(settings: Settings) -> None:
    with pytest.raises(ConfigurationRefused, match="APP_SMOKE_EMAILS and APP_SMOKE_PASSWORD are required"):
        smoke.main(load_app(), settings, "https://api.example.com", None)
    half = settings.model_copy(update={"smoke_emails": ("a@example.com", "b@example.com")})
    deployed = settings.model_copy(update={"environment": "staging"})
    for refused in (half, deployed):
        with pytest.raises(ConfigurationRefused, match="APP_SMOKE_EMAILS and APP_SMOKE_PASSWORD are required"):
            smoke.main(load_app(), refused, "http://127.0.0.1:1", None)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        *((url, "begins with http:// or https://") for url in ("ftp://example.com", "example.com", "http://", "")),
        *((url, "begins with http:// or https://") for url in ("example.com:443", "//example.com", "http://a b")),
        *((url, "is not a URL") for url in ("http://::1:8000", "http://[::1", "http://example.com:port")),
        *((f"http://127.0.0.1:{port}", "has a port that there is not") for port in (0, 65536)),
        *((f"http://{who}@127.0.0.1:1", "must not name a user") for who in ("somebody", "a:hunter2")),
        *((f"http://127.0.0.1:1{end}", "must end with the host") for end in ("/v1", "/v1/", "?a=b", "/#a", "//")),
    ],
)
def test_what_does_not_say_where_a_service_is_is_wrong_usage(
    url: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["smoke", url])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.splitlines()[-1].startswith("chassis smoke: error: argument URL: ")
    assert reason in said
    assert "hunter2" not in said


def test_an_address_may_end_with_a_slash(serve: Serve, settings: Settings) -> None:
    url = smoke.address(f"HTTP://localhost:{serve().port}/")
    assert smoke.main(load_app(), settings, url, None) == 0


def test_an_address_may_be_of_ipv6(red: Callable[..., dict[str, str]]) -> None:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    with Server(("::1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = smoke.address(f"http://[::1]:{server.server_port}")
        assert red(url)["alive and ready: GET /livez"] == "501, and not 200"
        server.shutdown()


def test_a_service_that_is_not_there_is_red(red: Callable[..., dict[str, str]]) -> None:
    assert "refused" in red("http://127.0.0.1:1")["alive and ready: no answer"]


# Six that are broken.


def test_authentication_that_is_off_is_red(serve: Serve, red: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    code = """
from uuid import UUID
from chassis.http import exchange
somebody = exchange.Principal(UUID(int=1), UUID(int=1), "owner", frozenset())
exchange.check = lambda found, permission: found or somebody
"""
    server = serve(**sabotage(tmp_path, code))
    assert any(check.startswith("authentication") for check in red(server.url))


def test_row_level_security_that_is_off_is_red(
    serve: Serve, red: Callable[..., dict[str, str]], superuser: Sql
) -> None:
    if not [module for module in load_app().modules if module.trial is not None]:
        pytest.skip("no module of this service has a trial: no query of the chassis relies on the policies alone")
    tables = superuser("select format('%I.%I', schemaname, tablename) from pg_tables where rowsecurity")
    superuser(";".join(f"alter table {name} disable row level security" for (name,) in tables))
    assert any("shows what another tenant made" in f"{check}: {why}" for check, why in red(serve().url).items())


def test_a_database_that_is_read_only_is_red(
    serve: Serve, red: Callable[..., dict[str, str]], superuser: Sql, database: TestDatabase
) -> None:
    server = serve()
    superuser(f"alter database {database.name} set default_transaction_read_only = on")
    superuser(
        f"select pg_terminate_backend(pid) from pg_stat_activity "
        f"where datname = '{database.name}' and pid <> pg_backend_pid()"
    )
    assert any(check.startswith("sign in") for check in red(server.url))


def test_a_write_that_fails_is_red(serve: Serve, red: Callable[..., dict[str, str]], superuser: Sql) -> None:
    superuser("create function no() returns trigger language plpgsql as $$ begin raise 'no'; end $$")
    superuser("create trigger no before insert on chassis.api_keys for each row execute function no()")
    found = red(serve().url)
    assert len(found) == 1
    assert re.match(r"write, read, delete: an API key: .*", next(iter(found)))
    assert "500 (internal_error), and not 201" in next(iter(found.values()))


def test_another_version_than_was_deployed_is_red(serve: Serve, red: Callable[..., dict[str, str]]) -> None:
    server = serve(APP_REVISION="abc123")
    assert red(server.url, revision="def456") == {"version": "revision abc123 runs, and not def456"}


def test_headers_that_are_missing_are_red(serve: Serve, red: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    code = "from chassis.http import edge\nedge.SECURITY_HEADERS = edge.SECURITY_HEADERS[1:]\n"
    server = serve(**sabotage(tmp_path, code))
    found = red(server.url)
    assert [check.partition(":")[0] for check in found] == ["headers"]
    assert "x-content-type-options" in next(iter(found.values()))
