"""What makes the value of a variable acceptable. Each check raises a `refusal`, which never quotes the value."""

import ipaddress
import re
from itertools import pairwise
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic_core import PydanticCustomError

MIN_SECRET: Final = 16
MIN_DATABASE_PASSWORD: Final = 12

# Only words of six letters and more: a random secret does not contain one by accident.
_EXAMPLE_WORDS: Final = (
    *("changeme", "replaceme", "example", "placeholder", "insecure", "default", "development", "dummyvalue"),
    *("secret", "password", "qwerty", "letmein", "yourkey", "yourtoken", "keyhere", "tokenhere"),
)
_HOST_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_ORIGIN: Final = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def refusal(problem: str) -> PydanticCustomError:
    """The error that a validator raises: `problem` goes on from the variable's name, and is shown as it is."""
    return PydanticCustomError("refused", "{problem}", {"problem": problem})


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address with or without brackets, is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_example(value: str) -> bool:
    """Whether `value` has a word in it that stands for a secret, such as change-me."""
    plain = re.sub(r"[\W_]", "", value.lower())
    return any(word in plain for word in _EXAMPLE_WORDS)


def secret_weakness(value: str, minimum: int = MIN_SECRET) -> str | None:
    """Say what makes `value` guessable, or None. Strong is what a generator made: long, varied, no words."""
    if is_example(value):
        return "is an example, not a secret"
    if len(value) < minimum:
        return f"is too short: {minimum} characters at least"
    steps = sum(ord(b) - ord(a) in (0, 1) for a, b in pairwise(value))
    if len(set(value)) < 8 or value in (value + value)[1:-1] or steps > len(value) // 2:
        return "is too easy to guess: make a random one"
    return None


def check_bind_address(host: str, *, loopback_only: bool) -> None:
    """Refuse what is not an address to listen on; in development everything but this machine."""
    if loopback_only and not is_loopback(host):
        raise refusal("must be a loopback address in development, such as 127.0.0.1")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise refusal("must be an IP address, such as 0.0.0.0") from None


def check_hosts(hosts: tuple[str, ...]) -> None:
    """Refuse what is not an exact host name, IPv4 address or [IPv6 address]."""
    for number, host in enumerate(hosts, 1):
        if not _is_host(host):
            raise refusal(
                f"must be exact host names with commas between them, no scheme, port or '*': entry {number} is not one"
            )


def check_origins(origins: tuple[str, ...], *, deployed: bool) -> None:
    """Refuse what a browser would never send as an Origin; when deployed also plain http from elsewhere."""
    for number, origin in enumerate(origins, 1):
        match = _ORIGIN.fullmatch(origin)
        if not match or not _is_host(match[2]) or int(match[3] or 0) > 65535:
            raise refusal(
                "must be exact origins with commas between them, such as https://app.example.com, "
                f"no path and no '*': entry {number} is not one"
            )
        if match[3] == _DEFAULT_PORTS[match[1]]:
            raise refusal(f"must leave out a scheme's own port, as browsers do: entry {number} has it")
        if deployed and match[1] == "http" and not is_loopback(match[2]):
            raise refusal(f"must be https in staging and production: entry {number} is not")


def check_origin(origin: str, *, deployed: bool) -> None:
    """Refuse what is not one origin, as `check_origins` does for several."""
    match = _ORIGIN.fullmatch(origin)
    if not match or not _is_host(match[2]) or int(match[3] or 0) > 65535 or match[3] == _DEFAULT_PORTS[match[1]]:
        raise refusal("must be an origin in lower case, such as https://app.example.com, without path or default port")
    if deployed and match[1] == "http" and not is_loopback(match[2]):
        raise refusal("must be https in staging and production")


def check_smtp_url(url: str, *, deployed: bool) -> None:
    """Refuse what is not smtp://user:password@host:port (STARTTLS) or smtps://… (TLS from the first byte).

    When deployed also an example for a password. Whoever runs the server chose it, so nothing else is asked of it.
    """
    try:
        parts = urlsplit(url)
        valid = parts.port != 0 and not (parts.path.strip("/") or parts.query or parts.fragment)
    except ValueError:
        raise refusal("must be a well-formed URL: is a special character in the password not %-encoded?") from None
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or not valid:
        raise refusal("must be smtp://user:password@host:587, or smtps:// for TLS from the first byte")
    if bool(parts.username) != bool(parts.password):
        raise refusal("must have both a user and a password, or neither")
    if deployed and is_example(unquote(parts.password or "")):
        raise refusal("has a password that is an example, not a secret")


