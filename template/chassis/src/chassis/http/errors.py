"""Every exception as a problem: for the edge, and for the handlers that FastAPI itself calls."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from chassis.data.pool import problem_of as problem_of_database
from chassis.http.input import PLACES, field_names
from chassis.http.input import problem as invalid
from chassis.http.reply import Problem, internal


def problem_of(error: BaseException) -> Problem | None:
    """The problem that an exception means; None when it means a mistake of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        headers = tuple((name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items())
        return Problem(error.status_code, _code(error.status_code), str(error.detail), headers=headers)
    return problem_of_database(error) if isinstance(error, Exception) else None


def _code(status: int) -> str:
    try:
        return HTTPStatus(status).name.lower()
    except ValueError:
        return "http_error"


def install_error_handlers(app: FastAPI) -> None:
    """Have FastAPI write problems. It then raises them again: the edge logs them as it does those of our endpoints."""

    @app.exception_handler(Exception)
    async def written(request: Request, error: Exception) -> Response:
        reply = (problem_of(error) or internal()).reply(request.scope["chassis.exchange"].request_id)
        response = Response(reply.body, reply.status, media_type=reply.media_type.decode())
        response.raw_headers += reply.headers
        return response

    @app.exception_handler(HTTPException)
    async def translated(_: Request, error: HTTPException) -> Response:
        raise problem_of(error) or error

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> Response:
        raise invalid(error.errors(), _names(request))

    del written, translated, refused


def _names(request: Request) -> frozenset[str]:
    """The names that are ours, of all that a validation error may name."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return PLACES
    dependants, names = [route.dependant], set(PLACES)
    for dependant in dependants:
        dependants += dependant.dependencies
        for parameter in (*dependant.path_params, *dependant.query_params, *dependant.header_params):
            names.add(parameter.alias)
        for parameter in dependant.body_params:
            body: TypeAdapter[object] = TypeAdapter(parameter.field_info.annotation or object)
            names |= {parameter.alias, *field_names(body)}
    return frozenset(names)
