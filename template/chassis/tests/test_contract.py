"""The service keeps what its OpenAPI document says, whatever is sent to it: schemathesis, with every check it has.

It finds all routes by itself, those of your modules too. What does not follow from a handler's signature is declared
beside it: `@router.post("/things/merge", responses={404: {}})`. A request that the schema allows is refused with 403,
404 or 409; or the schema has to say more. `make fuzz` looks for longer, from another seed each time.

schemathesis loads this file too, for what is at its end.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4, uuid5

import httpx
import psycopg
import pytest
import schemathesis
from schemathesis.openapi.checks import MissingHeaderNotRejected, RejectedPositiveData

from chassis.app import Service, load_app
from chassis.http.preconditions import ETAG
from chassis.http.reply import SECURITY_HEADERS
from chassis.testing import RunningServer, TestDatabase

Statuses = dict[str, set[int]]
"""Of each operation, the statuses that it answered with."""

SMALL = "--generation-deterministic --max-examples=5"

HOSTILE = [
    "' or 1=1; drop table orders; --", "1) union select null, version()--", "$1", "%s%n{0}", "{{7*7}}${7*7}<%= 7*7 %>",
    "../../../../etc/passwd", "..\\..\\x", "file:///etc/passwd", "`id`; $(id) | id", "=cmd|' /C calc'!A0", "\x1b[31m",
    "a\r\nSet-Cookie: a=b", "<script>alert(1)</script>", "\u202etxt.exe", "\ufeff\u200b\u2028", "\ufdfa" * 18,
    "a\u0300\u0301" * 9, "\U0001f468\u200d\U0001f469", "\x00", "a\x00b", "null", "undefined", "NaN", "1e400", "-0",
    "9" * 60, "0x7f", "__proto__",
]  # fmt: skip

CONFIG = f"""
[generation.dictionaries.string]
dictionary = "hostile"
probability = 0.5
[dictionaries.hostile]
values = {json.dumps(HOSTILE, ensure_ascii=False)}
"""

PERSON = """
    with account as (
        insert into chassis.accounts (id, email, email_canonical, password_hash)
        values (%(id)s, %(email)s, %(email)s, '')
    ), tenant as (
        insert into chassis.tenants (id, name) values (%(tenant)s, 'Tenant') on conflict do nothing
    ), sessions as (
        insert into chassis.sessions (account_id, tenant_id, token_hash, user_agent, expires_at)
        select %(id)s, %(tenant)s, '', 'curl', now() + interval '1 day' from generate_series(1, 9)
    )
    insert into chassis.memberships (tenant_id, account_id, role) values (%(tenant)s, %(id)s, %(role)s)
"""


@pytest.fixture
def tenant(database: TestDatabase, tenant_id: UUID) -> UUID:
    """The test's tenant, with a member in each role, and with rows in the tables of all modules."""
    with psycopg.connect(database.superuser) as connection:
        connection.execute("select set_config('app.tenant_id', %s, false)", [str(tenant_id)])
        for role in ("owner", "admin", "member", "viewer"):
            person = {"tenant": tenant_id, "id": uuid5(tenant_id, role), "role": role, "email": f"{role}@example.com"}
            connection.execute(PERSON.encode(), person)
        for module in load_app().modules:
            if module.sample is not None:
                connection.execute(module.sample.sql.replace("$1", "50").encode())
    return tenant_id


@pytest.mark.parametrize("role", ["member", "owner"])
def test_every_answer_is_one_that_is_documented(
    role: str, tenant: UUID, server: RunningServer, as_principal: Callable[..., dict[str, str]], tmp_path: Path
):
    me = as_principal(role)
    statuses = fuzzed(server, me["Authorization"].removeprefix("Bearer "), tmp_path)
    assert httpx.get(f"{server.url}/v1/auth/sessions", headers=me).status_code == 200, "the token did not last"
    document = httpx.get(f"{server.url}/openapi.json").json()
    operations = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    if "FUZZ" not in os.environ:
        assert operations <= statuses.keys()
    permitted = [statuses[operation] for operation in operations & statuses.keys() if 403 not in statuses[operation]]
    welcome = [one for one in permitted if min(one) < 300]
    assert len(welcome) >= len(permitted) / 2, statuses