def check_mail_address(address: str) -> None:
    """Refuse what is not a plain e-mail address."""
    from email_validator import EmailNotValidError, validate_email

    try:
        validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        raise refusal("must be an e-mail address, such as no-reply@example.com") from None


def check_contact(url: str) -> None:
    """Refuse what RFC 9116 (section 2.5.3) would not take for a contact: a mailto: or https: URL."""
    scheme, _, rest = url.partition(":")
    if scheme == "mailto":
        check_mail_address(rest)
    elif not re.fullmatch(r"https://[a-z0-9.-]+(:[0-9]+)?(/[!-~]*)?", url):
        raise refusal("must be a mailto: or https: URL, such as mailto:security@example.com")


def _is_host(host: str) -> bool:
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]" == host
        except ValueError:
            return False
    return len(host) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in host.split("."))


def check_database_url(url: str, *, deployed: bool, app_role: bool) -> None:
    """Refuse a PostgreSQL URL that names no user or host; when deployed also plaintext and guessable passwords.

    Deployed, the server's certificate must be verified (`sslmode=verify-full`), unless every host is this machine
    (loopback or a Unix socket), where there is no wire to listen on: that is what lets one rehearse production.
    With `app_role`, owners and superusers are refused.
    """
    if not url.startswith("postgresql://"):
        raise refusal("must be a URL that begins with postgresql://")
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise refusal("must be a well-formed URL: is a special character in the password not %-encoded?") from None
    login, _, netloc = parts.netloc.rpartition("@")
    user, _, password = (unquote(part) for part in login.partition(":"))
    password = password or "".join(options.get("password", []))
    hosts = [re.sub(r":\d*$", "", host) for host in netloc.split(",")]
    hosts += [host for name in ("host", "hostaddr") for value in options.get(name, []) for host in value.split(",")]
    hosts = [unquote(host) for host in hosts if host]
    if not user or not hosts:
        raise refusal("must name a user and a host: postgresql://user:password@host:5432/database")
    remote = not all(host.startswith("/") or is_loopback(host) for host in hosts)
    problems: list[str] = []
    if app_role and (user == "postgres" or user.endswith(("_migrator", "_backup"))):
        problems.append("must have the app role as its user: row-level security does not bind owners and superusers")
    if deployed and remote and set(options.get("sslmode", [])) != {"verify-full"}:
        problems.append("must have sslmode=verify-full in staging and production, unless the host is this machine")
    if deployed and remote and not password and not options.keys() & {"sslcert", "passfile"}:
        problems.append("must have a password (or sslcert or passfile)")
    weakness = secret_weakness(password, MIN_DATABASE_PASSWORD) if deployed and password else None
    if weakness:
        problems.append(f"has a password that {weakness}")
    if problems:
        raise refusal("; ".join(problems))


def check_valkey_url(url: str, *, deployed: bool) -> None:
    """Refuse what is not a Valkey's URL; when deployed also plaintext to another machine and guessable passwords."""
    try:
        parts = urlsplit(url)
        host, password = parts.hostname or "", unquote(parts.password or "")
        well_formed = parts.port != 0 and re.fullmatch(r"/?|/\d{1,5}", parts.path) and not parts.query
    except ValueError:
        raise refusal("must be a well-formed URL: is a special character in the password not %-encoded?") from None
    if parts.scheme not in ("valkey", "redis", "valkeys", "rediss") or not host or not well_formed:
        raise refusal("must be a URL such as rediss://user:password@host:6379/0, or valkey://localhost:6379/0")
    if not deployed:
        return
    if not parts.scheme.endswith("s") and not is_loopback(host):
        raise refusal("must begin with rediss:// (with TLS) in staging and production, unless the host is this machine")
    if not password and not is_loopback(host):
        raise refusal("must have a password")
    weakness = secret_weakness(password, MIN_DATABASE_PASSWORD) if password else None
    if weakness:
        raise refusal(f"has a password that {weakness}")


def check_networks(networks: tuple[str, ...]) -> None:
    """Refuse what is not a network in CIDR notation, and what would believe everybody."""
    for number, network in enumerate(networks, 1):
        try:
            everybody = network == "*" or ipaddress.ip_network(network).prefixlen == 0
        except ValueError:
            raise refusal(
                "must be networks with commas between them, such as 10.0.0.0/8 or fd00::/8, with no bit set beyond the "
                f"prefix: entry {number} is not one"
            ) from None
        if everybody:
            raise refusal(f"must not trust every address, and entry {number} does: clients could say who they are")


def database_user(url: str) -> str:
    """The user of a URL that `check_database_url` accepted."""
    return unquote(urlsplit(url).netloc.rpartition("@")[0].partition(":")[0])
