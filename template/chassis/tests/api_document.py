"""The OpenAPI document of a service, and requests made from it.

What a schema does not say cannot be guessed: a field that takes only some of what its schema allows needs an example,
and so does a parameter of a path that names no object. `HINT` tells so whoever adds one.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import httpx

from chassis.app import Service

Schema = dict[str, Any]
Alter = Callable[[str, Schema, Any], Any]
"""Takes a name, its schema and an example of it; returns what is sent instead, or None to leave it as it is."""

HINT = (
    "Give what it takes `Field(examples=[…])` that it accepts, or its module a `sample` that fills the list;"
    " a parameter of the path that names no object has `Path(examples=[…])`."
)

_numbers = count(1)
_TEXTS: dict[str, Callable[[], str]] = {
    "uuid": lambda: str(uuid4()),
    "email": lambda: f"{next(_numbers)}@example.com",
    "uri": lambda: "https://example.com/",
    "date": lambda: datetime.now(UTC).date().isoformat(),
    "time": lambda: "12:00:00Z",
    "date-time": lambda: datetime.now(UTC).isoformat(),
}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    ids: list[str]
    """The parameters of the path that name objects, in their order."""
    parameters: list[Schema]
    body: Schema | None
    answer: Schema
    """Of success; empty where nothing is answered."""
    permissions: frozenset[str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def takes(self, place: str) -> list[Schema]:
        """The parameters in `path`, `query` or `header`."""
        return [parameter for parameter in self.parameters if parameter["in"] == place]

    def names(self, place: str) -> list[str]:
        return [parameter["name"].lower() for parameter in self.takes(place)]


class Document:
    """Every operation of a service, and examples of what its schemas allow."""

    def __init__(self, service: Service) -> None:
        document = service.openapi()
        self.known: dict[str, Callable[[], Any]] = {}
        """What to send in fields of these names: what no schema can say."""
        self._schemas: dict[str, Schema] = document.get("components", {}).get("schemas", {})
        permissions = {(access.method, access.path): access.permissions for access in service.access()}
        self.operations = {
            (method.upper(), path): Operation(
                method.upper(),
                path,
                list(_ids(path, described, document["paths"])),
                described.get("parameters", []),
                _json(described.get("requestBody", {})),
                _json(_success(described)) or {},
                permissions[method.upper(), path],
            )
            for path, methods in document["paths"].items()
            for method, described in methods.items()
        }

    def example(self, schema: Schema) -> Any:
        """A value that the schema allows, with what is optional only where nothing else is there; new each time."""
        schema = self.resolved(schema)
        if "examples" in schema:
            example = schema["examples"][0]
            # Limits count by address, and an address is new only once.
            return f"{next(_numbers)}.{example}" if isinstance(example, str) and "@" in example else example
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if choices := self._choices(schema):
            return self.example(choices[0])
        match schema.get("type"):
            case "object":
                fields: Schema = schema.get("properties", {})
                wanted = schema.get("required") or fields
                return {
                    name: self.known[name]() if name in self.known else self.example(fields[name]) for name in wanted
                }
            case "array":
                return [self.example(schema.get("items", {})) for _ in range(max(schema.get("minItems", 1), 1))]
            case "integer" | "number":
                return int(max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1))
            case "boolean":
                return False
            case _:
                return _text(schema)

    def altered(self, name: str, schema: Schema, alter: Alter) -> Iterator[Any]:
        """An example of the schema for each spot in it that `alter` has something else for, with that one altered."""
        yield from self._altered(name, schema, alter, ())

    def resolved(self, schema: Schema) -> Schema:
        """The schema that a reference means."""
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        return schema

    def _choices(self, schema: Schema) -> list[Schema]:
        kinds = [self.resolved(kind) for word in ("anyOf", "oneOf", "allOf") for kind in schema.get(word, ())]
        return [kind for kind in kinds if kind.get("type") != "null"]

    def _altered(self, name: str, schema: Schema, alter: Alter, around: tuple[int, ...]) -> Iterator[Any]:
        schema = self.resolved(schema)
        if id(schema) in around:  # a model within itself
            return
        if (instead := alter(name, schema, self.example(schema))) is not None:
            yield instead
        for part, kind, put in self._parts(name, schema):
            for one in self._altered(part, kind, alter, (*around, id(schema))):
                yield put(one)

    def _parts(self, name: str, schema: Schema) -> Iterator[tuple[str, Schema, Callable[[Any], Any]]]:
        """Every schema that this one is made of, and how a value of it is put into a value of this one."""
        for choice in self._choices(schema):
            yield name, choice, lambda one: one
        if "items" in schema:
            yield name, schema["items"], lambda one: [one]
        if isinstance(schema.get("additionalProperties"), dict):
            yield name, schema["additionalProperties"], lambda one: {name: one}
        for part, kind in schema.get("properties", {}).items():
            yield part, kind, partial(self._with, schema, part)

    def _with(self, schema: Schema, part: str, value: Any) -> Schema:
        return {**self.example(schema), part: value}


class Party(NamedTuple):
    """Somebody, and the headers that say so."""

    name: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Sent:
    """What differs between two requests of one operation."""

    ids: Mapping[str, Any] = field(default_factory=lambda: {})
    query: Mapping[str, Any] = field(default_factory=lambda: {})
    headers: Mapping[str, str] = field(default_factory=lambda: {})
    body: Any = None
    """None for an example of what the operation takes."""


class NoObject(Exception):
    """Nothing that the path could name was to be had."""


class ApiClient:
    """Sends what the document describes."""

    def __init__(self, document: Document, client: httpx.AsyncClient) -> None:
        self.document = document
        self._client = client

    async def send(self, who: Party, operation: Operation, sent: Sent | None = None) -> httpx.Response:
        """A request with all that is required, and what is `sent`."""
        sent = sent or Sent()
        query: dict[str, Any] = {}
        headers = {"if-match": '"1"', "idempotency-key": str(uuid4()), **sent.headers, **who.headers}
        path = operation.path
        for parameter in operation.parameters:
            name, place = parameter["name"], parameter["in"]
            if place == "path":
                value = sent.ids[name] if name in sent.ids else self.document.example(parameter["schema"])
                path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
            elif parameter.get("required") and place == "query":
                query[name] = self.document.example(parameter["schema"])
            elif parameter.get("required") and name.lower() not in headers:
                headers[name] = str(self.document.example(parameter["schema"]))
        return await self._client.request(
            operation.method,
            path,
            params={**query, **sent.query},
            headers=headers,
            json=self.body(operation) if sent.body is None else sent.body,
        )

    def body(self, operation: Operation) -> Any:
        """An example of what the operation takes; None where it takes nothing."""
        return None if operation.body is None else self.document.example(operation.body)

    def naming(self, operation: Operation, ids: Mapping[str, Any], value: str) -> list[Sent]:
        """What to send for each place outside the path in which an object can be named, with this name there."""

        def named(name: str, schema: Schema, _: Any) -> Any:
            return value if schema.get("format") == "uuid" or (name.endswith("_id") and "type" in schema) else None

        queries = [
            Sent(ids, query={one["name"]: each})
            for one in operation.takes("query")
            for each in self.document.altered(one["name"], one["schema"], named)
        ]
        bodies = self.document.altered("body", operation.body or {}, named)
        return queries + [Sent(ids, body=body) for body in bodies]

    async def objects(self, who: Party, operation: Operation) -> dict[str, Any]:
        """What names something of `who` in the path: made now, or else the latest of its list."""
        ids: dict[str, Any] = {}
        for name in operation.ids:
            collection = operation.path.partition(f"/{{{name}}}")[0]
            tried: list[str] = []
            for method in ("POST", "GET"):
                source = self.document.operations.get((method, collection))
                if source is None or name in ids:
                    continue
                answer = await self.send(who, source, Sent(dict(ids)))
                if (value := _named(answer, name)) is not None:
                    ids[name] = value
                tried.append(f"{source} answers {told(answer)}")
            if name not in ids:
                raise NoObject("; ".join(tried) or f"there is neither POST nor GET {collection}")
        return ids


def unknown(value: Any) -> Any:
    """What names nothing, and looks like what `value` is."""
    return 2**31 - 1 if isinstance(value, int) else str(uuid4())


def told(answer: httpx.Response) -> str:
    """An answer in a line."""
    return f"{answer.status_code} {answer.text[:300]}"


def _named(answer: httpx.Response, name: str) -> Any:
    """What names the thing that was answered, or the first one of those in it."""
    found: Schema = answer.json() if answer.is_success and answer.content else {}
    rows: list[Schema] = found["items"] if "items" in found and "id" not in found else [found]
    return next((row.get(name, row.get("id")) for row in rows), None)


def _ids(path: str, described: Schema, paths: Schema) -> Iterator[str]:
    """What has an example, and no collection before it that would list objects, names none."""
    schemas = {parameter["name"]: parameter["schema"] for parameter in described.get("parameters", ())}
    for name in re.findall("{(.*?)}", path):
        if "examples" not in schemas[name] or path.partition(f"/{{{name}}}")[0] in paths:
            yield name


def _success(described: Schema) -> Schema:
    responses: Schema = described["responses"]
    return next((answer for status, answer in responses.items() if status.startswith("2")), responses)


def _json(described: Schema) -> Schema | None:
    content = described.get("content", {})
    return content["application/json"]["schema"] if "application/json" in content else None


def _text(schema: Schema) -> str:
    if form := _TEXTS.get(schema.get("format", "")):
        return form()
    text = f"text {next(_numbers)}"
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
