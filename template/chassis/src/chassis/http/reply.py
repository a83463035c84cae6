"""An answer before it is written: what handlers, problems and replays have in common."""

from typing import NamedTuple

Header = tuple[bytes, bytes]

JSON = b"application/json"


class Reply(NamedTuple):
    """A whole answer: status, body, media type of the body, and further headers in lower case."""

    status: int
    body: bytes = b""
    media_type: bytes = JSON
    headers: tuple[Header, ...] = ()
