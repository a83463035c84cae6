"""From environment variables to a settings class: what it held, and everything that is wrong with it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, get_args

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

PREFIX: Final = "APP_"
MAX_SECRET_FILE_BYTES: Final = 64 * 1024

S = TypeVar("S", bound=BaseSettings)


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


def variables(cls: type[BaseSettings]) -> dict[str, str]:
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
            raise ValueError(f"cannot come from a file: only secrets can, unset {variable}_FILE")
        if value:
            raise ValueError(f"is set twice: unset it, or {variable}_FILE")
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
            raise ValueError("has a _FILE variable that names no regular file")
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

    def __init__(self, cls: type[BaseSettings], values: Mapping[str, str]) -> None:
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
        if error["type"] in ("value_error", "assertion_error"):  # a service's own check may quote what it refuses
            text = text.replace(found.values.get(variable) or "\0", "[value]")
        text = re.sub(r"^\w+ should", "must", text).partition(", unable to")[0].replace("\n", " ")
        found.problems.setdefault(variable, text)
    return None


def _refuse_unknown(environ: Mapping[str, str], fields: Mapping[str, str], found: Examination[Any]) -> None:
    """A misspelt variable is a setting that someone believes in and nobody reads."""
    readable = {*fields, *(f"{variable}_FILE" for variable in fields)}
    for name in environ:
        if name.upper().startswith(PREFIX) and name not in readable:
            from difflib import get_close_matches  # slow to import, and seldom needed

            bare = name.upper().removeprefix(PREFIX)
            close = [bare] if bare in readable else get_close_matches(name.upper(), readable, 1, 0.7)
            hint = f": did you mean {close[0]}?" if close else ""
            found.problems[ascii(name)[1:-1]] = f"is not a variable of this service{hint}"
