"""Every variable: what it is refused for, in one line that names it and never quotes it."""

import re
import traceback
from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError, field_validator

from chassis.app import load_app
from chassis.features import FEATURES
from chassis.settings import CommaList, ConfigurationRefused, Settings, load
from chassis.settings_reading import MAX_SECRET_FILE_BYTES, variables

KEY = "qK3vZ9xT1mB7rW5yN8pL2sD4fG6hJ0aC"
PASSWORD = "vT4kQ9zLx2WmR7"
PRODUCTION = {
    "APP_ENVIRONMENT": "production",
    "DATABASE_URL": f"postgresql://shop_app:{PASSWORD}@db.internal:5432/shop?sslmode=verify-full",
    "MIGRATOR_DATABASE_URL": f"postgresql://shop_deploy:{PASSWORD}@db.internal/shop?sslmode=verify-full",
    "APP_SECRET_KEY": KEY,
    "APP_ALLOWED_HOSTS": "api.shop.test",
    "APP_PUBLIC_URL": "https://shop.test",
    "APP_SMTP_URL": f"smtp://shop:{PASSWORD}@mail.shop.test:587",
    "APP_MAIL_FROM": "no-reply@shop.com",
    "APP_SECURITY_CONTACT": "https://shop.test/security?from=security.txt",
}
if "valkey" in FEATURES:
    PRODUCTION["APP_VALKEY_URL"] = f"rediss://:{PASSWORD}@valkey.shop.test:6379/0"


def problems(environ: dict[str, str], cls: type[Settings] = Settings) -> list[str]:
    with pytest.raises(ConfigurationRefused) as refused:
        load(cls, environ)
    return refused.value.problems


def test_production_boots_with_the_variables_that_have_no_default() -> None:
    settings = load(Settings, PRODUCTION)
    assert settings.deployed
    assert (settings.host, settings.port, settings.metrics_port) == ("0.0.0.0", 8000, 8001)
    assert (settings.docs, settings.drain_seconds) == (False, 5)
    assert settings.allowed_hosts == ("api.shop.test",)
    assert settings.secret_key.get_secret_value() == KEY


@pytest.mark.parametrize("environment", ["development", "test"])
def test_development_boots_with_nothing_and_talks_to_itself(environment: str) -> None:
    settings = load(Settings, {}, environment=environment)
    assert not settings.deployed
    assert settings.database_url is None
    assert settings.host == "127.0.0.1"
    assert (settings.docs, settings.drain_seconds) == (True, 0)
    assert settings.allowed_hosts == ("localhost", "127.0.0.1", "[::1]")
    assert len(settings.secret_key.get_secret_value()) >= 32


