"""The configuration: one frozen, typed object, read from the environment once, at start.

Every variable is named ``APP_`` and the field, but for those with an alias. A secret one can come from a file
instead: ``APP_SECRET_KEY_FILE=/run/secrets/key``. An empty variable counts as unset.
What is wrong is found all at once: see `load`.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_args

from annotated_types import MinLen
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from .settings_rules import (
    check_bind_address,
    check_database_url,
    check_hosts,
    check_origins,
    database_user,
    secret_weakness,
)

EX_CONFIG: Final = 78
"""The exit code of a process whose configuration is refused (sysexits.h)."""

PREFIX: Final = "APP_"
DEPLOYED: Final = frozenset({"staging", "production"})
MAX_SECRET_FILE_BYTES: Final = 64 * 1024

Environment = Literal["development", "test", "staging", "production"]
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

    environment: Environment = Field("development", description="staging and production have the same, strict rules")
    host: str = Field(
        default_factory=lambda data: "0.0.0.0" if _is_deployed(data) else "127.0.0.1",  # noqa: S104  a container's default
        description="the address to listen on",
    )
    port: int = Field(8000, ge=1, le=65534, validation_alias="PORT")
    metrics_port: int = Field(0, ge=0, le=65535, validation_alias="METRICS_PORT", description="PORT + 1 unless set")
    database_url: SecretStr | None = Field(
        None, validation_alias="DATABASE_URL", description="as the app role; unset in development: the development one"
    )
    migrator_database_url: SecretStr | None = Field(
        None, validation_alias="MIGRATOR_DATABASE_URL", description="as the role that migrates; used by nothing else"
    )
    secret_key: SecretStr = Field(SecretStr(""), description="signs cursors; at least 32 characters")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_format: Literal["auto", "json", "pretty"] = Field("auto", description="auto is pretty on a terminal, else json")
    allowed_hosts: CommaList = Field((), description="the exact Host names to answer to")
    cors_origins: CommaList = Field((), description="the exact origins whose pages may call from a browser")
    max_body_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    max_header_bytes: int = Field(16 * 1024, ge=1024, le=64 * 1024)
    max_json_depth: int = Field(32, ge=1, le=100)
    request_timeout_seconds: Seconds = 10
    database_pool_size: int = Field(10, ge=1, le=200)
    statement_timeout_seconds: Seconds = 5
    lock_timeout_seconds: Seconds = 2
    idle_transaction_timeout_seconds: Seconds = 10
    drain_seconds: float = Field(
        default_factory=lambda data: 5 if _is_deployed(data) else 0,
        ge=0,
        le=300,
        allow_inf_nan=False,
        description="how long to serve on, no longer ready, after SIGTERM",
    )
    shutdown_seconds: Seconds = Field(20, description="how long requests may take to finish after that")
    docs: bool = Field(
        default_factory=lambda data: not _is_deployed(data), description="whether /docs and /openapi.json are open"
    )
    development_principals: bool = Field(
        default_factory=lambda data: not _is_deployed(data), description="callers may say who they are; not deployed"
    )
    revision: str = Field("unknown", pattern=r"^[A-Za-z0-9._+-]{1,64}$", description="the commit of the build")

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
            raise ValueError("must differ from PORT: metrics are not for the public")
        return value or info.data.get("port", 0) + 1

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            check_database_url(value.get_secret_value(), deployed=_is_deployed(info.data), app_role=True)
        elif _is_deployed(info.data):
            raise ValueError("is required in staging and production")
        return value

    @field_validator("migrator_database_url")
    @classmethod
    def _migrator_database_url(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        check_database_url(value.get_secret_value(), deployed=_is_deployed(info.data), app_role=False)
        app: SecretStr | None = info.data.get("database_url")
        if app and database_user(app.get_secret_value()) == database_user(value.get_secret_value()):
            raise ValueError("must have another user than DATABASE_URL: the app role may not change the schema")
        return value

    @field_validator("secret_key")
    @classmethod
    def _secret_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if not value.get_secret_value():
            if _is_deployed(info.data):
                raise ValueError("is required in staging and production")
            return _development_key()
        if len(value.get_secret_value()) < 32:
            raise ValueError("is too short: 32 characters at least")
        if _is_deployed(info.data) and value == _development_key():
            raise ValueError("is the development key")
        return value

    @field_validator("*")
    @classmethod
    def _any_secret(cls, value: object, info: ValidationInfo) -> object:
        """Refuse weak secrets when deployed. A field with a `min_length` of its own is taken at its word."""
        name = info.field_name or ""
        if not isinstance(value, SecretStr) or name.endswith("database_url") or not _is_deployed(info.data):
            return value
        field = cls.model_fields[name]
        minimum = [limit.min_length for limit in field.metadata if isinstance(limit, MinLen)]
        weakness = secret_weakness(value.get_secret_value(), *minimum)
        if weakness:
            raise ValueError(weakness)
        return value

    @field_validator("log_format")
    @classmethod
    def _log_format(cls, value: str, info: ValidationInfo) -> str:
        if value == "pretty" and _is_deployed(info.data):
            raise ValueError("must not be pretty in staging and production: it shows the messages of exceptions")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _allowed_hosts(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and _is_deployed(info.data):
            raise ValueError("is required in staging and production")
        hosts = tuple(host.lower() for host in value) or ("localhost", "127.0.0.1", "[::1]")
        check_hosts(hosts)
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _cors_origins(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        origins = tuple(origin.lower() for origin in value)
        check_origins(origins, deployed=_is_deployed(info.data))
        return origins

    @field_validator("development_principals")
    @classmethod
    def _development_principals(cls, value: bool, info: ValidationInfo) -> bool:
        if value and _is_deployed(info.data):
            raise ValueError("must not be true in staging and production: anyone could be anyone")
        return value


S = TypeVar("S", bound=Settings)


class ConfigurationRefused(Exception):
    """The configuration cannot be used. `problems` has a line for each reason, none of which quotes a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(cls: type[S], environ: Mapping[str, str] | None = None, *, environment: str | None = None) -> S:
    """Read the settings from `environ` (the process's own unless given), as if APP_ENVIRONMENT were `environment`.

    Raises `ConfigurationRefused` with every problem there is.
    """
    found = examine(cls, environ, environment=environment)
    if found.settings is None:
        raise ConfigurationRefused([f"{variable} {problem}" for variable, problem in found.problems.items()])
    return found.settings


