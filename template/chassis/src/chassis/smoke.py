"""`chassis smoke URL`: the service as its users meet it, over HTTP, with two accounts that share no tenant.

A check that is red does not keep the next from being made, unless nobody can sign in. Nothing stays: what is written is
deleted, and sessions are signed out; of an API key there is left that it was made and revoked. The accounts are an
operator's, APP_SMOKE_EMAILS and APP_SMOKE_PASSWORD. A service on this machine that lets anybody sign in at once may be
tried without them: then two accounts are made, and deleted from its database.
"""

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple, Self
from urllib.parse import urlsplit

import httpx
import psycopg
from psycopg.sql import SQL, Identifier

from chassis.failure import Failure
from chassis.http.reply import SECURITY_HEADERS
from chassis.module import Module, Trial
from chassis.settings import ConfigurationRefused
from chassis.settings_rules import is_loopback

if TYPE_CHECKING:
    from types import TracebackType

    from chassis.app import Service
    from chassis.settings import Settings

_PREFIX = "/v1"
_KEYS = f"{_PREFIX}/api-keys"
_SCOPE = "members:read"
_SCOPE_ALLOWS = f"{_PREFIX}/tenants/members"
_TIMEOUT_SECONDS = 15.0
_REVOKED_SECONDS = 10.0
"""Until every replica has heard that a key is revoked, and some to spare."""

# Every table that has rows of tenants, and those of accounts.
_TENANT_TABLES: LiteralString = """
    select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
    where c.relkind in ('r', 'p') and n.nspname !~ '^pg_'
"""
_FORGET: LiteralString = """
    delete from chassis.one_time_tokens where account_id = any(%(accounts)s);
    delete from chassis.accounts where id = any(%(accounts)s);
    delete from chassis.tenants where id = any(%(tenants)s);
"""


class Account(NamedTuple):
    email: str
    password: str


class Result(NamedTuple):
    """One check. `problem` is None when it is green."""

    check: str
    seconds: float
    problem: str | None


class Red(Exception):
    """What a check has against the service, in a line."""