# Variable, a value that production must refuse, a part of the reason.
REFUSED = [
    ("APP_ENVIRONMENT", "live", "must be 'development', 'test', 'staging' or 'production'"),
    ("APP_HOST", "shop.test", "IP address"),
    ("PORT", "eighty", "valid integer"),
    ("PORT", "0", "greater than or equal to 1"),
    ("PORT", "65535", "less than or equal to 65534"),
    ("METRICS_PORT", "8000", "must differ from PORT"),
    ("METRICS_PORT", "70000", "less than"),
    ("DATABASE_URL", "", "is required"),
    ("DATABASE_URL", "mysql://shop_app@db/shop", "begins with postgresql://"),
    ("DATABASE_URL", "postgresql://db.internal/shop", "must name a user and a host"),
    ("DATABASE_URL", "postgresql://shop_app@/shop", "must name a user and a host"),
    ("DATABASE_URL", f"postgresql://shop_app:{PASSWORD}@[db/shop", "well-formed"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].replace("verify-full", "require"), "sslmode=verify-full"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"] + "&sslmode=disable", "sslmode=verify-full"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].partition("?")[0], "sslmode=verify-full"),
    ("DATABASE_URL", f"postgresql://shop_app:{PASSWORD}@127.0.0.1,db.internal/shop", "sslmode=verify-full"),
    ("DATABASE_URL", f"postgresql://shop_app:{PASSWORD}@127.0.0.1/shop?host=db.internal", "sslmode=verify-full"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].replace(f":{PASSWORD}", ""), "must have a password"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].replace(PASSWORD, "change-me"), "password that is an example"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].replace(PASSWORD, "hunter22"), "password that is too short"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].replace("shop_app", "postgres"), "row-level security"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].replace("shop_app", "shop_migrator"), "row-level security"),
    ("DATABASE_URL", PRODUCTION["DATABASE_URL"].replace("shop_app", "shop_backup"), "row-level security"),
    ("MIGRATOR_DATABASE_URL", PRODUCTION["DATABASE_URL"], "another user than DATABASE_URL"),
    ("MIGRATOR_DATABASE_URL", f"postgresql://shop_deploy:{PASSWORD}@db.internal/shop", "sslmode=verify-full"),
    ("APP_SECRET_KEY", "", "is required"),
    ("APP_SECRET_KEY", KEY[:31], "too short: 32"),
    ("APP_SECRET_KEY", "ab" * 20, "too easy to guess"),
    ("APP_SECRET_KEY", "k7Qz9xTm" * 5, "too easy to guess"),
    ("APP_SECRET_KEY", "abcdefghijklmnopqrstuvwxyz0123456789", "too easy to guess"),
    ("APP_SECRET_KEY", "Change_Me-" + KEY, "example"),
    ("APP_SECRET_KEY", f" {KEY}", "white space"),
    ("APP_SECRET_KEY", load(Settings, {}).secret_key.get_secret_value(), "is the development key"),
    ("APP_LOG_LEVEL", "loud", "must be 'debug'"),
    ("APP_LOG_FORMAT", "xml", "must be 'auto'"),
    ("APP_LOG_FORMAT", "pretty", "must not be pretty"),
    ("APP_ALLOWED_HOSTS", "", "is required"),
    ("APP_ALLOWED_HOSTS", "*", "entry 1"),
    ("APP_ALLOWED_HOSTS", "api.shop.test,*.shop.test", "entry 2"),
    ("APP_ALLOWED_HOSTS", "https://api.shop.test", "entry 1"),
    ("APP_ALLOWED_HOSTS", "api.shop.test:443", "entry 1"),
    ("APP_ALLOWED_HOSTS", "[::g]", "entry 1"),
    ("APP_ALLOWED_HOSTS", "api.shop.test\nevil.test", "control characters"),
    ("APP_CORS_ORIGINS", "*", "entry 1"),
    ("APP_CORS_ORIGINS", "app.shop.test", "entry 1"),
    ("APP_CORS_ORIGINS", "https://app.shop.test/", "entry 1"),
    ("APP_CORS_ORIGINS", "https://app.shop.test,null", "entry 2"),
    ("APP_CORS_ORIGINS", "https://*.shop.test", "entry 1"),
    ("APP_CORS_ORIGINS", "https://app.shop.test:443", "own port"),
    ("APP_CORS_ORIGINS", "http://app.shop.test", "https"),
    ("APP_PUBLIC_URL", "", "is required"),
    ("APP_PUBLIC_URL", "shop.test", "must be an origin"),
    ("APP_PUBLIC_URL", "https://shop.test/", "must be an origin"),
    ("APP_PUBLIC_URL", "https://shop.test,https://evil.test", "must be an origin"),
    ("APP_PUBLIC_URL", "https://shop.test:443", "must be an origin"),
    ("APP_PUBLIC_URL", "http://shop.test", "https"),
    ("APP_SMTP_URL", "", "is required"),
    ("APP_SMTP_URL", "mail.shop.test:587", "must be smtp://"),
    ("APP_SMTP_URL", "smtp://mail.shop.test/folder", "must be smtp://"),
    ("APP_SMTP_URL", "smtp://shop@mail.shop.test", "both a user and a password"),
    ("APP_SMTP_URL", "smtp://shop:a[b@mail.shop.test:99999", "well-formed"),
    ("APP_MAIL_FROM", "", "is required"),
    ("APP_MAIL_FROM", "The Shop <no-reply@shop.com>", "must be an e-mail address"),
    ("APP_SECURITY_CONTACT", "", "is required"),
    ("APP_SECURITY_CONTACT", "security@shop.com", "must be a mailto: or https: URL"),
    ("APP_SECURITY_CONTACT", "mailto:The Shop <security@shop.com>", "must be an e-mail address"),
    ("APP_SECURITY_CONTACT", "http://shop.test/security", "must be a mailto: or https: URL"),
    ("APP_SECURITY_CONTACT", "https://shop.test/security Expires:", "must be a mailto: or https: URL"),
    ("APP_SECURITY_CONTACT", "mailto:security@shop.com\nContact: mailto:eve@evil.com", "control characters"),
    ("APP_TRUSTED_PROXIES", "*", "must not trust every address"),
    ("APP_TRUSTED_PROXIES", "10.0.0.0/8,::/0", "must not trust every address, and entry 2 does"),
    ("APP_TRUSTED_PROXIES", "10.0.0.1/8", "entry 1"),
    ("APP_LIMIT_PER_ADDRESS", "0", "greater than"),
    ("APP_LIMIT_PER_ACCOUNT", "many", "valid integer"),
    ("APP_LIMIT_PER_TENANT", "1000001", "less than"),
    ("APP_MAX_BODY_BYTES", "1MiB", "valid integer"),
    ("APP_MAX_BODY_BYTES", "99999999999", "less than"),
    ("APP_MAX_HEADER_BYTES", "10", "greater than"),
    ("APP_MAX_JSON_DEPTH", "100000", "less than"),
    ("APP_REQUEST_TIMEOUT_SECONDS", "0", "greater than"),
    ("APP_REQUEST_TIMEOUT_SECONDS", "nan", "finite"),
    ("APP_DATABASE_POOL_SIZE", "0", "greater than"),
    ("APP_STATEMENT_TIMEOUT_SECONDS", "inf", "finite"),
    ("APP_LOCK_TIMEOUT_SECONDS", "-1", "greater than"),
    ("APP_IDLE_TRANSACTION_TIMEOUT_SECONDS", "9999", "less than"),
    ("APP_DRAIN_SECONDS", "-1", "greater than"),
    ("APP_SHUTDOWN_SECONDS", "soon", "valid number"),
    ("APP_DOCS", "perhaps", "valid boolean"),
    ("APP_REVISION", "1 2", "must match"),
]
if "valkey" in FEATURES:
    REFUSED.extend(
        [
            ("APP_VALKEY_URL", "", "is required"),
            ("APP_VALKEY_URL", f"valkey://:{PASSWORD}@valkey.shop.test", "must begin with rediss://"),
            ("APP_VALKEY_URL", "rediss://valkey.shop.test", "must have a password"),
        ]
    )


