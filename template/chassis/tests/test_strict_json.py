"""What a client may send: what parsers disagree about is refused by every route that takes a body, and quickly.

So is what no field of a module's model should hold.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from edges import check_problem, client_of, configured, messages
from pydantic import TypeAdapter, ValidationError

from chassis import Email
from chassis.app import Service
from chassis.http import strict_json
from chassis.http.reply import Problem
from chassis.testing import started

pytestmark = pytest.mark.anyio

JSON = "application/json"
DEEP = 100_000
MANY = b"[" + b"[]," * 40
"""So many brackets that their depth is counted."""

# Each is what follows `"text":"a",` in an object that would be fine without it, or a whole body.
MEMBERS: dict[str, bytes] = {
    "NaN": b'"ratio":NaN',
    "Infinity": b'"ratio":Infinity',
    "-Infinity": b'"ratio":-Infinity',
    "1e400": b'"ratio":1e400',
    "-1e400": b'"ratio":-1e400',
    "NaN in depth": b'"more":{"a":[[NaN]]}',
    "2**63": b'"number":9223372036854775808',
    "-2**63-1": b'"number":-9223372036854775809',
    "4000 digits": b'"number":' + b"9" * 4000,
    "5000 digits": b'"number":-' + b"9" * 5000,
    "leading zero": b'"number":01',
    "plus": b'"number":+1',
    "hexadecimal": b'"number":0x1',
    "bare fraction": b'"ratio":.5',
    "lone high surrogate": b'"more":{"a":"\\ud800"}',
    "lone low surrogate": b'"more":{"a":"\\udc00 "}',
    "surrogates in the wrong order": b'"more":{"a":"\\udc00\\ud800"}',
    "lone surrogate in a key": b'"more":{"\\ud800":1}',
    "lone surrogate in depth": b'"more":{"a":[{"b":["\\ud800"]}]}',
    "surrogate as bytes": b'"more":{"a":"\xed\xa0\x80"}',
    "NUL as an escape": b'"more":{"a":"\\u0000"}',
    "NUL in a key": b'"more":{"\\u0000":1}',
    "NUL as a byte": b'"more":{"a":"\x00"}',
    "control character": b'"more":{"a":"\x1f"}',
    "line break in a string": b'"more":{"a":"\n"}',
    "duplicate key": b'"text":"b"',
    "duplicate key, written otherwise": b'"\\u0074ext":"b"',
    "duplicate key in depth": b'"more":{"a":[{"b":1,"b":1}]}',
    "overlong UTF-8": b'"more":{"a":"\xc0\xaf"}',
    "beyond Unicode": b'"more":{"a":"\xf4\x90\x80\x80"}',
    "latin-1": b'"more":{"a":"\xe9"}',
    "unknown escape": b'"more":{"a":"\\x41"}',
    "cut escape": b'"more":{"a":"\\u12"}',
    "33 levels": b'"more":{"a":' + b"[" * 31 + b"]" * 31 + b"}",
    "comment": b'"number":1/**/',
    "trailing comma": b'"number":1,',
    "single quotes": b"'number':1",
}
BODIES: dict[str, bytes] = {
    **{name: b'{"text":"a",%b}' % member for name, member in MEMBERS.items()},
    "nothing": b"",
    "blanks": b" \r\n\t ",
    "100,000 levels": b"[" * DEEP + b"]" * DEEP,
    "100,000 levels of objects": b'{"a":' * DEEP,
    "never closed": b'{"text":"a"',
    "two values": b'{"text":"a"}{"text":"a"}',
    "trailing bytes": b'{"text":"a"}x',
    "trailing NUL": b'{"text":"a"}\x00',
    "byte order mark": b'\xef\xbb\xbf{"text":"a"}',
    "UTF-16": '{"text":"a"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"text":"a"}'.encode("utf-16-le"),
    "UTF-32": '{"text":"a"}'.encode("utf-32"),
    "a form": b"text=a&number=1",
    "XML": b"<text>a</text>",
    "a word": b"text",
    "only a brace": b"{",
    "a string without end": b'{"text":"' + b"a" * 100_000,
    "a string of escapes without end": MANY + b'"' + b'\\"' * 100_000,
    "escapes of escapes without end": MANY + b'"' + b"\\\\" * 100_000 + b"\\",
    "quotes": MANY + b'"' * 100_001,
    # What strict JSON allows, the model still refuses.
    "null": b"null",
    "a list": b'[{"text":"a"}]',
    "a string": b'"text"',
    "true": b"true",
    "another field": b'{"text":"a","admin":true}',
    "a text for a number": b'{"text":"a","number":"1"}',
    "a number for a text": b'{"text":1}',
    "true for a number": b'{"text":"a","number":true}',
}
TYPES = [
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=a",
    "application/json; charset=utf-16",
    "application/json; charset=latin-1",
    "application/json; charset=utf-8; charset=utf-16",
    "application/json;",
    "application/json, text/plain",
    "application/jsonp",
    "text/json",
    "application/xml",
    "*/*",
]

ALL_THAT_ANY_ROUTE_ASKS_FOR = {"content-type": JSON, "idempotency-key": "a", "if-match": '"1"'}


def _refusal(body: bytes) -> str:
    with pytest.raises(Problem) as refused:
        strict_json.check(body, 32)
    assert (refused.value.status, refused.value.code) == (400, "malformed_json")
    return refused.value.detail


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/echo-by-fastapi"])
async def test_no_hostile_body_is_accepted_or_breaks_anything(path: str) -> None:
    async with client_of(configured()) as client:
        for name, body in BODIES.items():
            answer = await client.post(path, content=body, headers={"content-type": JSON})
            assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
            check_problem(answer)
        for media_type in TYPES:
            answer = await client.post(path, content=b'{"text":"a"}', headers={"content-type": media_type})
            assert answer.status_code in (415, 422), (media_type, answer.status_code)
            check_problem(answer)
        assert (await client.post(path, content=b'{"text":"a"}', headers={"content-type": JSON})).status_code == 200


async def test_no_route_of_this_service_accepts_or_breaks_on_a_hostile_body(
    app: Service, as_principal: Callable[..., dict[str, str]]
) -> None:
    roles = {role for module in app.modules for roles in module.permissions.values() for role in roles}
    async with started(app):
        for role in sorted(roles):
            headers = ALL_THAT_ANY_ROUTE_ASKS_FOR | {k.lower(): v for k, v in as_principal(role).items()}
            for path, method in _routes_with_a_body(app):
                for name, body in BODIES.items():
                    begin = (await messages(app, method, path, headers, body))[0]
                    assert 400 <= begin["status"] < 500, (method, path, role, name, begin)


def _routes_with_a_body(service: Any) -> list[tuple[str, str]]:
    return [
        (path.replace("{", "").replace("}", ""), method.upper())
        for path, operations in service.openapi()["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    ]


@pytest.mark.parametrize("name", [*MEMBERS, "two values", "trailing bytes", "byte order mark", "UTF-16", "nothing"])
def test_each_is_refused_before_any_model_sees_it(name: str) -> None:
    assert "levels" in _refusal(BODIES[name]) or "levels" not in name


@pytest.mark.parametrize(
    "value",
    [
        {"text": "a" * 500_000},
        {"a": "é😀\u2028\ufeff", "\U0001f600": 1},
        {"a": [2**63 - 1, -(2**63), 1e308, -0.0, 5e-324, True, None]},
        [[] for _ in range(1000)],
        {"a": {"a": {"a": 1}}},
        "[" * 1000,
        '"' + "[{" * 100 + '\\"' * 50 + "\\",
        0,
    ],
    ids=["long", "Unicode", "numbers", "wide", "same key at several depths", "brackets in a string", "escapes", "zero"],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_what_is_json_passes(value: object, *, escaped: bool) -> None:
    strict_json.check(json.dumps(value, ensure_ascii=escaped).encode(), 32)


@pytest.mark.parametrize("depth", [1, 32, 33])
def test_depth_counts_levels_and_not_brackets(depth: int) -> None:
    body = b'"]]]]",'.join([b"["] * depth) + b"]" * depth
    wide = b"[" + b",".join([b'{"a":"{{{"}'] * 100) + b"]"
    strict_json.check(wide, 2)
    with pytest.raises(Problem):
        strict_json.check(wide, 1)
    if depth <= 32:
        strict_json.check(body, 32)
    else:
        assert "32 levels" in _refusal(body)


@pytest.mark.parametrize("unit", [b'\\"', b"\\\\", b'"', b"[", b'"a\\"', b"\\", b'["', b'"[', b"{}", b'"",'], ids=repr)
def test_the_cost_of_a_body_grows_with_its_length_alone(unit: bytes) -> None:
    """Twice the length costs twice the time; what backtracks costs four times that, or hours."""

    def seconds(size: int) -> float:
        body = MANY + b'"' + unit * (size // len(unit))
        best = 9.9
        for _ in range(3):
            started = time.process_time()
            with pytest.raises(Problem):
                strict_json.check(body, 32)
            best = min(best, time.process_time() - started)
        return best

    assert seconds(64_000) < 0.5
    assert seconds(512_000) < 2


addresses = TypeAdapter[str](Email)


@pytest.mark.parametrize(
    "address",
    ["a@b.example", "first.last+tag@mail.example.co.uk", "o'neil_&co@x-y.example", "x" * 64 + "@example.org"],
)
def test_an_address_is_taken_as_it_was_written(address: str):
    assert addresses.validate_python(address) == address


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "@",
            "a",
            "a@",
            "@b.example",
            "a@b",
            "a@b.",
            "a@.example",
            "a@@b.example",
            "a@-b.example",
            "a@b_c.example",
        ),
        *(
            "a b@c.example",
            "a@b.example\n",
            "a@b.example\r\nBcc: c@d.example",
            "<a@b.example>",
            "a@b.example,c@d.example",
        ),
        *(
            "ä@b.example",
            "a@bücher.example",
            "x" * 65 + "@b.example",
            "a@" + "b" * 64 + ".example",
            f"a@{'b.' * 126}example",
        ),
    ],
)
def test_what_is_no_address_is_refused_without_being_repeated(text: str):
    with pytest.raises(ValidationError) as refused:
        addresses.validate_python(text)
    assert [error["msg"] for error in refused.value.errors()] == ["Value error, not an e-mail address"]
