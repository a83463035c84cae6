"""What somebody would try who wants what another tenant has, made from the OpenAPI document.

The victim owns a tenant with all that the API can make. A stranger attacks, who owns another one; and so does the
victim itself with a token for its other tenant, for who asks is not the same as where.
"""

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import psycopg
from api_document import HINT, ApiClient, Document, NoObject, Operation, Party, Schema, Sent, told, unknown
from prometheus_client import REGISTRY

from chassis.app import Service

HOME, ELSEWHERE, STRANGERS, VICTIM, STRANGER = (uuid4() for _ in range(5))
PEOPLE = f"""
    create temporary table people as
        select case n when 0 then '{VICTIM}' when 1 then '{STRANGER}' else gen_random_uuid() end::uuid as id,
               n || '@example.org' as email, n * interval '1 minute' as later, n
        from generate_series(0, 9) as n;
    insert into chassis.accounts (id, email, email_canonical, password_hash) select id, email, email, '' from people;
    insert into chassis.tenants (id, name) values ('{HOME}', 'a'), ('{ELSEWHERE}', 'b'), ('{STRANGERS}', 'c');
    insert into chassis.memberships (tenant_id, account_id, role) values
        ('{HOME}', '{VICTIM}', 'owner'), ('{ELSEWHERE}', '{VICTIM}', 'owner'), ('{STRANGERS}', '{STRANGER}', 'owner');
    insert into chassis.memberships (tenant_id, account_id, role, created_at)
        select '{HOME}', id, 'member', now() + later from people where n > 1;
    insert into chassis.sessions (account_id, tenant_id, token_hash, expires_at)
        select '{VICTIM}', '{HOME}', sha256(convert_to(email, 'UTF8')), now() + interval '1 day' from people;
"""
SESSION = """
    insert into chassis.sessions (id, account_id, tenant_id, token_hash, expires_at)
    values (%s, %s, %s, %s, now() + interval '1 day')
"""
TABLES = """
    select oid::regclass::text, exists (select from pg_policy where polrelid = c.oid),
           exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')
    from pg_class c
    where relkind = 'r' and relpersistence = 'p' and relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
      and oid <> 'chassis.revocations'::regclass -- it repeats ids of others
"""
SAMPLE_ROWS = 3
EXTRAS = ("tenant_id", "id", "role", "status", "created_at", "created_by", "is_admin", "version")
MOST_EXTRAS = 15  # an answer lists 20 errors
MARK = "for the service to decide"
PERSONAL = frozenset({"account:manage"})
"""What this opens is a person's, in whichever tenant they act."""
BY_CHANCE = {"idempotency.forget"}
"""Queries that run for some requests and not for others, whoever sends them."""
COUNT = "db_query_duration_seconds_count"

_QUERIES = REGISTRY.restricted_registry([COUNT])
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Outcome(NamedTuple):
    """What an attacker sees and causes, without what differs between any two requests."""

    status: int
    body: str
    work: Counter[str]
    """How often each named query ran."""
    replayed: bool


