"""`ETag` and `If-Match` (RFC 9110 section 13, RFC 6585 section 3): nobody overwrites what they have not seen."""

import re
from typing import Annotated

from fastapi import Header
from fastapi.params import Depends

from chassis.http.reply import Problem, bad_request

ETAG = '"[0-9]{1,18}"'
"""What an ETag of ours looks like: the pattern of the document too."""


class Versioned:
    """Base of row types whose `version` grows with every change: an answer made of one carries its `ETag`."""

    __slots__ = ()

    version: int

    @property
    def etag(self) -> bytes:
        return b'"%d"' % self.version


def changed() -> Problem:
    """The 412 for a version that is not the latest any more."""
    return Problem(412, "version_changed", "This was changed since you read it: read it again, then repeat the change.")


async def expected_version(if_match: Annotated[str | None, Header()] = None) -> int:
    """The dependency behind `ExpectedVersion`."""
    if if_match is None:
        raise Problem(428, "if_match_missing", "Send 'If-Match' with the ETag that you read.")
    match = re.fullmatch(ETAG, if_match.strip())
    if match is None:
        raise bad_request("if_match_malformed", "'If-Match' takes the one ETag that you read, in its quotes.")
    return int(match[0][1:-1])


ExpectedVersion = Annotated[int, Depends(expected_version)]
"""The version in `If-Match`: 428 without one, 400 when it is none of ours. `*` and lists are not taken."""
