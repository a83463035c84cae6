"""The configuration: one frozen, typed object, read from the environment once, at start.

Every variable is named ``APP_`` and the field, but for those with an alias. A secret one can come from a file
instead: ``APP_SECRET_KEY_FILE=/run/secrets/key``. An empty variable counts as unset.
What is wrong is found all at once: see `load`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import MinLen
from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from chassis.features import FEATURES
from chassis.settings_reading import PREFIX, ConfigurationRefused, load
from chassis.settings_rules import (
    check_bind_address,
    check_contact,
    check_database_url,
    check_hosts,
    check_mail_address,
    check_networks,
    check_origin,
    check_origins,
    check_smtp_url,
    check_valkey_url,
    database_user,
    refusal,
    secret_weakness,
)

__all__ = ["EX_CONFIG", "CommaList", "ConfigurationRefused", "Settings", "load"]

EX_CONFIG: Final = 78
"""The exit code of a process whose configuration is refused (sysexits.h)."""

DEPLOYED: Final = frozenset({"staging", "production"})

Environment = Literal["development", "test", "staging", "production"]
PerMinute = Annotated[int, Field(ge=1, le=1_000_000)]
Seconds = Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False)]


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Values with commas between them."""


def _is_deployed(data: Mapping[str, Any]) -> bool:
    return data.get("environment") in DEPLOYED


def _development_key() -> SecretStr:
    """A key that differs between checkouts and survives restarts. Refused when deployed, so it protects nothing."""
    return SecretStr(hashlib.sha256(f"development key of {Path(__file__).resolve()}".encode()).hexdigest())


