"""`chassis config`: every variable, where it is from, and the verdict that boot gives."""

from pathlib import Path

import pytest

from chassis.config_report import Row, main, report
from chassis.features import FEATURES
from chassis.settings import EX_CONFIG, Settings
from chassis.settings_reading import variables

KEY = "qK3vZ9xT1mB7rW5yN8pL2sD4fG6hJ0aC"
URL = "postgresql://shop_app:vT4kQ9zLx2WmR7@127.0.0.1/shop"


def test_every_variable_has_a_row_with_its_source_and_what_may_be_shown(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    environ = {
        "APP_SECRET_KEY_FILE": str(file),
        "DATABASE_URL": URL,
        "PORT": "9000",
        "APP_CORS_ORIGINS": "http://a.test",
    }
    rows, problems = report(Settings, environ)
    assert problems == []
    assert [row.variable for row in rows] == list(variables(Settings))
    assert {
        Row("APP_ENVIRONMENT", "default", "development"),
        Row("APP_HOST", "default", "127.0.0.1"),
        Row("PORT", "environment", "9000"),
        Row("METRICS_PORT", "default", "9001"),
        Row("DATABASE_URL", "environment", "[redacted]"),
        Row("MIGRATOR_DATABASE_URL", "default", "-"),
        Row("APP_SECRET_KEY", "file", "[redacted]"),
        Row("APP_ALLOWED_HOSTS", "default", "localhost,127.0.0.1,[::1]"),
        Row("APP_CORS_ORIGINS", "environment", "http://a.test"),
        Row("APP_REQUEST_TIMEOUT_SECONDS", "default", "10"),
        Row("APP_DOCS", "default", "true"),
    } <= set(rows)


def test_a_configuration_that_boots_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Settings, {"APP_SECRET_KEY": KEY}) == 0
    out, err = capsys.readouterr()
    assert out.endswith("This configuration is accepted.\n")
    assert err == ""
    assert KEY not in out


def test_the_verdict_of_production_can_be_had_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"DATABASE_URL": URL, "APP_DOCS": "hunter2", "APP_SECRT_KEY": KEY}
    assert main(Settings, environ, environment="production") == EX_CONFIG == 78
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "APP_SECRET_KEY is required in staging and production",
        "APP_ALLOWED_HOSTS is required in staging and production",
        "APP_PUBLIC_URL is required in staging and production",
        "APP_SMTP_URL is required in staging and production: people verify their addresses by mail",
        "APP_MAIL_FROM is required in staging and production",
        *(["APP_VALKEY_URL is required in staging and production"] if "valkey" in FEATURES else []),
        "APP_DOCS must be a valid boolean",
        "APP_SECRT_KEY is not a variable of this service: did you mean APP_SECRET_KEY?",
        "This configuration is refused.",
    ]
    assert len(out.splitlines()) == len(variables(Settings))
    for secret in (KEY, "vT4kQ9zLx2WmR7", "hunter2"):
        assert secret not in out + err
