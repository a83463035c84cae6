"""Which passwords are refused offline, which addresses are the same, and that hashing holds up nobody."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chassis.http.reply import Problem
from chassis.identity import accounts, passwords
from chassis.identity.passwords import Cost, Passwords


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "password123456789",
        "Password123!Password",
        "P@ssw0rd1234567890",
        "qwertyuiopasdfghjkl",
        "qwertyqwertyqwerty",
        "1qaz2wsx3edc4rfv5tgb",
        "aaaaaaaaaaaaaaaaaaaa",
        "abcabcabcabcabcabcabc",
        "abcdefghijklmnopqrstuvwxyz",
        "zyxwvutsrqponmlkjih",
        "123456789012345678",
        "iloveyouiloveyou1",
        "IloveYouForever2024",
        "letmeinletmeinletmein",
        "correct horse battery staple",
        "correcthorsebatterystaple",
        "Liverpool-Chelsea-2024!",
        "Summer2024Winter2025",
        "administrator2024!!",
        "x" * 1000,
        "password" * 100,
        "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44password",
        "ann.lee@example.com",
        "ann.lee@example.com1",
        "annleeannleeannlee",
        "mailcreated5240",
        "polniypizdec0211",
        "elephantelephant",
        "Pakistan2024!pakistan",
        "clarinetclarinet",
    ],
)
def test_what_everybody_tries_is_refused(password: str):
    with pytest.raises(Problem) as refused:
        passwords.refuse_guessable(password, "ann.lee@example.com")
    assert refused.value.code == "password_guessable"


def test_each_of_the_most_common_passwords_is_refused_however_it_is_stretched():
    known = (Path(passwords.__file__).parent / "common_passwords.txt").read_text("utf-8").split()
    assert len(known) > 3900
    stretches: list[Callable[[str], str]] = [
        lambda word: word * 6,
        lambda word: f"{word}123456789012",
        lambda word: f"{word.title()}-{word}-{word}-{word}!",
        lambda word: f"{word.upper()}2024aaaaaaaaaaaa",
    ]
    taken: list[str] = []
    for number, word in enumerate(known[::3]):
        try:
            passwords.refuse_guessable(stretches[number % 4](word))
            taken.append(word)
        except Problem as refused:
            assert refused.code == "password_guessable"  # noqa: PT017  (most of a thousand do raise)
    assert taken == []


@pytest.mark.parametrize(
    "password",
    [
        "a stool, two maps and rust",
        "seven quiet garden rakes",
        "tiger window guitar purple",
        "purplemonkeydishwasher",
        "kq8vJ2mZ0pLx5rT",
        "0a1f5c7e9b3d2846",
        "    the  fifth  spoon    ",
        "пять старых чайников",
        "我每天早上喝三杯绿茶不加糖真的很好喝",
        "the only rule is that it is long " * 30,
    ],
)
def test_what_nobody_tries_is_taken_whatever_it_is_made_of(password: str):
    passwords.refuse_guessable(password, "ann.lee@example.com")


@pytest.mark.parametrize("length", [1, 14, 1001])
def test_a_password_has_a_length(length: int):
    text = ("kq8vJ2mZ0pLx5rTy" * 70)[:length]
    with pytest.raises(Problem) as refused:
        passwords.refuse_guessable(text)
    assert refused.value.code == "password_length"


def test_looking_at_any_password_takes_no_time():
    started = time.process_time()
    for text in ("kq8vJ2mZ0pLx5rTy" * 62, "ab" * 500, "\U0001f600" * 1000):
        passwords.pieces(text, "ann.lee@example.com")
    assert time.process_time() - started < 0.5


@pytest.mark.anyio
async def test_hashing_leaves_the_event_loop_free():
    passwords = Passwords(Cost(memory_kib=64 * 1024, passes=8))
    hashing = asyncio.create_task(passwords.hash("a stool, two maps and rust"))
    turns = 0
    while not hashing.done():
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 10


@pytest.mark.anyio
async def test_composed_and_decomposed_accents_are_one_password():
    passwords = Passwords(Cost(memory_kib=8, passes=1))
    hashed = await passwords.hash("crème brûlée à Zürich")
    assert await passwords.matches("cre\u0300me bru\u0302le\u0301e a\u0300 Zu\u0308rich", hashed)
    assert not await passwords.matches("creme brulee a Zurich", hashed)
    assert not await passwords.matches("crème brûlée à Zürich", None)


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("ann@example.com", "ann@example.com"),
        ("Ann.Lee@EXAMPLE.com", "ann.lee@example.com"),
        ("a.n.n@example.com", "a.n.n@example.com"),
        ("ann+shop@example.com", "ann+shop@example.com"),
        ("ann@bücher.example.com", "ann@xn--bcher-kva.example.com"),
        ("ann@BÜCHER.example.com", "ann@xn--bcher-kva.example.com"),
        ("ann@xn--bcher-kva.example.com", "ann@xn--bcher-kva.example.com"),
        ("JOSÉ@example.com", "josé@example.com"),
        ("jose\u0301@example.com", "josé@example.com"),
        ("straße@example.com", "strasse@example.com"),
        ("анна@example.com", "анна@example.com"),
        ("анна@пример.example.com", "анна@xn--e1afmkfd.example.com"),
    ],
)
def test_an_address_has_one_form(typed: str, canonical: str):
    assert accounts.parse_address(typed).canonical == canonical


def test_what_was_typed_is_kept_for_the_mail():
    assert accounts.parse_address("Ann.Lee@Example.com").typed == "Ann.Lee@example.com"


@pytest.mark.parametrize(
    "text",
    ["", "ann", "ann@", "@example.com", "ann@example", "ann@@example.com", "a b@example.com", "ann@exam ple.com",
     "Ann <ann@example.com>", "ann@example.com\nBcc: eve@example.com", "ann\u202e@example.com", "ann\uff20example.com",
     "\uff41nn\ufe6beve@example.com", "\u0430nn@example.com", "ann@ex\u0430mple.com", "\u00b5nn@example.com",
     "ann@[127.0.0.1]", "x" * 65 + "@example.com", '"a b"@example.com'],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(Problem) as refused:
        accounts.parse_address(text)
    assert refused.value.status == 422
