"""JSON as RFC 8259 and RFC 7493 (I-JSON) mean it, checked before any model sees it.

Parsers differ in what they forgive: NaN, numbers beyond a double, a key that appears twice, half of a surrogate
pair. What two parsers read differently is a way past a check, so all of it is refused here, once.
"""

import json
import math
import re
from typing import Any, NoReturn

from chassis.http.reply import bad_request

# Possessive, and with an end that may be missing: a string is gone through once, whatever follows.
_STRING = re.compile(rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+"?')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LARGEST_INTEGER = 2**63
_LONGEST_INTEGER = 20


class _Refused(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("An object has the same key twice.")
    return members


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER or not -_LARGEST_INTEGER <= (number := int(text)) < _LARGEST_INTEGER:
        raise _Refused("An integer does not fit into 64 bits.")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Refused("A number is too large.")
    return number


def _constant(_: str) -> NoReturn:
    raise _Refused("NaN and Infinity are not JSON.")


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
).decode


def check(body: bytes, max_depth: int) -> None:
    """Refuse `body` with a 400 problem unless it is one strict JSON text at most `max_depth` levels deep."""
    if body.count(b"[") + body.count(b"{") > max_depth:
        _check_depth(body, max_depth)
    try:
        value = _decode(body.decode())
        if b"\\u" in body:
            _check_text(value)
    except UnicodeDecodeError:
        raise bad_request("malformed_json", "The body is not UTF-8.") from None
    except _Refused as refused:
        raise bad_request("malformed_json", str(refused)) from None
    except ValueError:
        raise bad_request("malformed_json", "The body is not one well-formed JSON value.") from None


def _check_depth(body: bytes, max_depth: int) -> None:
    """Take the innermost level away as often as is allowed: nothing may be left."""
    brackets = _STRING.sub(b"", body).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(max_depth):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise bad_request(
            "malformed_json", f"The body is nested deeper than {max_depth} levels, or a bracket has no other."
        )


def _check_text(value: Any) -> None:
    """Only an escape can bring in NUL, which PostgreSQL cannot store, or half a surrogate pair."""
    if isinstance(value, str):
        if "\x00" in value:
            raise _Refused("A text has the character U+0000.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("A text has half of a surrogate pair.") from None
    elif isinstance(value, dict):
        for key, member in value.items():  # pyright: ignore[reportUnknownVariableType]  # JSON has no more to say
            _check_text(key)
            _check_text(member)
    elif isinstance(value, list):
        for member in value:  # pyright: ignore[reportUnknownVariableType]  # as above
            _check_text(member)
