"""Logs: one JSON object a line on stdout, whoever wrote it; on a developer's terminal, lines for people.

Our own lines come through structlog, those of libraries, warnings and uncaught exceptions through the standard
library; all end in `_render`, which adds the context and redacts (see `chassis.observe.redaction`).
A broken stdout loses lines and nothing else.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, LiteralString, Protocol, Self, cast

import orjson
import structlog

from chassis.features import PACKAGE
from chassis.observe.context import current
from chassis.observe.redaction import HARMLESS, REDACTED, redact, scrub, type_name

if TYPE_CHECKING:
    from chassis.settings import Settings

Fields = dict[str, Any]

MAX_LINE_BYTES: Final = 32 * 1024
_JSON: Final = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_OURS: Final = frozenset(
    "timestamp level event logger service version environment request_id trace_id span_id tenant_id exception".split()  # noqa: SIM905  read as words
)
# Libraries whose messages are known to hold no text that a client sent. Others' have their text arguments redacted.
_TRUSTED: Final = ("alembic", "py.warnings", "uvicorn")
_OF_A_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_MAX_FRAMES: Final = 30
_MAX_CAUSES: Final = 5


class Logger(Protocol):
    """What `get_logger` gives. An event is a constant, so that it can be searched for and holds no data."""

    def debug(self, event: LiteralString, /, **fields: object) -> None: ...
    def info(self, event: LiteralString, /, **fields: object) -> None: ...
    def warning(self, event: LiteralString, /, **fields: object) -> None: ...
    def error(self, event: LiteralString, /, **fields: object) -> None: ...
    def critical(self, event: LiteralString, /, **fields: object) -> None: ...
    def exception(self, event: LiteralString, /, **fields: object) -> None: ...
    def bind(self, **fields: object) -> Self: ...


def get_logger(name: str) -> Logger:
    """A logger whose lines carry `name`. May be made at import; works as `configure` says once that was called."""
    return cast(Logger, structlog.get_logger(name))


class _Output:
    """Where lines go and how they look. One for the process, so that loggers made before `configure` find it."""

    def __init__(self) -> None:
        self.write: Callable[[bytes], object] = _nowhere
        self.pretty: Callable[[Fields, BaseException | None], bytes] | None = None
        self.static: Fields = {}


def _nowhere(_line: bytes) -> None:
    """What a process has that was started without a stdout."""


_output: Final = _Output()


class _Sink:
    """What structlog, or our handler, gives a finished line to."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def line(self, line: bytes) -> None:
        try:  # noqa: SIM105  suppress() would cost as much as the write
            _output.write(line)
        except (OSError, ValueError, RuntimeError):
            pass  # closed, full, gone, or interrupted by itself: there is nowhere left to say so

    debug = info = warning = error = critical = line


def _render(sink: _Sink, level: str, fields: MutableMapping[str, Any]) -> bytes:
    """structlog's only processor: a line made of what the call and its context say. Never raises."""
    try:
        return _line(sink.name, level, fields)
    except Exception as error:
        event = "log line could not be rendered"
        return _line(sink.name, "error", {"event": event, "error": error})


def _line(logger: str, level: str, fields: MutableMapping[str, Any]) -> bytes:
    line: Fields = {
        "timestamp": datetime.now(UTC),
        "level": level,
        "event": scrub(fields.pop("event")),
        "logger": logger,
        **_output.static,
    }
    context = current.get()
    if context is not None:
        line["request_id"] = context.request_id
        if context.trace_id is not None:
            line["trace_id"] = context.trace_id
            line["span_id"] = context.span_id
        if context.tenant_id is not None:
            line["tenant_id"] = context.tenant_id
    error = _exception(fields.pop("exc_info", None))
    for name, value in fields.items():
        if name not in _OURS:
            line[name] = value if type(value) in _SHORTCUT else redact(name, value)
    if _output.pretty is not None:
        return _output.pretty(line, error)
    if error is not None:
        line["exception"] = list(_describe(error))
    return _encode(line)


_SHORTCUT: Final = HARMLESS - {int}  # an integer may be too long for JSON


def _encode(line: Fields) -> bytes:
    encoded = orjson.dumps(line, str, _JSON | orjson.OPT_APPEND_NEWLINE)  # str: the context may have asyncpg's UUID
    if len(encoded) > MAX_LINE_BYTES:
        kept = {name: value for name, value in line.items() if name in _OURS and name != "exception"}
        encoded = orjson.dumps({**kept, "cut_bytes": len(encoded)}, str, _JSON | orjson.OPT_APPEND_NEWLINE)
    return encoded


