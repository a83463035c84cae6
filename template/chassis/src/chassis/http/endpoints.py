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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Request, Response, params
from fastapi.routing import APIRoute, RouteContext
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from chassis.data.unit_of_work import transaction
from chassis.http.exchange import Exchange
from chassis.http.idempotency import Once, documented
from chassis.http.invalid import field_names, invalid
from chassis.http.preconditions import Versioned
from chassis.http.problems import bad_request
from chassis.http.reply import Reply
from chassis.identity.principal import Require, anybody

_BODY, _PRINCIPAL, _TRANSACTION, _REQUEST, _NOTHING = ":body", ":principal", ":transaction", ":request", ":nothing"
"""Slots of what is no parameter of the path or query; a colon keeps them apart from those."""

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
    """What a handler and everything it depends on ask for together."""

    def __init__(self, path_names: list[str]) -> None:
        self.path_names = path_names
        self.permission: str | None = None
        self.transaction = False
        self.idempotent = False
        self.body: Any = None
        self.scalars: dict[str, tuple[Any, Any]] = {}
        self.calls: list[Call] = []

    def call(self, function: Callable[..., Any], slot: str) -> None:
        """Add `function`, after what it depends on."""
        if not inspect.iscoroutinefunction(function):
            raise _NotCompilable
        arguments: list[tuple[str, str]] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            source = self._source(parameter)
            if source is not None:
                arguments.append((parameter.name, source))
        self.calls.append(Call(function, tuple(arguments), slot))

    def depend(self, marker: params.Depends) -> str | None:
        """The slot of a dependency's value; None when it has none."""
        function = marker.dependency
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
        if function is None:
            raise _NotCompilable
        slot = f":{id(function)}"
        if all(call.slot != slot for call in self.calls):
            self.call(function, slot)
        return slot

    def _source(self, parameter: inspect.Parameter) -> str | None:
        annotation, default = parameter.annotation, parameter.default
        extras = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
        kind = get_args(annotation)[0] if extras else annotation
        markers = [extra for extra in extras if isinstance(extra, params.Depends)]
        if markers:
            return self.depend(markers[0])
        if parameter.kind is inspect.Parameter.VAR_KEYWORD or isinstance(default, params.Depends):
            raise _NotCompilable
        if kind is Request:
            return _REQUEST
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and not extras and default is parameter.empty:
            if self.body is not None:
                raise _NotCompilable
            self.body = kind
            return _BODY
        if not _is_scalar(kind) or any(isinstance(e, params.Body | params.Cookie) for e in extras):
            raise _NotCompilable
        return self._scalar(parameter.name, annotation, ... if default is parameter.empty else default, extras)

    def _scalar(self, name: str, annotation: Any, default: Any, extras: tuple[Any, ...]) -> str:
        header = next((extra for extra in extras if isinstance(extra, params.Header)), None)
        key = f"header:{name.replace('_', '-')}" if header else name
        if any(getattr(extra, "alias", None) for extra in extras) or key in self.scalars:
            raise _NotCompilable
        self.scalars[key] = (annotation, default)
        return key


def _is_scalar(kind: Any) -> bool:
    """Whether FastAPI, too, takes this type from the path, the query or a header."""
    if get_origin(kind) is not None:
        origin = get_origin(kind)
        return origin not in (list, dict, set, tuple) and all(
            _is_scalar(arg) for arg in get_args(kind) if inspect.isclass(arg)
        )
    return not (inspect.isclass(kind) and issubclass(kind, BaseModel | dict | list | set | tuple | Response))


class Endpoint:
    """A compiled handler."""

    def __init__(self, context: RouteContext, signature: _Signature, returns: Any) -> None:
        self.route: str = context.path or ""
        self._status: int = context.status_code or 200
        self._path_names = signature.path_names
        self._permission = signature.permission
        self._transaction = signature.transaction
        self._idempotent = signature.idempotent
        self._calls = signature.calls[:-1]
        self._handler = signature.calls[-1]
        self._scalars = _adapter_of_scalars(signature.scalars)
        self._has_query = any(name not in self._path_names and ":" not in name for name in signature.scalars)
        self._headers = [(name, name[7:].encode()) for name in signature.scalars if name.startswith("header:")]
        self._body: TypeAdapter[Any] | None = None if signature.body is None else TypeAdapter(signature.body)
        self._body_fields = field_names(self._body)
        self._request = any(source == _REQUEST for call in signature.calls for _, source in call.arguments)
        # The serializer itself: TypeAdapter.dump_json would be one more call.
        self._to_json = None if returns in (None, inspect.Signature.empty) else TypeAdapter(returns).serializer.to_json

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
                raise invalid(error, "body", self._body_fields) from None
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
            if once is not None:
                await once.commit(db, reply)
            else:
                await db.commit()
        except BaseException:
            await db.rollback()
            raise
        return reply

    def _read_scalars(self, exchange: Exchange, path_values: list[str], values: Values) -> None:
        given: dict[str, Any] = dict(zip(self._path_names, path_values, strict=True))
        if self._has_query and exchange.scope["query_string"]:
            given = _query(exchange.scope["query_string"]) | given
        for key, name in self._headers:
            if (value := exchange.headers.get(name)) is not None:
                given[key] = value.decode("latin-1")
        try:
            values.update(self._scalars.validate_python(given).__dict__)  # pyright: ignore[reportOptionalMemberAccess]  # the caller has looked
        except ValidationError as error:
            raise invalid(error, "parameters", None) from None

    def _reply(self, result: Any) -> Reply | Response:
        if isinstance(result, Response):
            return result
        if self._to_json is None:
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


def _adapter_of_scalars(scalars: dict[str, tuple[Any, Any]]) -> TypeAdapter[Any] | None:
    if not scalars:
        return None
    fields: dict[str, Any] = dict(scalars)
    return TypeAdapter(create_model("Parameters", __config__=ConfigDict(arbitrary_types_allowed=True), **fields))


def compiled(context: RouteContext) -> Endpoint | None:
    """The route's handler compiled, or None when its signature is one that only FastAPI understands."""
    function = context.endpoint
    path = context.path or ""
    if function is None or not isinstance(context.original_route, APIRoute) or _customised(context):
        return None
    segments = path[1:].split("/")
    path_names = [segment[1:-1] for segment in segments if segment.startswith("{")]
    signature = _Signature(path_names)
    try:
        for dependency in context.dependencies:
            signature.depend(dependency)
        signature.call(function, "")
    except _NotCompilable:
        return None
    if not set(path_names) <= signature.scalars.keys():
        return None
    returns = inspect.signature(function, eval_str=True).return_annotation
    return Endpoint(context, signature, returns)


def _customised(context: RouteContext) -> bool:
    """Whether the route asks FastAPI to treat its answer specially."""
    returns = inspect.signature(context.endpoint, eval_str=True).return_annotation  # pyright: ignore[reportArgumentType]  # checked by the caller
    return bool(
        context.response_model is not (None if returns in (None, inspect.Signature.empty) else returns)
        or context.response_model_include
        or context.response_model_exclude
        or context.response_model_exclude_unset
        or context.response_model_exclude_defaults
        or context.response_model_exclude_none
    )
