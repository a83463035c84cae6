"""FastAPI's own errors as problems, for the handlers that it calls itself."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from chassis.http.invalid import invalid
from chassis.http.problems import Problem, internal
from chassis.http.reply import Reply


def install_error_handlers(app: FastAPI) -> None:
    """Have FastAPI write problems; what is left over reaches the edge."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return _response(request, error)

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> Response:
        headers = tuple((name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items())
        return _response(request, Problem(error.status_code, "http_error", str(error.detail), headers=headers))

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        return _response(request, invalid(error, "request", frozenset()))

    @app.exception_handler(Exception)
    async def unhandled(request: Request, _: Exception) -> Response:
        return _response(request, internal())

    del problem, http_exception, validation, unhandled


def _response(request: Request, problem: Problem) -> Response:
    reply: Reply = problem.reply(request.scope["chassis.exchange"].request_id)
    response = Response(reply.body, reply.status, media_type=reply.media_type.decode())
    response.raw_headers += reply.headers
    return response
