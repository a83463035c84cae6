"""Handlers compiled from their signatures.

FastAPI works out anew for each request what a handler's signature asks for: most of a small request's time. Here that
is done once, at start, for the signatures that this service is written in: path and query parameters, one JSON body,
a principal, a transaction, idempotency, and dependencies that are `async def` and ask for no more than that. The
OpenAPI document stays FastAPI's, made from the same signatures. Any other signature is left to FastAPI: `compiled`
returns None for it, and the request takes FastAPI's way behind the same edge.

The order within a request is fixed: who are you, may you, is the request well-formed, then the transaction; the
answer is serialised before the commit and written after it.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from chassis.data.unit_of_work import transaction
from chassis.http.exchange import Exchange
from chassis.http.idempotency import Once, documented
from chassis.http.input import PLACES, field_names, invalid
from chassis.http.preconditions import Versioned
from chassis.http.reply import Reply, bad_request, check_headers
from chassis.identity.principal import Require, anybody

_BODY, _PRINCIPAL, _TRANSACTION, _REQUEST, _NOTHING = ":body", ":principal", ":transaction", ":request", ":nothing"
"""Slots of what is no parameter of the path, the query or a header; a colon keeps them apart from those."""

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One function to await, where its arguments come from, and where its result goes."""

    function: Callable[..., Awaitable[Any]]
    arguments: tuple[tuple[str, str], ...]
    slot: str

    def __call__(self, values: Values) -> Awaitable[Any]:
        return self.function(**{name: values[slot] for name, slot in self.arguments})


class _NotCompilable(Exception):
    pass


class _Signature:
    """What a handler and everything it depends on ask for together, read beside FastAPI's own reading of it."""

    def __init__(self, dependant: Dependant, function: Callable[..., Any]) -> None:
        self.permission: str | None = None
        self.transaction = False
        self.idempotent = False
        self.body: Any = None
        self.path_names: list[str] = []
        self.query_names: list[str] = []
        self.header_names: list[str] = []
        self.scalars: dict[str, tuple[str, Any, Any]] = {}
        """Name for the client to slot, annotation and default."""
        self.calls: list[Call] = []
        for dependency in dependant.dependencies:
            if dependency.name is None:  # of the route, not of a parameter
                self._depend(dependency)
        self._call(function, dependant, "")

    def _call(self, function: Callable[..., Any], dependant: Dependant, slot: str) -> None:
        """Add `function`, after what it depends on."""
        if not inspect.iscoroutinefunction(function):
            raise _NotCompilable
        dependencies = {dependency.name: dependency for dependency in dependant.dependencies}
        arguments: list[tuple[str, str]] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            dependency = dependencies.get(parameter.name)
            source = self._value(parameter, dependant) if dependency is None else self._depend(dependency)
            if source is not None:
                arguments.append((parameter.name, source))
        self.calls.append(Call(function, tuple(arguments), slot))

    def _depend(self, dependant: Dependant) -> str | None:
        """The slot of a dependency's value; None when it has none."""
        function = dependant.call
        if isinstance(function, Require):
            if self.permission not in (None, function.permission):
                raise _NotCompilable
            self.permission = function.permission
            return _PRINCIPAL
        if function is anybody:
            return None
        if function is transaction:
            self.transaction = True
            return _TRANSACTION
        if function is documented:
            self.idempotent = True
            return _NOTHING
        if function is None or dependant.own_oauth_scopes or not dependant.use_cache:
            raise _NotCompilable
        slot = f":{id(function)}"
        if all(call.slot != slot for call in self.calls):
            self._call(function, dependant, slot)
        return slot

    def _value(self, parameter: inspect.Parameter, dependant: Dependant) -> str:
        """The slot of what comes from the request itself."""
        name, annotation, default = parameter.name, parameter.annotation, parameter.default
        if name == dependant.request_param_name:
            return _REQUEST
        required = default is parameter.empty
        if name in _names(dependant.body_params):
            if self.body is not None or not required or not _is_model(annotation):
                raise _NotCompilable
            self.body = annotation
            return _BODY
        for fields, names in (
            (dependant.path_params, self.path_names),
            (dependant.query_params, self.query_names),
            (dependant.header_params, self.header_names),
        ):
            if name in _names(fields) and not isinstance(default, FieldInfo) and _is_scalar(annotation):
                key = name if names is not self.header_names else name.replace("_", "-")
                if key in self.scalars or not any(field.alias == key for field in fields):
                    raise _NotCompilable
                names.append(key)
                slot = f"p{len(self.scalars)}"
                self.scalars[key] = (slot, annotation, ... if required else default)
                return slot
        raise _NotCompilable


def _names(fields: Iterable[Any]) -> set[str]:
    return {field.name for field in fields}


