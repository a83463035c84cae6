"""What a client may send: the types that a module's models are made of."""

import pytest
from pydantic import TypeAdapter, ValidationError

from chassis import Email

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
