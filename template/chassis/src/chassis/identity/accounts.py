"""Accounts: people, each with a password and an address, kept as it was typed beside the form that counts.

`Ann.Lee@EXAMPLE.com` and `ann.lee@example.com` are one person. Dots and +tags stay: what they mean is up to the
receiving server, and joining addresses that are two mailboxes would give one person the other's account. For the same
reason addresses that look alike are not joined; what mixes alphabets to look like another is refused.
"""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from chassis.data.queries import query
from chassis.data.unit_of_work import UnitOfWork
from chassis.http.reply import Problem, unauthenticated
from chassis.identity.principal import Principal


@dataclass(frozen=True, slots=True)
class Address:
    """An address as it was typed, and its canonical form."""

    typed: str
    canonical: str

    @property
    def lookup(self) -> bytes:
        """What a transaction names in `app.lookup` to see the account of this address."""
        return self.canonical.encode()


def parse_address(text: str) -> Address:
    """Read an address; nothing is asked of the network. Raises a 422 problem for what is none."""
    try:
        typed = _validated(text)
        # Compatibility forms may fold into what has a meaning in an address, such as a full-width @: hence again.
        folded = _validated(f"{_fold(typed.local_part)}@{typed.ascii_domain.casefold()}")
    except EmailNotValidError:
        raise Problem(422, "address_refused", "This is not an e-mail address that mail can be sent to.") from None
    if any(map(_mixes_scripts, (folded.local_part, *folded.domain.split(".")))):
        raise Problem(422, "address_refused", "The letters of this address are of different alphabets.")
    return Address(typed.normalized, f"{folded.local_part}@{folded.ascii_domain}")


def _validated(text: str) -> ValidatedEmail:
    return validate_email(text, check_deliverability=False, strict=True)


def _fold(local_part: str) -> str:
    """NFKC and case folding (Unicode, section 3.13), so that equal-looking spellings are equal."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", local_part).casefold())


_ALIKE = frozenset({"LATIN", "GREEK", "CYRILLIC"})
"""Scripts with many letters that look the same, as the names of their characters begin."""


def _mixes_scripts(text: str) -> bool:
    """Whether there are letters of several scripts that look alike (Unicode Technical Standard 39, section 5.2)."""
    return len(_ALIKE.intersection(unicodedata.name(letter, "").partition(" ")[0] for letter in text)) > 1


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    email: str
    email_canonical: str
    password_hash: str
    verified_at: datetime | None
    disabled_at: datetime | None


BY_ADDRESS = query(
    "identity.account_by_address", Account, "select {row} from chassis.accounts where email_canonical = $1"
)
"""Needs the address in `app.lookup`."""

_BY_ID = query("identity.account", Account, "select {row} from chassis.accounts where id = $1")
_HOME = query(
    "identity.home",
    UUID,
    "select tenant_id from chassis.memberships where account_id = $1 order by created_at, tenant_id limit 1",
)
SET_DISABLED = query(
    "identity.set_disabled",
    UUID,
    """
    update chassis.accounts set disabled_at = case when $2 then coalesce(disabled_at, now()) end
    where id = $1
    returning id
    """,
)


ROLE_NOW = query(
    "identity.role_now",
    str,
    "select role from chassis.memberships where tenant_id = $1 and account_id = $2 for share",
)
"""Held until the commit, so that nobody can take it away in between."""


async def check_still(db: UnitOfWork, who: Principal) -> None:
    """Raise the 401 problem unless the caller still has the role that the token says.

    A token outlives its session by seconds; what hands on rights must not make them last.
    """
    if await db.first(ROLE_NOW, who.tenant_id, who.subject) != who.role:
        raise unauthenticated()


async def become(db: UnitOfWork, account_id: UUID) -> Account:
    """Go on as an account that this transaction has found, in the tenant that was its first."""
    await db.act_as(account_id=account_id)
    home = await db.first(_HOME, account_id)
    if home is not None:
        await db.act_as(tenant_id=home)
    return await read(db, account_id)


async def read(db: UnitOfWork, account_id: UUID) -> Account:
    """The account that this transaction acts as. Raises the 401 problem when there is none any more."""
    account = await db.first(_BY_ID, account_id)
    if account is None:
        raise unauthenticated()
    return account