def _is_model(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _is_scalar(kind: Any) -> bool:
    """Whether this is read from one text, not from several parameters together or from one that repeats."""
    if get_origin(kind) is Annotated:
        return _is_scalar(get_args(kind)[0])
    if (origin := get_origin(kind)) is not None:
        return origin in (Literal, Union, UnionType) and all(
            _is_scalar(arg) for arg in get_args(kind) if origin is not Literal
        )
    return not (inspect.isclass(kind) and issubclass(kind, BaseModel | Mapping | Set | list | tuple))


class Endpoint:
    """A compiled handler."""

    def __init__(self, context: RouteContext, signature: _Signature) -> None:
        self.route: str = context.path or ""
        self._status: int = context.status_code or 200
        self._path_names = signature.path_names
        self._permission = signature.permission
        self._transaction = signature.transaction
        self._idempotent = signature.idempotent
        self._calls = signature.calls[:-1]
        self._handler = signature.calls[-1]
        self._scalars = _adapter_of_scalars(signature.scalars)
        self._query_names = frozenset(signature.query_names)
        self._headers = [(name, name.encode()) for name in signature.header_names]
        self._body: TypeAdapter[Any] | None = None if signature.body is None else TypeAdapter(signature.body)
        self._places: dict[str | int, str] = {
            **dict.fromkeys(signature.path_names, "path"),
            **dict.fromkeys(signature.query_names, "query"),
            **dict.fromkeys(signature.header_names, "header"),
        }
        self._names = PLACES | field_names(self._body) | signature.scalars.keys()
        self._request = any(source == _REQUEST for call in signature.calls for _, source in call.arguments)
        self._has_content = self._status not in (204, 205, 304)
        # The serializer itself: TypeAdapter.dump_json would be one more call.
        self._to_json = TypeAdapter(context.response_model).serializer.to_json

    async def __call__(self, exchange: Exchange, path_values: list[str]) -> Reply | Response:
        exchange.route = self.route
        values: Values = {_NOTHING: None}
        if self._permission is not None:
            values[_PRINCIPAL] = await exchange.authorised(self._permission)
        if self._scalars is not None:
            self._read_scalars(exchange, path_values, values)
        body = b""
        if self._body is not None:
            body = await exchange.json()
            try:
                values[_BODY] = self._body.validate_json(body)
            except ValidationError as error:
                raise invalid(error, "body", self._names) from None
        if self._request:
            values[_REQUEST] = Request(exchange.scope, exchange.receive_again)
        if self._transaction:
            return await self._in_transaction(exchange, values, body)
        for call in self._calls:
            values[call.slot] = await call(values)
        return self._reply(await self._handler(values))

    async def _in_transaction(self, exchange: Exchange, values: Values, body: bytes) -> Reply | Response:
        principal = exchange.principal
        once = Once(exchange, body) if self._idempotent else None
        db = exchange.edge.database.unit_of_work(principal.tenant_id if principal else None)
        values[_TRANSACTION] = db
        try:
            if once is None:
                await db.begin()
            elif (first := await once.begin(db)) is not None:
                return first
            for call in self._calls:
                values[call.slot] = await call(values)
            reply = self._reply(await self._handler(values))
            if isinstance(reply, Response) and reply.status_code >= 400:
                await db.rollback()
            elif once is not None:
                await once.commit(db, reply)
            else:
                await db.commit()
        except BaseException:
            await db.rollback()
            raise
        return reply

    def _read_scalars(self, exchange: Exchange, path_values: list[str], values: Values) -> None:
        given: dict[str, Any] = dict(zip(self._path_names, path_values, strict=True))
        if self._query_names and exchange.scope["query_string"]:
            query = _query(exchange.scope["query_string"])
            given |= {name: value for name, value in query.items() if name in self._query_names}
        for key, name in self._headers:
            if (value := exchange.headers.get(name)) is not None:
                given[key] = value.decode("latin-1")
        try:
            values.update(self._scalars.validate_python(given).__dict__)  # pyright: ignore[reportOptionalMemberAccess]  # the caller has looked
        except ValidationError as error:
            raise invalid(error, self._places, self._names) from None

    def _reply(self, result: Any) -> Reply | Response:
        if isinstance(result, Response):
            check_headers(result.raw_headers)
            return result
        if not self._has_content:
            return Reply(self._status)
        headers = ((b"etag", result.etag),) if isinstance(result, Versioned) else ()
        return Reply(self._status, self._to_json(result, by_alias=True, warnings="error"), headers=headers)


def _query(query_string: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=100,
        )
    except ValueError:
        raise bad_request("malformed_query", "The query string is malformed.") from None
    given = dict(pairs)
    if len(given) != len(pairs) or any("\x00" in value for value in given.values()):
        raise bad_request("malformed_query", "A query parameter appears twice, or has the character U+0000.")
    return given


def _adapter_of_scalars(scalars: dict[str, tuple[str, Any, Any]]) -> TypeAdapter[Any] | None:
    if not scalars:
        return None
    fields: dict[str, Any] = {
        slot: (Annotated[annotation, Field(validation_alias=name)], default)
        for name, (slot, annotation, default) in scalars.items()
    }
    return TypeAdapter(create_model("Parameters", __config__=ConfigDict(arbitrary_types_allowed=True), **fields))


def compiled(context: RouteContext) -> Endpoint | None:
    """The route's handler compiled, or None when its signature is one that only FastAPI understands."""
    function = context.endpoint
    if function is None or type(context.original_route) is not APIRoute or _customised(context):
        return None
    try:
        signature = _Signature(context.dependant, function)
    except _NotCompilable:
        return None
    path_names = [segment[1:-1] for segment in (context.path or "").split("/") if segment.startswith("{")]
    if sorted(path_names) != sorted(signature.path_names):
        return None
    signature.path_names = path_names
    return Endpoint(context, signature)


def _customised(context: RouteContext) -> bool:
    """Whether the route asks FastAPI to treat its answer specially."""
    returns = inspect.signature(context.endpoint, eval_str=True).return_annotation  # pyright: ignore[reportArgumentType]  # checked by the caller
    return bool(
        returns is inspect.Signature.empty
        or context.response_model != returns
        or context.response_model_include
        or context.response_model_exclude
        or context.response_model_exclude_unset
        or context.response_model_exclude_defaults
        or context.response_model_exclude_none
        or not context.response_model_by_alias
        or not isinstance(context.response_class, DefaultPlaceholder)
        or context.max_body_size
    )
