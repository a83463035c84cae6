"""What of a log line may be seen: an allow-list of names for text, and a scrub of the text that passes.

Numbers, truth values, UUIDs and times pass under any name. Text passes only under a name that was declared with
`allow_fields`; everything else becomes ``[redacted]``. A field is thus private until somebody decides that it is not.
Text that passes, and the messages of other libraries, lose whatever looks like a credential or an e-mail address.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import Any, Final, cast
from uuid import UUID

REDACTED: Final = "[redacted]"
MAX_TEXT: Final = 4096
"""Characters of one string; the rest is cut."""
_MAX_ITEMS: Final = 20
_MAX_DEPTH: Final = 3

_allowed = {
    *("code", "http_version", "job", "kind", "method", "migration", "module", "operation", "outcome", "permission"),
    *("phase", "query", "reason", "revision", "role", "route", "setting", "signal", "state", "table"),
}

# Types that orjson writes as they are and that cannot carry text.
HARMLESS: Final = frozenset({bool, int, float, type(None), UUID, datetime, date, time})

# The usual case: short text of these characters alone holds nothing that `_CREDENTIAL` would find.
_PLAIN: Final = re.compile(r"(?!.*eyJ)[A-Za-z0-9_./{}-]{0,64}")

# Most specific first: what an alternative has taken, later ones do not see.
_CREDENTIAL: Final = re.compile(
    r"""
      (?P<url>://)\S{0,512}@                                               # the user and password of a URL
    | (?P<header>(?:proxy-)?authorization|(?:set-)?cookie)\b["']?\s*[:=,].*  # these headers, to the end of the line
    | (?P<scheme>\bbearer\s+|\bbasic\s+(?=\S{8})(?-i:(?=[a-z+/]*[A-Z0-9])))[^\s"',;]+
    | eyJ[\w-]{8,}(?:\.[\w-]*)*                                          # a JSON Web Token
    | (?P<name>
        (?:passw(?:or)?d|passphrase|pwd|secret|token|(?:api|access|private)[_-]?key|credential|session)
        [\w.-]{0,32}(?:["']\s*,|["']?\s*[:=]))\s*b?(?:"[^"]*"?|'[^']*'?|[^\s,;&)}\]]+)
    | -----BEGIN[^-]*PRIVATE\ KEY-----[\s\S]*
    | (?P<mail>(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)+)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def allow_fields(*names: str) -> None:
    """Let text under these names be seen in logs, by whomever and at any depth. For names that nobody's secret has."""
    _allowed.update(names)


def scrub(text: str) -> str:
    """`text` on one line, of bounded length, without what looks like a credential or an e-mail address."""
    return _scrub_short(text) if len(text) <= 256 else _scrub(text)


def redact(name: str, value: object, depth: int = 0) -> Any:
    """`value` as it may be logged under `name`, made of nothing but what JSON can say."""
    kind = type(value)
    if kind is str:
        return scrub(cast(str, value)) if name in _allowed else REDACTED
    if kind in HARMLESS:
        return value if kind is not int or -(2**63) <= cast(int, value) < 2**63 else str(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, BaseException):
        return type_name(value)
    return _redact_text(name, value, depth) if name in _allowed and depth <= _MAX_DEPTH else REDACTED


def _redact_text(name: str, value: object, depth: int) -> Any:
    """`value`, whose name is declared: text, or what may hold text."""
    if isinstance(value, Enum):
        return redact(name, value.value, depth + 1)
    if isinstance(value, str):
        return scrub(str.__str__(value))
    if isinstance(value, Mapping):
        # A mapping's keys may be data, so only declared ones are shown at all.
        pairs = islice(cast("Mapping[object, object]", value).items(), _MAX_ITEMS)
        return dict(
            (str.__str__(key), redact(key, item, depth + 1))
            if isinstance(key, str) and key in _allowed
            else (REDACTED, REDACTED)
            for key, item in pairs
        )
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(name, item, depth + 1) for item in islice(cast("list[object]", value), _MAX_ITEMS)]
    return REDACTED


def type_name(error: BaseException) -> str:
    """What an exception is, without what it says."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _scrub(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    length = len(text)
    if length > MAX_TEXT:
        # The cut may go through something that could then no longer be recognised: a halved word goes altogether.
        text = re.sub(r"\S+\Z", "", text[:MAX_TEXT])
    shown = _CREDENTIAL.sub(_mark, text)
    if not shown.isprintable():
        # Control characters, line separators, marks that reverse the direction, lone surrogates.
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return shown if length <= MAX_TEXT else f"{shown}[cut: {length} characters]"


_scrub_short = lru_cache(1024)(_scrub)


def _mark(match: re.Match[str]) -> str:
    if match["url"]:
        return f"://{REDACTED}@"
    if match["header"]:
        return f"{match['header']}: {REDACTED}"
    if match["mail"]:
        return "[email]"
    return f"{match['scheme'] or match['name'] or ''}{REDACTED}"
