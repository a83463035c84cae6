"""E-mail addresses: the one form in which they are compared, kept beside the one that was typed.

`Ann.Lee@EXAMPLE.com` and `ann.lee@example.com` are one person. Dots and +tags stay: what they mean is up to the
receiving server, and joining addresses that are two mailboxes would give one person the other's account.
"""

import unicodedata
from dataclasses import dataclass

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from chassis.http.problems import Problem


@dataclass(frozen=True, slots=True)
class Address:
    """An address as it was typed, and its canonical form."""

    typed: str
    canonical: str

    @property
    def lookup(self) -> bytes:
        """What a transaction names in `app.lookup` to see the account of this address."""
        return self.canonical.encode()


def parse(text: str) -> Address:
    """Read an address; nothing is asked of the network. Raises a 422 problem for what is none."""
    try:
        typed = _validated(text)
        # Compatibility forms may fold into what has a meaning in an address, such as a full-width @: hence again.
        folded = _validated(f"{_fold(typed.local_part)}@{typed.ascii_domain.casefold()}")
    except EmailNotValidError:
        raise Problem(422, "address_refused", "This is not an e-mail address that mail can be sent to.") from None
    return Address(typed.normalized, f"{folded.local_part}@{folded.ascii_domain}")


def _validated(text: str) -> ValidatedEmail:
    return validate_email(text, check_deliverability=False, strict=True)


def _fold(local_part: str) -> str:
    """NFKC and case folding (Unicode, section 3.13), so that equal-looking spellings are equal."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", local_part).casefold())
