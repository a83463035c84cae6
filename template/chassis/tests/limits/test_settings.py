"""What the limits can be told, and what is refused."""

import pytest

from chassis.features import FEATURES
from chassis.settings import ConfigurationRefused, Settings, load
from chassis.settings_rules import check_valkey_url

DEPLOYED = {
    "APP_ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://shop_app:Zk3q9Xw7Lm2pVb8n@localhost/shop",
    "APP_SECRET_KEY": "Zk3q9Xw7Lm2pVb8nTy5rHc1dJf6gKs4a",
    "APP_ALLOWED_HOSTS": "api.example.com",
    "APP_PUBLIC_URL": "https://app.example.com",
    "APP_SMTP_URL": "smtps://mail.example.com",
    "APP_MAIL_FROM": "no-reply@example.com",
    "APP_SECURITY_CONTACT": "mailto:security@example.com",
}


def problems(**environ: str) -> list[str]:
    with pytest.raises(ConfigurationRefused) as refused:
        load(Settings, environ)
    return list(refused.value.problems)


def test_networks_are_taken_as_they_are_written():
    settings = load(Settings, {"APP_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8,192.0.2.7"})
    assert settings.trusted_proxies == ("10.0.0.0/8", "fd00::/8", "192.0.2.7")
    assert load(Settings, {}).trusted_proxies == ()


@pytest.mark.parametrize("everybody", ["*", "0.0.0.0/0", "::/0", "10.0.0.0/8,*"])
@pytest.mark.parametrize("environment", ["development", "test", "staging", "production"])
def test_nobody_trusts_everybody(everybody: str, environment: str):
    number = 2 if "," in everybody else 1
    told = {**DEPLOYED, "APP_ENVIRONMENT": environment, "APP_TRUSTED_PROXIES": everybody}
    problem = f"must not trust every address, and entry {number} does: clients could say who they are"
    assert f"APP_TRUSTED_PROXIES {problem}" in problems(**told)


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "proxy.example.com", "10.0.0.0/33", "10.0.0.0/8;fd00::/8", "fe80::%"])
def test_what_is_no_network_is_refused_and_not_repeated(wrong: str):
    [problem] = problems(APP_TRUSTED_PROXIES=wrong)
    assert problem.startswith("APP_TRUSTED_PROXIES must be networks with commas between them, such as 10.0.0.0/8")
    assert problem.endswith("entry 1 is not one")
    assert wrong not in problem


@pytest.mark.parametrize("name", ["APP_LIMIT_PER_ADDRESS", "APP_LIMIT_PER_ACCOUNT", "APP_LIMIT_PER_TENANT"])
def test_a_limit_is_a_positive_number_of_requests(name: str):
    for wrong in ("0", "-1", "1.5", "many", "1000001"):
        [problem] = problems(**{name: wrong})
        assert problem.startswith(f"{name} ")


def test_the_limits_are_on_by_default():
    settings = load(Settings, {})
    assert (settings.limit_per_address, settings.limit_per_account, settings.limit_per_tenant) == (600, 600, 3000)


@pytest.mark.parametrize(
    "url",
    [
        "rediss://user:Zk3q9Xw7Lm2pVb8n@valkey.example.com:6379/0",
        "rediss://:Zk3q9Xw7Lm2pVb8n@valkey.example.com",
        "valkey://127.0.0.1:6379/3",
        "valkey://:Zk3q9Xw7Lm2pVb8n@localhost",
        "valkey://[::1]:6379",
    ],
)
def test_a_url_of_a_valkey_is_taken(url: str):
    check_valkey_url(url, deployed=True)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("valkey://:Zk3q9Xw7Lm2pVb8n@valkey.example.com", "must begin with rediss://"),
        ("rediss://valkey.example.com", "must have a password"),
        ("rediss://:hunter2@valkey.example.com", "has a password that is too short"),
        ("rediss://:change-me-please-now@valkey.example.com", "has a password that is an example"),
        ("http://valkey.example.com", "must be a URL such as"),
        ("rediss://valkey.example.com/zero", "must be a URL such as"),
        ("rediss://valkey.example.com/0?ssl_cert_reqs=none", "must be a URL such as"),
        ("rediss://valkey.example.com:port/0", "must be a well-formed URL"),
        ("rediss:///0", "must be a URL such as"),
    ],
)
def test_a_url_that_would_not_do_in_production_is_refused(url: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        check_valkey_url(url, deployed=True)


def test_the_shared_store_is_required_when_deployed_and_unknown_where_nobody_asked_for_it():
    if "valkey" in FEATURES:
        assert problems(**DEPLOYED) == ["APP_VALKEY_URL is required in staging and production"]
        assert load(Settings, {**DEPLOYED, "APP_VALKEY_URL": "valkey://localhost"})
        assert load(Settings, {}).valkey_url is None
    else:
        assert load(Settings, DEPLOYED)
        [problem] = problems(APP_VALKEY_URL="valkey://localhost")
        assert problem.startswith("APP_VALKEY_URL is not a variable of this service")