@pytest.mark.parametrize(("variable", "value", "reason"), REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_the_variable_and_not_the_value(
    variable: str, value: str, reason: str
) -> None:
    [problem] = problems(PRODUCTION | {variable: value})
    assert problem.startswith(f"{variable} ")
    assert reason in problem
    assert "\n" not in problem
    quoted_on_purpose = {"pretty", "true", "*", "0", "1", "-1", "10", "inf"}
    assert not value or value in quoted_on_purpose or value not in problem
    assert PASSWORD not in problem


def test_every_variable_has_a_value_that_is_refused() -> None:
    assert {variable for variable, _, _ in REFUSED} == set(variables(Settings))


def test_all_problems_are_found_at_once() -> None:
    bad = {variable: value for variable, value, _ in REFUSED} | {"APP_ENVIRONMENT": "staging", "APP_TYPO": "x"}
    assert {line.split()[0] for line in problems(bad)} == set(bad) - {"APP_ENVIRONMENT"}
    several = PRODUCTION["DATABASE_URL"].replace("shop_app", "postgres").replace(PASSWORD, "x").partition("?")[0]
    [problem] = problems(PRODUCTION | {"DATABASE_URL": several})
    assert all(part in problem for part in ("row-level security", "sslmode=verify-full", "too short"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:5433", "[::1]:5432", "%2Frun%2Fpostgresql"])
def test_a_database_on_this_machine_needs_no_certificate(host: str) -> None:
    url = f"postgresql://shop_app:{PASSWORD}@{host}/shop"
    settings = load(Settings, PRODUCTION | {"DATABASE_URL": url})
    assert settings.database_url == SecretStr(url)
    load(Settings, PRODUCTION | {"DATABASE_URL": "postgresql://shop_app@/shop?host=/run/postgresql"})


def test_in_development_a_database_may_be_plain_but_not_a_superuser_s() -> None:
    load(Settings, {"DATABASE_URL": "postgresql://shop_app:app@db/shop"})
    assert "row-level security" in problems({"DATABASE_URL": "postgresql://postgres:x@localhost/shop"})[0]


def test_development_listens_on_loopback_only() -> None:
    assert problems({"APP_HOST": "0.0.0.0"}) == [
        "APP_HOST must be a loopback address in development, such as 127.0.0.1"
    ]
    assert load(Settings, {"APP_HOST": "::1"}).host == "::1"


def test_hosts_and_origins_are_exact_lists_in_lower_case() -> None:
    lists = {
        "APP_ALLOWED_HOSTS": "API.shop.test, 10.0.0.7,[::1]",
        "APP_CORS_ORIGINS": "https://App.shop.test,https://app.shop.test:8443,http://localhost:3000",
    }
    settings = load(Settings, PRODUCTION | lists)
    assert settings.allowed_hosts == ("api.shop.test", "10.0.0.7", "[::1]")
    assert settings.cors_origins == ("https://app.shop.test", "https://app.shop.test:8443", "http://localhost:3000")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("APP_SECRT_KEY", "APP_SECRET_KEY"),
        ("APP_DATABASE_URL", "DATABASE_URL"),
        ("APP_PORT", "PORT"),
        ("app_docs", "APP_DOCS"),
        ("APP_SECRET_KEY_FIEL", "APP_SECRET_KEY_FILE"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(variable: str, meant: str) -> None:
    assert problems({variable: KEY}) == [f"{variable} is not a variable of this service: did you mean {meant}?"]


def test_a_variable_of_ours_that_nobody_knows_is_refused_and_others_are_not_looked_at() -> None:
    assert problems({"APP_ZZZZZZZZZ": "1", "HOME": "/", "DATABASE": "x"}) == [
        "APP_ZZZZZZZZZ is not a variable of this service"
    ]
    assert problems({"APP_EVIL\n2": "1"}) == [r"APP_EVIL\n2 is not a variable of this service"]


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    environ = {**PRODUCTION, "APP_SECRET_KEY": "", "APP_SECRET_KEY_FILE": str(file)}
    assert load(Settings, environ).secret_key.get_secret_value() == KEY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no regular file"),
        (b"", "empty file"),
        (b"\r\n", "empty file"),
        (b"x" * (MAX_SECRET_FILE_BYTES + 1), "more than 64 KiB"),
        (b"\xff\xfe" + KEY.encode(), "UTF-8"),
        (KEY.encode()[:20], "too short"),
        (KEY.encode() + b" \n", "white space"),
    ],
)
def test_a_secret_s_file_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "canary"
    if content is not None:
        file.write_bytes(content)
    [problem] = problems({**PRODUCTION, "APP_SECRET_KEY": "", "APP_SECRET_KEY_FILE": str(file)})
    assert problem.startswith("APP_SECRET_KEY ")
    assert reason in problem
    assert "canary" not in problem


def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_text(KEY)
    assert problems({**PRODUCTION, "APP_SECRET_KEY_FILE": str(file)}) == [
        "APP_SECRET_KEY is set twice: unset it, or APP_SECRET_KEY_FILE"
    ]
    assert problems({"PORT_FILE": str(file)}) == ["PORT cannot come from a file: only secrets can, unset PORT_FILE"]
    assert "no regular file" in problems({**PRODUCTION, "DATABASE_URL": "", "DATABASE_URL_FILE": str(tmp_path)})[0]


def test_no_secret_is_in_a_representation_or_a_traceback() -> None:
    settings = load(Settings, PRODUCTION)
    for text in (repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()):
        assert KEY not in text
        assert PASSWORD not in text
    bad = PRODUCTION | dict.fromkeys(["PORT", "APP_SECRET_KEY", "APP_DOCS", "DATABASE_URL"], "canary")
    with pytest.raises(ConfigurationRefused) as refused:
        load(Settings, bad)
    assert "canary" not in "".join(traceback.format_exception(refused.value))
    assert (refused.value.__context__, refused.value.__cause__) == (None, None)


def test_settings_are_frozen_and_read_no_environment_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9999")
    settings = Settings()
    assert settings.port == 8000
    with pytest.raises(ValidationError):
        settings.port = 1  # pyright: ignore[reportAttributeAccessIssue]  that it is refused is the point
    assert load(Settings).port == 9999


class Service(Settings):
    """A service's own variables, of the kinds that it may have."""

    mail_key: SecretStr
    short_code: SecretStr | None = Field(None, min_length=4)
    regions: CommaList = ()
    weights: dict[str, int] = Field(default_factory=dict)
    plan: str = "free"

    @field_validator("plan")
    @classmethod
    def _plan(cls, value: str) -> str:
        if value != "free":
            raise ValueError(f"cannot be {value}")
        return value


def test_a_service_s_own_variables_are_read_and_checked_alike(tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_text("7731\n")
    own = {
        "APP_MAIL_KEY": KEY,
        "APP_SHORT_CODE_FILE": str(file),
        "APP_REGIONS": "eu,us",
        "APP_WEIGHTS": '{"eu": 2}',
    }
    with pytest.raises(ConfigurationRefused, match=r"APP_SHORT_CODE is too easy to guess"):
        load(Service, PRODUCTION | own)
    file.write_text("M4t8Xq2w")
    settings = load(Service, PRODUCTION | own)
    assert (settings.regions, settings.weights) == (("eu", "us"), {"eu": 2})
    assert settings.short_code == SecretStr("M4t8Xq2w")
    bad = {"APP_MAIL_KEY": "hunter2hunter2", "APP_WEIGHTS": "{canary", "APP_PLAN": "canary"}
    assert problems(PRODUCTION | bad, Service) == [
        "APP_MAIL_KEY is too short: 16 characters at least",
        "APP_WEIGHTS must be a valid dictionary",
        "APP_PLAN cannot be [value]",
    ]
    assert problems({}, Service) == ["APP_MAIL_KEY is required"]


# .env.example, of the service that this is. It may be older than the variables: an update says which ones it lacks.

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"^(# )?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def example() -> dict[str, tuple[bool, str]]:
    """Each variable of .env.example: whether it is set there, and its value."""
    found = LINE.findall((ROOT / ".env.example").read_text())
    assert len(found) == len({name for _, name, _ in found}), "a variable is there twice"
    return {name: (not comment, value) for comment, name, value in found}


def test_env_example_names_no_variable_that_there_is_not() -> None:
    assert set(example()) <= set(variables(load_app().settings_class))


def test_env_example_comments_out_what_has_a_default_and_shows_it() -> None:
    service_settings = load_app().settings_class
    fields = variables(service_settings)
    own = set(service_settings.model_fields) - set(Settings.model_fields)
    required = {name for name, field in fields.items() if service_settings.model_fields[field].is_required()}
    assert {name for name, (is_set, _) in example().items() if is_set} - required == set(PRODUCTION) & set(example())
    shown = {name: value for name, (_, value) in example().items() if fields[name] not in own}
    assert load(Settings, shown | PRODUCTION) == load(Settings, PRODUCTION)


def test_env_example_is_refused_in_production_for_each_of_its_secrets() -> None:
    values = {name: value for name, (is_set, value) in example().items() if is_set and name in PRODUCTION}
    named = {problem.split()[0] for problem in problems(values)}
    secrets = {variable for variable in PRODUCTION if variable.endswith(("_URL", "_KEY"))} - {"APP_PUBLIC_URL"}
    assert named & set(values) == secrets & set(values)


def test_nothing_in_env_example_passes_for_a_secret() -> None:
    for _, value in example().values():
        assert problems(PRODUCTION | {"APP_SECRET_KEY": value})[0].startswith("APP_SECRET_KEY ")