class Attacks:
    """Attacks on a service that has started. What they get is in `found`, a sentence for each."""

    def __init__(self, service: Service, client: httpx.AsyncClient, superuser: psycopg.Connection[Any]) -> None:
        self._service = service
        self._superuser = superuser
        self._api = ApiClient(Document(service), client)
        self._api.document.known["refresh_token"] = self._refresh_token
        self._victim = self._party("the victim", VICTIM, HOME)
        self._stranger = self._party("a stranger", STRANGER, STRANGERS)
        self._itself = self._party("the victim with a token for another tenant", VICTIM, ELSEWHERE)
        self._secrets = {str(HOME)}
        """Ids that only the victim's tenant knows."""
        self._one_of_each: dict[str, str] = {}
        """Path of a collection to something in it."""
        self._known: set[str] = set()
        """Ids that every tenant may know."""
        self._rows_of_victim = self._rows_of_all = ""
        self.found: list[str] = []

    async def run(self, attack: Callable[[Operation], Awaitable[None]]) -> list[str]:
        """Give the victim something to lose, then attack every operation; returns the sentences."""
        self._superuser.execute(PEOPLE.encode())
        for module in self._service.modules:
            if module.sample is not None:
                async with self._service.database.unit_of_work(HOME) as db:
                    await db.run(module.sample, SAMPLE_ROWS)
        tables = self._superuser.execute(TABLES.encode()).fetchall()
        of_tenants = [(table, "tenant_id") for table, _, has_tenant in tables if has_tenant]
        self._rows_of_victim = " union all ".join(
            f"select '{table}', md5(string_agg(t::text, ',' order by t::text)) from {table} t where {column} = '{HOME}'"
            for table, column in (*of_tenants, ("chassis.tenants", "id"))
        )
        self._rows_of_all = " union all ".join(
            f"select t::text from {table} t" for table, closed, has_tenant in tables if not closed and not has_tenant
        )
        operations = self._api.document.operations
        lists = [one for one in operations.values() if one.method == "GET" and one.permissions and not one.ids]
        for listing in lists:
            if adding := operations.get(("POST", listing.path)):
                for _ in range(2):
                    await self._api.send(self._victim, adding)
        for listing in lists:
            self._keep_secret((await self._api.send(self._victim, listing)).text)
        for operation in operations.values():
            try:
                await attack(operation)
            except NoObject as reason:
                self.found.append(f"{operation}: the test has nothing to attack: {reason}. {HINT}")
        return self.found

    async def by_id(self, operation: Operation) -> None:
        """Name what is another tenant's in the path: in the tenant's own place, and in one's own."""
        if not operation.permissions:
            return
        for known, attacker in product(range(len(operation.ids)), self._attackers(operation)):
            theirs = await self._objects(self._victim, operation)
            if self._known.issuperset(map(str, theirs.values())):
                return
            own = dict(list((await self._objects(attacker, operation)).items())[:known]) if known else {}
            nobodys = {name: unknown(value) for name, value in theirs.items()}
            outcome = await self._compare(attacker, operation, Sent({**theirs, **own}), Sent({**nobodys, **own}))
            if outcome.status != 404:
                self._report(operation, attacker, f"gets {outcome.status} for what is the victim's, instead of 404")
        if operation.ids:  # or the 404 means nothing
            answer = await self._api.send(self._victim, operation, Sent(await self._objects(self._victim, operation)))
            if answer.status_code == 404 or answer.status_code >= 500:
                self._report(operation, self._victim, f"gets {told(answer)} for its own. {HINT}")

    async def by_reference(self, operation: Operation) -> None:
        """Name what is another tenant's in a filter or a body."""
        if not self._api.naming(operation, {}, ""):
            return
        for theirs, attacker in product(await self._kinds(), self._attackers(operation)):
            own = await self._objects(attacker, operation)
            naming = (self._api.naming(operation, own, named) for named in (theirs, str(uuid4())))
            for foreign, nobodys in zip(*naming, strict=True):
                await self._compare(attacker, operation, foreign, nobodys)

    async def by_cursor(self, operation: Operation) -> None:
        """Go on in another tenant's list."""
        if not operation.permissions or "cursor" not in operation.names("query"):
            return
        ids = await self._objects(self._victim, operation)
        page = await self._api.send(self._victim, operation, Sent(ids, {"limit": 1}))
        cursor = page.json().get("next") if page.is_success else None
        if not cursor:
            raise NoObject(f"the victim gets no cursor but {told(page)}")
        for attacker in (self._stranger, self._itself):
            foreign, forged = (Sent(ids, {"limit": 1, "cursor": one}) for one in (cursor, "A" * len(cursor)))
            outcome = await self._compare(attacker, operation, foreign, forged)
            if outcome.status != 400:
                self._report(operation, attacker, f"gets {outcome.status} for the victim's cursor, instead of 400")

    async def by_key(self, operation: Operation) -> None:
        """Send another tenant's Idempotency-Key, with the same request and with another one."""
        if "idempotency-key" not in operation.names("header"):
            return
        for again, attacker in product((True, False), self._attackers(operation)):
            ids, body = await self._objects(self._victim, operation), self._api.body(operation)
            used, fresh = ({"idempotency-key": str(uuid4())} for _ in range(2))
            first = await self._api.send(self._victim, operation, Sent(ids, headers=used, body=body))
            if not first.is_success:
                raise NoObject(f"the victim gets {told(first)}")
            self._keep_secret(first.text)
            foreign = Sent(ids, headers=used, body=body if again else self._api.body(operation))
            outcome = await self._compare(attacker, operation, foreign, Sent(ids, headers=fresh))
            if outcome.replayed or outcome.status != (404 if operation.ids else first.status_code):
                self._report(operation, attacker, f"gets {outcome.status} for the victim's key, as if it were used")

    async def by_token(self, operation: Operation) -> None:
        """Do what a token is for, and see whether it reaches further than its own tenant."""
        if not operation.permissions or operation.ids:
            return
        for attacker in self._attackers(operation):
            outcome = await self._outcome(attacker, operation, Sent())
            if operation.method == "GET" and outcome.status in {401, 403, 422}:
                raise NoObject(f"{attacker.name} gets {outcome.status} {outcome.body}")

    async def by_field(self, operation: Operation) -> None:
        """Send what only the service may decide, in every object of the body."""
        answered = self._api.document.resolved(operation.answer).get("properties", {})

        def with_extras(_: str, schema: Schema, example: Any) -> Any:
            names = sorted({*EXTRAS, *answered} - schema.get("properties", {}).keys())[:MOST_EXTRAS]
            return {**dict.fromkeys(names, MARK), **example} if "properties" in schema else None

        for body in self._api.document.altered("body", operation.body or {}, with_extras):
            ids = await self._objects(self._victim, operation)
            answer = await self._api.send(self._victim, operation, Sent(ids, body=body))
            errors = answer.json().get("errors", ()) if answer.status_code == 422 else ()
            if [error["code"] for error in errors].count("extra_forbidden") < json.dumps(body).count(MARK):
                self._report(operation, self._victim, f"sends {body} and gets {answer.status_code}")

    async def _compare(self, attacker: Party, operation: Operation, foreign: Sent, unknown: Sent) -> Outcome:
        """What comes of naming a foreign thing: a fault when it is not what comes of naming none."""
        outcome = await self._outcome(attacker, operation, foreign)
        other = await self._outcome(attacker, operation, unknown)
        if outcome != other:
            self._report(operation, attacker, f"can tell the victim's from what does not exist: {outcome}, {other}")
        return outcome

    async def _outcome(self, attacker: Party, operation: Operation, sent: Sent) -> Outcome:
        rows, ran = self._rows(), _queries_run()
        answer = await self._api.send(attacker, operation, sent)
        await self._service.identity.finish()
        work = _queries_run() - ran
        if changed := {table for table, _ in self._rows() ^ rows}:
            self._report(operation, attacker, f"changes the victim's rows in {', '.join(sorted(changed))}")
        if self._secrets & set(_UUID.findall(answer.text)) - set(_UUID.findall(repr(sent))):
            self._report(operation, attacker, f"is shown the victim's: {answer.text}")
        told = operation.method == "GET" or not answer.is_success
        body = _UUID.sub("", re.sub(r'"request_id":"[^"]*"', "", answer.text)) if told else ""
        return Outcome(answer.status_code, body, work, "idempotency-replayed" in answer.headers)

    async def _objects(self, who: Party, operation: Operation) -> dict[str, Any]:
        ids = await self._api.objects(who, operation)
        if who is self._victim:
            self._keep_secret(repr(ids))
        return ids

    async def _kinds(self) -> list[str]:
        """The victim's tenant, and one of everything in it."""
        if not self._one_of_each:
            self._one_of_each[""] = str(HOME)
            for operation in self._api.document.operations.values():
                if operation.ids and operation.permissions:
                    with suppress(NoObject):  # which `by_id` reports
                        *_, last = (await self._objects(self._victim, operation)).values()
                        self._one_of_each[operation.path.rpartition("/{")[0]] = str(last)
        return [one for one in self._one_of_each.values() if one not in self._known]

    def _attackers(self, operation: Operation) -> list[Party]:
        """Those to whom it is another tenant's."""
        personal = operation.permissions <= PERSONAL
        return [self._stranger] if personal else [self._stranger, self._itself]

    def _party(self, name: str, account: UUID, tenant: UUID) -> Party:
        issue = self._service.identity.access_tokens.issue
        token = issue(subject=account, tenant_id=tenant, role="owner", session_id=uuid4())
        return Party(name, {"authorization": f"Bearer {token}"})

    def _refresh_token(self) -> str:
        """One of the stranger's, which is good once."""
        session = uuid4()
        token, token_hash = self._service.identity.refresh_tokens.new(session)
        self._superuser.execute(SESSION, [session, STRANGER, STRANGERS, token_hash])
        return token

    def _keep_secret(self, told: str) -> None:
        """Remember the ids that the victim was told, but for those that everybody may know."""
        shared = self._superuser.execute(self._rows_of_all.encode()).fetchall()
        known = {str(VICTIM), str(ELSEWHERE), *_UUID.findall(repr(shared))}
        self._secrets |= set(_UUID.findall(told)) - known
        self._known |= known

    def _rows(self) -> set[tuple[Any, ...]]:
        """A digest of what each table holds of the victim's tenant."""
        return set(self._superuser.execute(self._rows_of_victim.encode()).fetchall())

    def _report(self, operation: Operation, who: Party, what: str) -> None:
        self.found.append(f"{operation}: {who.name} {what}")


def _queries_run() -> Counter[str]:
    """How often each named query has run in this process."""
    samples = [sample for metric in _QUERIES.collect() for sample in metric.samples if sample.name == COUNT]
    return Counter({one.labels["query"]: int(one.value) for one in samples if one.labels["query"] not in BY_CHANCE})
