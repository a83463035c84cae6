"""Our half of the composition root: modules go in, an ASGI application comes out."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import entry_points, version
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.types import Receive, Scope, Send

from chassis.data.pool import Database
from chassis.data.unit_of_work import transaction
from chassis.features import PACKAGE, PROJECT
from chassis.http import docs
from chassis.http.edge import Edge
from chassis.http.endpoints import Endpoint, compiled
from chassis.http.errors import install_error_handlers
from chassis.http.idempotency import documented as idempotent
from chassis.http.routing import Routes
from chassis.identity import api_auth
from chassis.identity import module as own
from chassis.identity.identity import Identity
from chassis.identity.principal import Require, anybody
from chassis.module import Listener, Module
from chassis.observe import health, metrics
from chassis.observe.redaction import allow_fields
from chassis.settings import Settings

_PREFIX = "/v1"
_CLOSE_SECONDS = 5.0


class BootRefused(Exception):
    """The service is put together wrongly: every reason, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Access(NamedTuple):
    """One route, and the permissions that a caller needs, all of them. With none it is public."""

    method: str
    path: str
    permissions: frozenset[str]


class Service(FastAPI):
    """A FastAPI application whose routes all say who may call them, and are reached through the edge alone."""

    settings: Settings
    edge: Edge
    database: Database
    identity: Identity
    readiness: health.Readiness
    version_info: health.Version

    def __init__(self, settings_class: type[Settings], modules: Sequence[Module]) -> None:
        super().__init__(
            title=PROJECT,
            version=version(PACKAGE),
            openapi_url=docs.DOCUMENT,
            docs_url=None,
            redoc_url=None,
            lifespan=_lifespan,
        )
        self.settings_class = settings_class
        self.modules = (*modules, own.module)
        self.include_router(health.router)
        self.include_router(docs.router)
        for module in self.modules:
            allow_fields(*module.log_fields)
            if module.router is not None:
                self.include_router(module.router, prefix=_PREFIX, tags=[module.name])
        self.include_router(api_auth.well_known, tags=[own.module.name])
        install_error_handlers(self)
        self._endpoints = [(context, compiled(context)) for context in iter_route_contexts(self.routes)]
        problems = [problem for route in self._endpoints for problem in self._problems(*route)]
        try:
            self._routes(with_docs=True)
        except ValueError as twice:
            problems.append(str(twice))
        if problems:
            raise BootRefused(problems)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with every answer that a route may give."""
        if self.openapi_schema is None:
            routes = [context for context, _ in self._endpoints if isinstance(context.original_route, APIRoute)]
            docs.complete(super().openapi(), [(route, list(_dependencies(route.dependant))) for route in routes])
        return super().openapi()

    def configure(self, settings: Settings) -> None:
        """Put the service together for `settings`. Nothing connects before the lifespan starts."""
        listeners: dict[type, list[Listener]] = {}
        for module in self.modules:
            for event, listener in module.listens.items():
                listeners.setdefault(event, []).append(listener)
        self.settings = settings
        self.database = Database(settings, listeners)
        self.readiness = health.Readiness(self.database)
        self.version_info = health.Version(PROJECT, self.version, settings.revision)
        self.identity = Identity(settings, self.database, own.permissions_by_role(self.modules))
        routes = self._routes(with_docs=settings.docs)
        self.edge = Edge(settings, self.database, routes, super().__call__, self.identity.authenticate)
        metrics.build.labels(PROJECT, self.version, settings.revision).set(1)

    def access(self) -> Iterator[Access]:
        """Every route of ours, with what it asks for."""
        for context, _ in self._endpoints:
            if isinstance(context.original_route, APIRoute):
                permissions = frozenset(_permissions(context.dependant))
                for method in sorted(context.methods or ()):
                    yield Access(method, context.path or "/", permissions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.edge(scope, receive, send)

    def _routes(self, *, with_docs: bool) -> Routes[Endpoint | str]:
        """Every route with what answers it: a compiled endpoint, or the template of one that FastAPI answers."""
        routes: Routes[Endpoint | str] = Routes()
        for context, endpoint in self._endpoints:
            if with_docs or context.path not in (docs.DOCUMENT, docs.PAGE):
                for method in context.methods or ():
                    routes.add(context.path or "/", method, endpoint or context.path or "/")
        return routes

    def _problems(self, context: RouteContext, endpoint: Endpoint | None) -> Iterator[str]:
        if not isinstance(context.original_route, APIRoute):
            if context.path != docs.DOCUMENT:
                yield f"{context.path}: only routes of an APIRouter can be served"
            return
        name = f"{', '.join(sorted(context.methods or ()))} {context.path}"
        known = {permission for module in self.modules for permission in module.permissions}
        wanted = list(_dependencies(context.dependant))
        permissions = _permissions(context.dependant)
        if not permissions and anybody not in wanted:
            yield f"{name}: say who may call it, with may(…) in its signature or dependencies=[public]"
        for permission in sorted(permissions - known):
            yield f"{name}: no module declares the permission '{permission}'"
        if "{" in (context.path or "") and ":" in (context.path or ""):
            yield f"{name}: say the type of a path parameter in the signature, not in the path"
        if transaction in wanted and not permissions:
            yield f"{name}: Transaction needs may(…) beside it: it is of the caller's tenant"
        if idempotent in wanted and not (permissions and transaction in wanted):
            yield f"{name}: Idempotent needs may(…) and Transaction beside it: a key has a caller and an effect"
        if endpoint is None and idempotent in wanted:
            yield f"{name}: Idempotent takes only plain parameters, one JSON body and async dependencies beside it"


def _permissions(dependant: Dependant) -> set[str]:
    return {call.permission for call in _dependencies(dependant) if isinstance(call, Require)}


def _dependencies(dependant: Dependant) -> Iterator[object]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _dependencies(dependency)


@asynccontextmanager
async def _lifespan(service: FastAPI) -> AsyncGenerator[None]:
    assert isinstance(service, Service)
    await service.database.open()
    await service.identity.start()
    await service.edge.limiter.open()
    try:
        yield
    finally:
        await service.edge.limiter.close()
        await service.identity.stop()
        await service.database.close(_CLOSE_SECONDS)


def create_app(settings_class: type[Settings], modules: Sequence[Module]) -> Service:
    """The service made of `modules`. Raises BootRefused, naming every route that nobody is allowed to call."""
    return Service(settings_class, modules)


def load_app() -> Service:
    """The service that the project's entry point `app` in the group `chassis` names. Raises LookupError without one."""
    for entry_point in entry_points(group="chassis", name="app"):
        return entry_point.load()
    raise LookupError("no entry point 'app' in the group 'chassis': run 'uv sync' in the project's folder")