@pytest.mark.anyio
async def test_hostile_text_is_refused_or_kept_as_it_is(
    app: Service, client: httpx.AsyncClient, tenant: UUID, as_principal: Callable[..., dict[str, str]]
):
    """Each text in each field of text of each body, one at a time."""
    from api_document import ApiClient, Document, Party, Schema, Sent  # not there when schemathesis loads this file

    document = Document(app)
    api, owner = ApiClient(document, client), Party("the owner", as_principal("owner"))
    kept = 0
    for operation in document.operations.values():
        for text in HOSTILE:

            def instead(_: str, schema: Schema, __: Any, text: str = text) -> str | None:
                return text if schema.get("type") == "string" else None

            for body in document.altered("body", operation.body or {}, instead):
                answer = await api.send(owner, operation, Sent(body=body))
                assert answer.status_code < 500, f"{operation} with {body}: {answer.text}"
                returned: dict[str, Any] = answer.json() if answer.is_success and answer.content else {}
                for name in returned.keys() & {name for name, sent in body.items() if sent == text}:
                    assert returned[name] == text, f"{operation} changed {name}"
                    kept += 1
    assert kept > 0


def fuzzed(server: RunningServer, token: str, folder: Path) -> Statuses:
    """What the whole API answers to whoever has that token, when no check fails."""
    longer = os.environ.get("FUZZ")
    config, report = folder / "schemathesis.toml", folder / "report.ndjson"
    config.write_text(CONFIG + f'[auth.openapi.HTTPBearer]\nbearer = "{token}"\n')
    run = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), f"--config-file={config}"),
            *("run", f"{server.url}/openapi.json", "--checks=all", "--continue-on-failure"),
            *("--no-color", "--warnings=off", "--suppress-health-check=all", f"--report-ndjson-path={report}"),
            *(longer or SMALL).split(),
        ],
        env=os.environ | {"SCHEMATHESIS_HOOKS": __file__},
        cwd=folder,
        stdout=None if longer else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    statuses: Statuses = defaultdict(set)
    with report.open() as events:
        for event in map(json.loads, events):
            recorded = event.get("ScenarioFinished", {}).get("recorder", {})
            for key, interaction in recorded.get("interactions", {}).items():
                case = recorded["cases"][key]["value"]
                if response := interaction["response"]:
                    statuses[f"{case['method']} {case['path']}"].add(response["status_code"])
    return statuses


# From here on for schemathesis.

UNFORESEEABLE = {
    "address_refused", "cursor_malformed", "idempotency_key_reused", "password_guessable", "scope_refused",
    "token_refused", "version_changed",
}  # fmt: skip
"""Codes of problems with what a schema cannot tell: whether this service gave it, somebody would guess it, or its
domain is one of those that are set aside (RFC 6761)."""

STANDARD_HEADERS = {"allow", "connection", "content-length", "content-type", "date"} | {
    name.decode() for name, _ in SECURITY_HEADERS
}


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType]  # any function will do
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Send what a client would: new keys, a version that has been there, and whole numbers without a fraction.

    For JSON Schema 1.0 is an integer; for a service that is strict it is not.
    """
    del context, kwargs
    case.body = whole(case.body)
    headers: dict[str, str] = case.headers or {}
    if re.fullmatch("[A-Za-z0-9._:-]{1,255}", headers.get("idempotency-key", "")):
        headers["idempotency-key"] = str(uuid4())
    if re.fullmatch(ETAG, headers.get("if-match", "")):
        headers["if-match"] = '"1"'


def whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: whole(member) for name, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [whole(item) for item in cast("list[Any]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType]  # any function will do
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether it is one: two checks do not know all that may be."""
    del context
    if isinstance(failure, MissingHeaderNotRejected):
        return response.status_code != 428  # RFC 6585, section 3: the status for just this
    if isinstance(failure, RejectedPositiveData):
        refused = r"\x00" in repr((case.body, case.query))  # NUL, which no schema can forbid
        return response.json()["code"] not in UNFORESEEABLE and not refused
    return True


@schemathesis.check
def headers_are_documented(ctx: Any, response: Any, case: Any) -> None:
    """schemathesis looks for headers that are missing; this, for those that nobody was told of."""
    del ctx
    documented = case.operation.responses.find_by_status_code(response.status_code)
    if documented is not None:
        told = {name.lower() for name, _ in documented.headers.items()} | STANDARD_HEADERS
        assert set(response.headers) <= told, f"not documented: {sorted(set(response.headers) - told)}"


@schemathesis.check
def text_is_kept(ctx: Any, response: Any, case: Any) -> None:
    """What was stored is returned as it was sent, whatever it looks like. Addresses have a canonical form."""
    del ctx
    if isinstance(case.body, dict) and response.status_code in (200, 201):
        returned = response.json()
        for name, sent in cast("dict[str, Any]", case.body).items():
            if isinstance(sent, str) and "@" not in sent and name in returned:
                assert returned[name] == sent, f"{name} was changed"
