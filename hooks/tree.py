"""The rendered folder as the checks see it, and the one form in which they say what is wrong."""

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple


class Problem(NamedTuple):
    """Something to put right, at a line (from 1) of a file. `path` is relative to the rendered folder."""

    path: str
    line: int
    message: str


class Found(NamedTuple):
    """Where a pattern matched."""

    path: str
    line: int
    match: re.Match[str]


@dataclass(frozen=True)
class Tree:
    """A rendered folder: the `answers` it was made with, and the `paths` that are checked strictly."""

    root: Path
    answers: Mapping[str, object]
    paths: tuple[str, ...]

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """The bytes of every strictly checked path that is a file. What was deleted, or is a link, is not there."""
        return {path: content for path in self.paths if (content := self.read(path)) is not None}

    @cached_property
    def texts(self) -> dict[str, str]:
        """The contents that are text."""
        texts: dict[str, str] = {}
        for path, content in self.contents.items():
            try:
                texts[path] = content.decode()
            except UnicodeDecodeError:
                continue
        return texts

    def mode(self, path: str) -> int:
        """The permission bits and the kind of a file, links not followed; 0 where there is none."""
        try:
            return (self.root / path).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def read(self, path: str) -> bytes | None:
        """The bytes of a regular file, None if it is not one."""
        return (self.root / path).read_bytes() if stat.S_ISREG(self.mode(path)) else None

    def glob(self, pattern: str) -> list[str]:
        """The paths that match, checked or not."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))

    def find(self, pattern: str, *prefixes: str) -> Iterator[Found]:
        """Every match in the checked texts whose path begins with one of the prefixes.

        Comments are left out, but not those that show a variable and its default.
        """
        for path, text in self.texts.items():
            if path.startswith(prefixes):
                for number, line in enumerate(text.splitlines(), 1):
                    for match in re.finditer(pattern, re.sub(r"(^|\s)#(?! ?[A-Z_]+=).*", "", line)):
                        yield Found(path, number, match)