@dataclass(slots=True)
class Examination(Generic[S]):
    """What the environment held for a settings class, and what is wrong with it."""

    values: dict[str, str]
    """What was found, by variable: those that are not here have their default."""
    files: set[str]
    """The variables whose value came from a file."""
    problems: dict[str, str]
    """What is wrong, by variable."""
    settings: S | None = None
    """None if anything is wrong."""


def examine(
    cls: type[S], environ: Mapping[str, str] | None = None, *, environment: str | None = None
) -> Examination[S]:
    """Do what `load` does, and return all that was found instead of raising."""
    environ = dict(os.environ if environ is None else environ)
    if environment is not None:
        environ["APP_ENVIRONMENT"] = environment
    fields = variables(cls)
    found: Examination[S] = Examination({}, set(), {})
    for variable, name in fields.items():
        try:
            value = _value(environ, variable, secret=is_secret(cls.model_fields[name]), found=found)
        except ValueError as error:
            found.problems[variable] = str(error)
        else:
            if value:
                found.values[variable] = value
    settings = _validate(cls, fields, found)
    _refuse_unknown(environ, fields, found)
    found.settings = None if found.problems else settings
    return found


def variables(cls: type[Settings]) -> dict[str, str]:
    """The variables that a settings class reads, each with its field, in the order of the fields."""
    return {
        field.validation_alias if isinstance(field.validation_alias, str) else PREFIX + name.upper(): name
        for name, field in cls.model_fields.items()
    }


def is_secret(field: FieldInfo) -> bool:
    """Whether a field's value must never be shown, and may come from a file."""
    return field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def _value(environ: Mapping[str, str], variable: str, *, secret: bool, found: Examination[Any]) -> str:
    """The value of a variable, or of the file that its _FILE variable names; empty if there is neither."""
    value, path = environ.get(variable, ""), environ.get(f"{variable}_FILE", "")
    if path:
        if not secret:
            raise ValueError("cannot come from a file: only secrets can, unset its _FILE variable")
        if value:
            raise ValueError("is set twice: as itself and as its _FILE variable")
        found.files.add(variable)
        value = _read_secret(Path(path))
    if value != value.strip():
        raise ValueError("must not begin or end with white space")
    if not secret and not value.isprintable():
        raise ValueError("must not contain control characters")
    return value


def _read_secret(path: Path) -> str:
    try:
        if not path.is_file():
            raise ValueError("must name a regular file that exists in its _FILE variable")
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_FILE_BYTES + 1)
        if len(content) > MAX_SECRET_FILE_BYTES:
            raise ValueError(f"comes from a file of more than {MAX_SECRET_FILE_BYTES // 1024} KiB")
        value = content.decode().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"comes from a file that cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("comes from a file that is not UTF-8 text") from None
    if not value:
        raise ValueError("comes from an empty file")
    return value


class _Source(EnvSettingsSource):
    """pydantic-settings's reading of variables, of a mapping that we made."""

    def __init__(self, cls: type[Settings], values: Mapping[str, str]) -> None:
        super().__init__(cls)
        self.env_vars = {variable.lower(): value for variable, value in values.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Leave what is not JSON to the field's own check, which knows what to say."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _validate(cls: type[S], fields: Mapping[str, str], found: Examination[S]) -> S | None:
    """Make the settings, or add what is wrong with their values to the problems."""
    try:
        return cls(**_Source(cls, found.values)())
    except ValidationError as refused:
        errors = refused.errors(include_url=False, include_context=False)
    names = {name: variable for variable, name in fields.items()}
    for error in errors:
        if error["type"] == "default_factory_not_called":  # a default that waits for a field that is already refused
            continue
        place = str(error["loc"][0]) if error["loc"] else "The configuration"
        variable = names.get(place, place)
        text = "is required" if error["type"] == "missing" else error["msg"].removeprefix("Value error, ")
        value = found.values.get(variable)
        if value and place not in Settings.model_fields:  # a service's own check may quote what it refuses
            text = text.replace(value, "[value]")
        found.problems.setdefault(variable, re.sub(r"^\w+ should", "must", text).replace("\n", " "))
    return None


def _refuse_unknown(environ: Mapping[str, str], fields: Mapping[str, str], found: Examination[Any]) -> None:
    """A misspelt variable is a setting that someone believes in and nobody reads."""
    readable = {*fields, *(f"{variable}_FILE" for variable in fields)}
    for name in environ:
        if name.upper().startswith(PREFIX) and name not in readable:
            bare = name.upper().removeprefix(PREFIX)
            close = [bare] if bare in readable else get_close_matches(name.upper(), readable, 1, 0.7)
            hint = f": did you mean {close[0]}?" if close else ""
            found.problems[ascii(name)[1:-1]] = f"is not a variable of this service{hint}"