def _exception(given: object) -> BaseException | None:
    """The exception that `exc_info` means: itself, a triple, or True for the one that is being handled."""
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return cast("tuple[Any, BaseException | None, Any]", given)[1]
    return sys.exception() if given else None


def _describe(error: BaseException) -> Iterator[Fields]:
    """An exception and its causes: type and stack, never message or variables, which may hold what users sent."""
    following: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if following is None:
            return
        stack = list(_stack(following.__traceback__))
        described: Fields = {"type": type_name(following), "stack": stack[-_MAX_FRAMES:]}
        if isinstance(following, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", following)
            described["group"] = [type_name(member) for member in group.exceptions[:_MAX_CAUSES]]
        yield described
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _stack(traceback: TracebackType | None) -> Iterator[Fields]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        yield {"file": code.co_filename, "line": traceback.tb_lineno, "function": code.co_qualname}
        traceback = traceback.tb_next


class _Handler(logging.Handler):
    """The standard library's records, as lines like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {name: value for name, value in vars(record).items() if name not in _OF_A_RECORD}
        fields |= {"event": _message(record), "exc_info": record.exc_info}
        sink = _Sink(record.name)
        sink.line(_render(sink, _LEVELS[min(max(record.levelno // 10 - 1, 0), 4)], fields))


def _message(record: logging.LogRecord) -> str:
    """A record's message. Its text arguments are seen only if the library is one that we know."""
    library, text = record.name.partition(".")[0], record.msg
    if not isinstance(text, str):
        return type_name(text) if isinstance(text, BaseException) else REDACTED
    args: Any = record.args
    if library not in _TRUSTED and record.name not in _TRUSTED:
        if isinstance(args, dict):
            args = {name: _argument(value) for name, value in cast(Fields, args).items()}
        elif args:
            args = tuple(map(_argument, args))
    try:
        text = text % args if args else text
    except Exception:  # the wrong number of them, a number format of redacted text, a `__str__` that fails
        return scrub(text)
    # asyncio's further lines are the repr of a future, with what its exception says.
    return text.partition("\n")[0] if library == "asyncio" else text.strip()


def _argument(value: object) -> object:
    return value if type(value) in HARMLESS else type_name(value) if isinstance(value, BaseException) else REDACTED


def configure(settings: "Settings", *, stream: BinaryIO | None = None) -> None:
    """Send everything that the process says to `stream` (stdout unless given). Called once, at start."""
    if stream is None and sys.stdout is not None:  # None in a process that was started without one
        stream = sys.stdout.buffer
    terminal = stream is not None and stream.isatty()
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and terminal and not settings.deployed)
    _output.write = _writer(stream)
    _output.static = {"service": PACKAGE, "version": settings.revision, "environment": settings.environment}
    _output.pretty = _pretty(colors=terminal) if pretty else None
    structlog.configure(
        processors=[_render],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=_Sink,
        cache_logger_on_first_use=True,
    )
    _take_over_standard_logging(settings.log_level.upper())
    _take_over_uncaught_exceptions()


def _writer(stream: BinaryIO | None) -> Callable[[bytes], object]:
    if stream is None:
        return _nowhere
    # Unbuffered if it can be: one system call a line, and nothing left over that fails at exit.
    raw = getattr(stream, "raw", stream)

    def write(line: bytes) -> None:
        while line and (written := raw.write(line)):
            line = line[written:]

    return write


def _pretty(*, colors: bool) -> Callable[[Fields, BaseException | None], bytes]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, pad_level=False, exception_formatter=structlog.dev.plain_traceback
    )

    def pretty(line: Fields, error: BaseException | None) -> bytes:
        shown = {name: value for name, value in line.items() if name not in _output.static}
        shown["timestamp"] = f"{line['timestamp'].astimezone():%H:%M:%S.%f}"[:-3]
        if error is not None:
            shown["exc_info"] = error
        return renderer(None, line["level"], shown).encode("utf-8", "backslashreplace") + b"\n"

    return pretty


def _take_over_standard_logging(level: str) -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        # Ours of an earlier call, and those that would write lines that are not JSON beside it. Not pytest's.
        if isinstance(handler, _Handler) or getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
            root.removeHandler(handler)
    root.addHandler(_Handler())
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # The edge writes a better access line.
    logging.getLogger("uvicorn.access").disabled = True
    logging.captureWarnings(True)


def _take_over_uncaught_exceptions() -> None:
    log = get_logger("chassis.uncaught")

    def uncaught(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, error.__traceback__)
        else:
            log.critical("uncaught exception", exc_info=error)

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            log.critical("uncaught exception in a thread", exc_info=args.exc_value)

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        log.error("exception that could not be raised", exc_info=args.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, uncaught_in_thread, unraisable
