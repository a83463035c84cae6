"""Bytes on their way: counted, hashed, encrypted and decrypted piece by piece, so that memory stays as it is.

Encryption is age's (https://age-encryption.org/v1): whoever makes backups knows public keys alone.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, LiteralString, cast

import pyrage

from chassis.dev.database import state_folder
from chassis.failure import Failure
from chassis.observe.logs import get_logger
from chassis.observe.redaction import allow_fields
from chassis.settings import ConfigurationRefused

if TYPE_CHECKING:
    from io import BufferedIOBase

    from chassis.backup.store import Body
    from chassis.settings import Settings

_PIECE_BYTES = 1024 * 1024
_PROGRESS_SECONDS = 0.2
_LOGGED_SECONDS = 10.0

_log = get_logger("chassis.backup")
allow_fields("backup", "step")


def tell(event: LiteralString, text: str, **fields: object) -> None:
    """Say `text` to whoever sits at the terminal; where none is, write `event` and its fields into the log."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", flush=True)
    else:
        _log.info(event, **fields)


class Tally:
    """How many bytes there were, and their SHA-256; tells now and then how far it is, when it has a name."""

    def __init__(self, doing: LiteralString = "") -> None:
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._doing: LiteralString = doing
        self._started = self._told = monotonic()

    def add(self, data: bytes) -> None:
        self.bytes += len(data)
        self._hash.update(data)
        if self._doing and monotonic() - self._told > _PROGRESS_SECONDS:
            self._tell()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _tell(self) -> None:
        now = monotonic()
        if sys.stdout.isatty():
            print(f"\r\x1b[K{self._doing}: {megabytes(self.bytes)}, {now - self._started:.0f} s", end="", flush=True)
        elif now - self._told > _LOGGED_SECONDS:
            _log.info(self._doing, bytes=self.bytes, seconds=round(now - self._started, 1))
        else:
            return
        self._told = now


def megabytes(count: int) -> str:
    """A number of bytes as people say it."""
    return f"{count / 1e6:,.1f} MB"


def recipients(settings: "Settings") -> list[str]:
    """The public keys that backups are encrypted for. In `.dev/backups`, unless set, of a key that is made once."""
    if settings.backup_recipients:
        return list(settings.backup_recipients)
    if settings.environment != "development" or settings.backup_url:
        raise ConfigurationRefused(["APP_BACKUP_RECIPIENTS is required: the age keys that backups are encrypted for"])
    file = _development_identity()
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(f"{pyrage.x25519.Identity.generate()}\n")
        print(f"chassis: made a key for backups of development: only {file} opens them", file=sys.stderr)
    return [str(pyrage.x25519.Identity.from_str(file.read_text().strip()).to_public())]


def identity(settings: "Settings") -> str:
    """The private key that opens backups: on the machine that restores, and on no other."""
    if settings.backup_identity is not None:
        return settings.backup_identity.get_secret_value()
    if not settings.deployed and (file := _development_identity()).exists():
        return file.read_text().strip()
    raise ConfigurationRefused(["APP_BACKUP_IDENTITY is required: the age key that opens the backups"])


def _development_identity() -> Path:
    return state_folder() / "backup.key"


class _Reader:
    """What pyrage reads from. It remembers why reading failed, because pyrage tells only that it did."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.error: Exception | None = None

    def read(self, size: int = _PIECE_BYTES) -> bytes:
        try:
            return self._read(size)
        except Exception as error:
            self.error = error
            raise


def encrypted(read: Callable[[int], bytes], keys: list[str]) -> Generator[bytes]:
    """What `read` gives until it gives nothing, encrypted for `keys`. Raises what `read` raises.

    age pushes and an upload pulls: hence the thread and the pipe. Close it, and let `read` end, if not all is wanted.
    """
    try:
        known = [pyrage.x25519.Recipient.from_str(key) for key in keys]
    except pyrage.RecipientError:
        raise ConfigurationRefused(["APP_BACKUP_RECIPIENTS has a key that is none of age's: is one cut off?"]) from None
    readable, writable = os.pipe()
    reader, errors = _Reader(read), list[Exception]()

    def work() -> None:
        with open(writable, "wb", buffering=0) as sink:  # noqa: PTH123  (a file descriptor has no path)
            try:
                pyrage.encrypt_io(_io(reader), _io(sink), known)
            except Exception as error:
                errors.append(reader.error or error)

    thread = threading.Thread(target=work, name="encrypting", daemon=True)
    thread.start()
    with open(readable, "rb") as source:  # noqa: PTH123
        yield from iter(partial(source.read, _PIECE_BYTES), b"")
    thread.join()
    if errors:
        raise errors[0]


class _Writer:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept here."""


class Undecryptable(Failure):
    """This key does not open that, or it is not what age wrote."""


def decrypt(source: "Body", key: str, stored: Tally, write: Callable[[bytes], object]) -> None:
    """Give `write` what `source` is, decrypted, while `stored` counts what is read. Raises Undecryptable."""

    def read(size: int) -> bytes:
        data = source.read(size)
        stored.add(data)
        return data

    reader, failed = _Reader(read), list[Exception]()

    def checked(data: bytes) -> None:
        try:
            write(data)
        except Exception as error:
            failed.append(error)
            raise

    try:
        known = pyrage.x25519.Identity.from_str(key)
    except pyrage.IdentityError:
        raise ConfigurationRefused(["APP_BACKUP_IDENTITY is no key of age's: is it cut off?"]) from None
    try:
        pyrage.decrypt_io(_io(reader), _io(_Writer(checked)), [known])
    except Exception as error:
        if reader.error or failed:
            raise (reader.error or failed[0]) from None
        raise Undecryptable(str(error)) from None


def _io(file: object) -> "BufferedIOBase":
    """pyrage asks for a method, and its types for a class."""
    return cast("BufferedIOBase", file)