def address(text: str) -> str:
    """`text`, if it says where a service is, and nothing else. Raises ValueError, in a line, if it does not."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ValueError("is not a URL: an address of IPv6 has brackets, a port is a number") from None
    if url.scheme not in ("http", "https") or not url.host or "%" in url.host:
        raise ValueError("must be a URL that begins with http:// or https:// and names a host")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("has a port that there is not")
    if url.userinfo:
        raise ValueError("must not name a user: APP_SMOKE_EMAILS and APP_SMOKE_PASSWORD say who signs in")
    if url.path != "/" or url.query or url.fragment:
        raise ValueError("must end with the host and its port: a service is asked from its root on")
    return text


def main(service: "Service", settings: "Settings", url: str, revision: str | None) -> int:
    """Make every check, and say of each how it went. Raises Failure when one is red."""
    given = settings.smoke_emails or settings.smoke_password
    signs_up = not given and not settings.deployed and is_loopback(urlsplit(url).hostname or "")
    accounts = new_accounts() if signs_up else given_accounts(settings)
    results = try_out(url, service.modules, accounts, signs_up=signs_up, revision=revision)
    for result in results:
        print(f"{'red' if result.problem else 'ok '} {result.check}{f': {result.problem}' if result.problem else ''}")
    if signs_up and not results[0].problem and not forget(settings, accounts):
        print(f"{accounts[0].email} and {accounts[1].email} stay: this service has another database than I can reach")
    if red := [result for result in results if result.problem]:
        raise Failure(f"{len(red)} of {len(results)} checks are red: {', '.join(result.check for result in red)}")
    return 0


def given_accounts(settings: "Settings") -> list[Account]:
    """The two accounts of the settings. Raises ConfigurationRefused without them."""
    if not settings.smoke_emails or not settings.smoke_password:
        raise ConfigurationRefused(
            ["APP_SMOKE_EMAILS and APP_SMOKE_PASSWORD are required: two accounts that `chassis smoke` may sign in with"]
        )
    return [Account(email, settings.smoke_password.get_secret_value()) for email in settings.smoke_emails]


def new_accounts() -> list[Account]:
    """Two that nobody has, at a domain that nobody can have (RFC 2606)."""
    return [Account(f"smoke-{secrets.token_hex(8)}@example.com", secrets.token_urlsafe(24)) for _ in range(2)]


def try_out(
    url: str, modules: Sequence[Module], accounts: Sequence[Account], *, signs_up: bool, revision: str | None
) -> list[Result]:
    """Make every check of the service at `url`. Raises nothing: what goes wrong is in the results."""
    trials = [module.trial for module in modules if module.trial is not None]
    results: list[Result] = []
    with Smoke(url, accounts, trials) as smoke:

        def check(name: str, make: Callable[[], None]) -> bool:
            started, problem = time.monotonic(), None
            try:
                make()
            except Red as red:
                problem = str(red)
            except httpx.HTTPError as error:
                problem = f"no answer: {' '.join(str(error).split()) or type(error).__name__}"
            except (ValueError, LookupError, TypeError) as error:
                problem = f"the answer is not what it should be ({type(error).__name__})"
            results.append(Result(name, time.monotonic() - started, problem))
            return problem is None

        check("alive and ready", smoke.ready)
        check("version", lambda: smoke.version(revision))
        check("headers", smoke.headers)
        check("authentication", smoke.authentication)
        if check("sign in", lambda: smoke.sign_in(signs_up=signs_up)):
            check("refused credentials", smoke.refused)
            check("write, read, delete: an API key", smoke.api_key)
            for trial in trials:
                check(f"write, read, delete: {trial.path}", lambda trial=trial: smoke.trial(trial))
            check("isolation", smoke.isolation)
            check("sign out", smoke.sign_out)
    return results


class Smoke:
    """The checks, and the two users they are made with: the first one writes, and the other one must not see it."""

    def __init__(self, url: str, accounts: Sequence[Account], trials: Sequence[Trial]) -> None:
        self._accounts = accounts
        self._trials = trials
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, follow_redirects=False)
        self._tokens: list[str] = []
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for each request

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: "type[BaseException] | BaseException | TracebackType | None") -> None:
        self._http.close()

    def ready(self) -> None:
        """The process is alive, and ready for traffic."""
        self._ask(200, "GET", "/livez")
        self._ask(200, "GET", "/readyz")

    def version(self, expected: str | None) -> None:
        """What runs is what was deployed."""
        found = str(self._ask(200, "GET", "/version").json()["revision"])
        if expected is not None and found != expected:
            raise Red(f"revision {found[:64]} runs, and not {expected}")

    def headers(self) -> None:
        """The security headers are on answers and on errors."""
        for path, status in (("/version", 200), (f"{_PREFIX}/smoke-of-nothing", 404), (_KEYS, 401)):
            answer = self._ask(status, "GET", path)
            for name, value in SECURITY_HEADERS:
                if answer.headers.get(name.decode()) != value.decode():
                    raise Red(f"GET {path}: the header {name.decode()} is not {value.decode()!r}")
            if not answer.headers.get("x-request-id"):
                raise Red(f"GET {path}: no header x-request-id")

    def authentication(self) -> None:
        """Who is nobody gets nowhere, and neither does who makes a token up."""
        for path in (_KEYS, _SCOPE_ALLOWS, *(_PREFIX + trial.path for trial in self._trials)):
            self._ask(401, "GET", path)
            for made_up in (secrets.token_hex(24), f"sk_{secrets.token_hex(24)}"):
                self._ask(401, "GET", path, token=made_up)
        self._ask(401, "POST", _KEYS, json={"name": "smoke", "scopes": [_SCOPE]})

    def sign_in(self, *, signs_up: bool) -> None:
        """Both accounts get in."""
        for account in self._accounts:
            if signs_up:
                self._ask(202, "POST", f"{_PREFIX}/auth/signup", json=account._asdict())
            answer = self._ask(200, "POST", f"{_PREFIX}/auth/signin", json=account._asdict())
            self._tokens.append(answer.json()["access_token"])

    def refused(self) -> None:
        """A wrong password and a forged token are not taken."""
        wrong = {"email": self._accounts[0].email, "password": secrets.token_urlsafe(24)}
        self._ask(401, "POST", f"{_PREFIX}/auth/signin", json=wrong)
        head, body, signature = self._tokens[0].split(".")
        forged = f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
        self._ask(401, "GET", _KEYS, token=forged)

    def api_key(self) -> None:
        """A key is made, is listed, works for what it may and nothing else, is not the other one's, and ends."""
        mine, theirs = self._tokens
        body = {"name": f"smoke {secrets.token_hex(4)}", "scopes": [_SCOPE], "expires_in_days": 1}
        made = self._ask(201, "POST", _KEYS, token=mine, json=body).json()
        path = f"{_KEYS}/{made['id']}"
        try:
            self._listed(_KEYS, made["id"], mine, theirs)
            self._ask(200, "GET", _SCOPE_ALLOWS, token=made["key"])
            self._ask(403, "GET", _KEYS, token=made["key"])
            self._ask(404, "DELETE", path, token=theirs)
        finally:
            self._ask(204, "DELETE", path, token=mine)
        deadline = time.monotonic() + _REVOKED_SECONDS
        while self._send("GET", _SCOPE_ALLOWS, token=made["key"]).status_code != 401:
            if time.monotonic() > deadline:
                raise Red(f"a revoked API key still works after {_REVOKED_SECONDS:.0f} seconds")
            time.sleep(0.5)

    def trial(self, trial: Trial) -> None:
        """What a module says may be made is made, read, hidden from the other one, and deleted."""
        mine, theirs = self._tokens
        path = _PREFIX + trial.path
        made = self._ask(201, "POST", path, token=mine, json=trial.body(f"smoke-{secrets.token_hex(8)}")).json()
        one = f"{path}/{made['id']}"
        try:
            self._ask(200, "GET", one, token=mine)
            self._listed(path, made["id"], mine, theirs)
            self._ask(404, "GET", one, token=theirs)
            self._ask(404, "DELETE", one, token=theirs)
        finally:
            self._ask(204, "DELETE", one, token=mine)
        self._ask(404, "GET", one, token=mine)

    def isolation(self) -> None:
        """Neither account is a member of a tenant of the other's, and neither sees who is."""
        mine, theirs = (
            {one["id"] for one in self._ask(200, "GET", f"{_PREFIX}/tenants", token=token).json()["items"]}
            for token in self._tokens
        )
        if mine & theirs:
            raise Red("the two accounts share a tenant: use two that do not, or nothing can be told from them")
        members, others = (
            {one["account_id"] for one in self._ask(200, "GET", _SCOPE_ALLOWS, token=token).json()["items"]}
            for token in self._tokens
        )
        if members & others:
            raise Red("one tenant sees members of the other")

    def sign_out(self) -> None:
        """Sessions end."""
        for token in self._tokens:
            self._ask(204, "POST", f"{_PREFIX}/auth/signout", token=token)

    def _listed(self, path: str, made: str, mine: str, theirs: str) -> None:
        for token, expected in ((mine, True), (theirs, False)):
            items = self._ask(200, "GET", path, token=token).json()["items"]
            if any(item["id"] == made for item in items) != expected:
                raise Red(f"GET {path} {'lacks what was just made' if expected else 'shows what another tenant made'}")

    def _ask(self, status: int, method: str, path: str, *, token: str = "", json: object = None) -> httpx.Response:
        """Send a request. Raises Red unless the answer has that status."""
        answer = self._send(method, path, token=token, json=json)
        if answer.status_code != status:
            raise Red(f"{method} {path}: {_said(answer)}, and not {status}")
        return answer

    def _send(self, method: str, path: str, *, token: str = "", json: object = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if method == "POST":
            headers["Idempotency-Key"] = secrets.token_hex(16)
        return self._http.request(method, path, headers=headers, json=json)


def _said(answer: httpx.Response) -> str:
    """The status, and the code of the problem if it is one of ours."""
    code: Any = None
    with suppress(ValueError, AttributeError):
        code = answer.json().get("code")
    return f"{answer.status_code} ({code[:50]})" if isinstance(code, str) else str(answer.status_code)


def forget(settings: "Settings", accounts: Sequence[Account]) -> bool:
    """Delete accounts that were made for this, and all of their tenants' rows, from the database of development.

    Returns whether they are gone. Foreign keys and triggers are asked for nothing: that needs a superuser, whom no
    service has anywhere else.
    """
    from chassis.dev.database import with_database

    if settings.migrator_database_url is None and settings.database_url is None and not settings.deployed:
        with suppress(Failure):
            settings = with_database(settings)
    if settings.migrator_database_url is None:
        return False
    emails = [account.email for account in accounts]
    try:
        with psycopg.connect(settings.migrator_database_url.get_secret_value(), connect_timeout=5) as connection:
            connection.execute("set local session_replication_role = replica")
            found = connection.execute(
                "select array_agg(distinct a.id), array_agg(distinct m.tenant_id) from chassis.accounts a "
                "left join chassis.memberships m on m.account_id = a.id where a.email = any(%s)",
                [emails],
            ).fetchone()
            if found is None or found[0] is None:
                return False
            rows = {"accounts": found[0], "tenants": found[1]}
            for schema, name in connection.execute(_TENANT_TABLES).fetchall():
                delete = SQL("delete from {} where tenant_id = any(%s)").format(Identifier(schema, name))
                connection.execute(delete, [rows["tenants"]])
            for statement in _FORGET.split(";")[:-1]:
                connection.execute(statement, rows)
    except psycopg.Error:
        return False
    return True