class Settings(BaseSettings):
    """What every service made of this template can be told. A service adds its own fields in a subclass.

    Fields are checked in this order, and a check may look at the fields before its own: `environment` is first.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True
    )

    environment: Environment = "development"
    """staging and production have the same, strict rules."""
    # Deployed, a container's own network is what limits who gets here.
    host: str = Field(default_factory=lambda data: "0.0.0.0" if _is_deployed(data) else "127.0.0.1")  # noqa: S104
    port: int = Field(default=8000, ge=1, le=65534, validation_alias="PORT")
    metrics_port: int = Field(default=0, ge=0, le=65535, validation_alias="METRICS_PORT")
    """PORT + 1 unless set."""
    database_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_URL")
    """Of the app role. None in development and test means the development database."""
    migrator_database_url: SecretStr | None = Field(default=None, validation_alias="MIGRATOR_DATABASE_URL")
    """Of a role that may change the schema. Only `chassis migrate` uses it."""
    secret_key: SecretStr = SecretStr("")
    """Signs what clients hold for us, such as cursors, and seals the keys that sign tokens. 32 characters at least."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_format: Literal["auto", "json", "pretty"] = "auto"
    """auto is json, but pretty on the terminal of a developer."""
    allowed_hosts: CommaList = ()
    """The exact names in whose Host requests are answered, in lower case and without port."""
    cors_origins: CommaList = ()
    """The exact origins whose pages may call from a browser, in lower case."""
    public_url: str = ""
    """The origin that people know this service by: who issues tokens, and where the links in mails lead."""
    smtp_url: SecretStr | None = None
    """Of the server that takes our mail. None in development and test: mail is kept in .dev/mail."""
    mail_from: str = ""
    """The address that mail is from."""
    security_contact: str = ""
    """Where people report a vulnerability, a mailto: or https: URL: what /.well-known/security.txt says."""
    trusted_proxies: CommaList = ()
    """The networks of our own proxies, whose X-Forwarded-For is believed."""
    limit_per_address: PerMinute = 600
    """Requests a minute; of an IPv6 client, from its /64 network. A thirtieth of it where secrets can be guessed."""
    limit_per_account: PerMinute = 600
    limit_per_tenant: PerMinute = 3000
    if "valkey" in FEATURES:
        valkey_url: SecretStr | None = None
        """Where limits are counted for all replicas together. None, which is refused when deployed: each by itself."""
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    max_header_bytes: int = Field(default=16 * 1024, ge=1024, le=64 * 1024)
    max_json_depth: int = Field(default=32, ge=1, le=100)
    request_timeout_seconds: Seconds = 10
    database_pool_size: int = Field(default=10, ge=1, le=200)
    statement_timeout_seconds: Seconds = 5
    lock_timeout_seconds: Seconds = 2
    idle_transaction_timeout_seconds: Seconds = 10
    drain_seconds: float = Field(default_factory=lambda data: 5 if _is_deployed(data) else 0, ge=0, le=300)
    """How long to serve on after SIGTERM, no longer ready, while load balancers look away."""
    shutdown_seconds: Seconds = 20
    """How long requests may then take to finish."""
    docs: bool = Field(default_factory=lambda data: not _is_deployed(data))
    """Whether /docs and /openapi.json are open to everybody."""
    revision: str = Field(default="unknown", pattern=r"^[A-Za-z0-9._+-]{1,64}$")
    """The commit of the build."""

    @property
    def deployed(self) -> bool:
        """Whether real users may be there: staging and production."""
        return self.environment in DEPLOYED

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only arguments: the environment is read by `load`, and by nothing else."""
        return (init_settings,)

    @field_validator("host")
    @classmethod
    def _host(cls, value: str, info: ValidationInfo) -> str:
        check_bind_address(value, loopback_only=info.data.get("environment") == "development")
        return value

    @field_validator("metrics_port")
    @classmethod
    def _metrics_port(cls, value: int, info: ValidationInfo) -> int:
        if value == info.data.get("port"):
            raise refusal("must differ from PORT: metrics are not for the public")
        return value or info.data.get("port", 0) + 1

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            check_database_url(value.get_secret_value(), deployed=_is_deployed(info.data), app_role=True)
        elif _is_deployed(info.data):
            raise refusal("is required in staging and production")
        return value

    @field_validator("migrator_database_url")
    @classmethod
    def _migrator_database_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        check_database_url(value.get_secret_value(), deployed=_is_deployed(info.data), app_role=False)
        app: SecretStr | None = info.data.get("database_url")
        if app and database_user(app.get_secret_value()) == database_user(value.get_secret_value()):
            raise refusal("must have another user than DATABASE_URL: the app role may not change the schema")
        return value

    @field_validator("secret_key")
    @classmethod
    def _secret_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if not value.get_secret_value():
            if _is_deployed(info.data):
                raise refusal("is required in staging and production")
            return _development_key()
        if len(value.get_secret_value()) < 32:
            raise refusal("is too short: 32 characters at least")
        if _is_deployed(info.data) and value == _development_key():
            raise refusal("is the development key")
        return value

    @field_validator("*")
    @classmethod
    def _any_secret(cls, value: object, info: ValidationInfo) -> object:
        """Refuse weak secrets when deployed. A field with a `min_length` of its own is taken at its word."""
        name = info.field_name or ""
        if not isinstance(value, SecretStr) or name.endswith("_url") or not _is_deployed(info.data):
            return value
        field = cls.model_fields[name]
        minimum = [limit.min_length for limit in field.metadata if isinstance(limit, MinLen)]
        weakness = secret_weakness(value.get_secret_value(), *minimum)
        if weakness:
            raise refusal(weakness)
        return value

    @field_validator("log_format")
    @classmethod
    def _log_format(cls, value: str, info: ValidationInfo) -> str:
        if value == "pretty" and _is_deployed(info.data):
            raise refusal("must not be pretty in staging and production: it shows the messages of exceptions")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _allowed_hosts(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and _is_deployed(info.data):
            raise refusal("is required in staging and production")
        hosts = tuple(host.lower() for host in value) or ("localhost", "127.0.0.1", "[::1]")
        check_hosts(hosts)
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _cors_origins(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        origins = tuple(origin.lower() for origin in value)
        check_origins(origins, deployed=_is_deployed(info.data))
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _trusted_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_networks(value)
        return value

    @field_validator("valkey_url", check_fields=False)
    @classmethod
    def _valkey_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            check_valkey_url(value.get_secret_value(), deployed=_is_deployed(info.data))
        elif _is_deployed(info.data):
            raise refusal("is required in staging and production")
        return value

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            if _is_deployed(info.data):
                raise refusal("is required in staging and production")
            return f"http://localhost:{info.data.get('port', 0)}"
        check_origin(value, deployed=_is_deployed(info.data))
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            check_smtp_url(value.get_secret_value(), deployed=_is_deployed(info.data))
        elif _is_deployed(info.data):
            raise refusal("is required in staging and production: people verify their addresses by mail")
        return value

    @field_validator("mail_from")
    @classmethod
    def _mail_from(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            if _is_deployed(info.data):
                raise refusal("is required in staging and production")
            return "service@localhost"
        check_mail_address(value)
        return value

    @field_validator("security_contact")
    @classmethod
    def _security_contact(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            if _is_deployed(info.data):
                raise refusal("is required in staging and production: /.well-known/security.txt says it")
            return "mailto:service@localhost"
        check_contact(value)
        return value
