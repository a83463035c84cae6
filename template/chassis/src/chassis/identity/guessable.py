"""Passwords that an attacker tries first, found offline.

With fifteen characters at least, few of the famous ones are left; what people do instead is to stretch them:
`password123456789`, `qwertyqwertyqwerty`, their own address twice. So what counts is in how few pieces a password can
be written down, a piece being one character, one common word, one run along the alphabet or the keyboard, or a
repetition of what was there before. A passphrase of words that are not famous has as many pieces as letters.
"""

import unicodedata
from functools import cache
from importlib.resources import files

from chassis.http.problems import Problem
from chassis.identity.passwords import LONGEST, SHORTEST

_FEWEST_PIECES = 8
_SHORTEST_PIECE = 3
_LOOKED_AT = 96
"""Characters. Whoever goes on for longer has made enough of them, or repeats: the first few pieces then tell."""

_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azerty",
         "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p", "1q2w3e4r5t6y7u8i9o0p", "q1w2e3r4t5y6u7i8o9p0")  # fmt: skip
_RUNS = tuple(row * 2 for row in _ROWS) + tuple(row[::-1] * 2 for row in _ROWS)
_DISGUISES = str.maketrans("@431!05$7", "aaeiiosst")


def check(password: str, *about: str) -> None:
    """Raise a 422 problem for a password that is easy to guess. `about` is what an attacker knows: the address."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Problem(422, "password_length", f"A password has {SHORTEST} to {LONGEST} characters.")
    if pieces(password, *about) < _FEWEST_PIECES:
        raise Problem(
            422,
            "password_guessable",
            "This password is easy to guess: it is made of common words, repetitions, runs or your address. "
            "Take a few words that nobody would expect together.",
        )


def pieces(password: str, *about: str) -> int:
    """In how few pieces the beginning of the password can be written down."""
    text = unicodedata.normalize("NFKC", password).casefold()[:_LOOKED_AT]
    words = _common() | {part for name in about for part in _parts(name)}
    plain = text.translate(_DISGUISES)
    longest = max(map(len, words))
    fewest = [0]
    for end in range(1, len(text) + 1):
        best = fewest[end - 1] + 1
        for start in range(max(0, end - max(longest, end // 2)), end - _SHORTEST_PIECE + 1):
            if fewest[start] + 1 < best and _is_piece(text, plain, start, end, words):
                best = fewest[start] + 1
        fewest.append(best)
    return fewest[-1]


def _is_piece(text: str, plain: str, start: int, end: int, words: frozenset[str] | set[str]) -> bool:
    piece = text[start:end]
    return (
        piece in words
        or plain[start:end] in words
        or piece in text[: end - 1]  # has been there before, even if it overlaps: aaaa is a and its repetition
        or any(piece in run for run in _RUNS)
    )


def _parts(name: str) -> list[str]:
    name = name.casefold()
    found = [name, *name.replace("@", ".").replace("+", ".").replace("-", ".").replace("_", ".").split(".")]
    return [part for part in found if len(part) >= _SHORTEST_PIECE]


@cache
def _common() -> frozenset[str]:
    """The famous passwords and what they are made of, and all years of living memory."""
    text = (files("chassis.identity") / "common_passwords.txt").read_text("utf-8")
    years = {str(year) for year in range(1930, 2040)}
    return frozenset(text.split()) | years
