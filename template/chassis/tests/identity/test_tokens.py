"""Access tokens: every attack that the standards warn of, and keys that change while everybody works."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey

from chassis.app import Service
from chassis.identity.one_time import OpaqueTokens
from chassis.identity.tokens import LIFETIME_SECONDS, KeyRing, SealedKey, SigningKey, access_tokens
from chassis.identity.watch import Watch

from .conftest import Person

ISSUER = "https://shop.test"
PERMISSIONS = {"owner": frozenset({"orders:read"})}
SECRET = "a secret key for tests alone, 32 +"


def encoded(part: object) -> bytes:
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=")


class Issuer:
    """A service's keys, and what an attacker can make of a good token."""

    def __init__(self) -> None:
        self.ring = KeyRing(SECRET)
        self.private = Ed25519PrivateKey.generate()
        self.kid = "0123456789abcdef"
        sealed = vars(self.ring)["_seal"].encrypt(b"n" * 12, self.private.private_bytes_raw(), self.kid.encode())
        assert self.ring.read([SealedKey(self.kid, b"n" * 12 + sealed, datetime.now(UTC) - timedelta(hours=1))])
        self.tokens = access_tokens(self.ring, ISSUER, PERMISSIONS)
        self.header = {"alg": "EdDSA", "typ": "at+jwt", "kid": self.kid}
        now = int(time.time())
        self.claims = {
            "iss": ISSUER,
            "aud": f"{ISSUER}/v1",
            "sub": str(uuid4()),
            "tenant": str(uuid4()),
            "role": "owner",
            "sid": str(uuid4()),
            "jti": str(uuid4()),
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_SECONDS,
        }

    def token(
        self, header: object = None, claims: object = None, key: Ed25519PrivateKey | None = None, spaced: bool = False
    ) -> bytes:
        """A token signed as the service signs, but for what is given."""
        own = SigningKey(self.kid, self.private.private_bytes_raw(), datetime.now(UTC)).header
        head = own if header is None else encoded(header)
        message = head + b"." + encoded(self.claims if claims is None else claims)
        return message + b"." + encoded((key or self.private).sign(message))

    def public_pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


def test_a_good_token_is_good(issuer: Issuer):
    principal = issuer.tokens.principal(issuer.token())
    assert principal is not None
    assert str(principal.subject) == issuer.claims["sub"]
    assert principal.permissions == PERMISSIONS["owner"]


BAD_HEADERS: dict[str, Callable[[Issuer], object]] = {
    "alg none": lambda i: i.header | {"alg": "none"},
    "alg None": lambda i: i.header | {"alg": "None"},
    "alg HS256": lambda i: i.header | {"alg": "HS256"},
    "alg Ed25519": lambda i: i.header | {"alg": "Ed25519"},
    "alg list": lambda i: i.header | {"alg": ["EdDSA"]},
    "no alg": lambda i: {"typ": "at+jwt", "kid": i.kid},
    "no typ": lambda i: {"alg": "EdDSA", "kid": i.kid},
    "typ JWT": lambda i: i.header | {"typ": "JWT"},
    "typ id token": lambda i: i.header | {"typ": "id+jwt"},
    "no kid": lambda i: {"alg": "EdDSA", "typ": "at+jwt"},
    "unknown kid": lambda i: i.header | {"kid": "fedcba9876543210"},
    "kid path": lambda i: i.header | {"kid": "../../dev/null"},
    "kid sql": lambda i: i.header | {"kid": "x' union select 'x"},
    "kid number": lambda i: i.header | {"kid": 7},
    "kid list": lambda i: i.header | {"kid": [i.kid]},
    "jku": lambda i: i.header | {"jku": "https://evil.test/jwks.json"},
    "x5u": lambda i: i.header | {"x5u": "https://evil.test/cert.pem"},
    "x5c": lambda i: i.header | {"x5c": ["MIIB"]},
    "jwk": lambda i: i.header | {"jwk": OKPKey.generate_key("Ed25519").as_dict(private=False)},
    "crit": lambda i: i.header | {"crit": ["b64"], "b64": False},
    "zip": lambda i: i.header | {"zip": "DEF"},
    "spaces": lambda i: b'{"alg": "EdDSA","typ":"at+jwt","kid":"' + i.kid.encode() + b'"}',
    "not json": lambda i: b"{",
    "list": lambda i: [i.header],
    "empty": lambda i: b"",
}


@pytest.mark.parametrize("attack", BAD_HEADERS)
def test_a_header_that_is_not_ours_is_refused_though_our_key_signed_it(issuer: Issuer, attack: str):
    assert issuer.tokens.principal(issuer.token(header=BAD_HEADERS[attack](issuer))) is None


BAD_CLAIMS: dict[str, Callable[[dict[str, Any]], object]] = {
    **{
        f"no {name}": lambda c, name=name: {key: value for key, value in c.items() if key != name}
        for name in ("iss", "aud", "sub", "tenant", "role", "sid", "jti", "iat", "nbf", "exp")
    },
    "other issuer": lambda c: c | {"iss": "https://evil.test"},
    "issuer with a slash": lambda c: c | {"iss": f"{ISSUER}/"},
    "other audience": lambda c: c | {"aud": "https://other.test/v1"},
    "list of audiences": lambda c: c | {"aud": [f"{ISSUER}/v1", "https://other.test"]},
    "expired": lambda c: c | {"iat": c["iat"] - 500, "nbf": c["iat"] - 500, "exp": c["iat"] - 1},
    "expires later than a token may": lambda c: c | {"exp": c["iat"] + 601},
    "expires as text": lambda c: c | {"exp": str(c["exp"])},
    "expires as a fraction": lambda c: c | {"exp": c["exp"] + 0.5},
    "expires as truth": lambda c: c | {"exp": True},
    "expires at a fraction of a second": lambda c: c | {"exp": c["exp"] - 0.5},
    "starts as truth": lambda c: c | {"nbf": True},
    "starts as a fraction": lambda c: c | {"nbf": c["nbf"] - 0.5},
    "not yet": lambda c: c | {"nbf": c["nbf"] + 60},
    "issued in the future": lambda c: c | {"iat": c["iat"] + 60, "exp": c["exp"] + 60},
    "unknown role": lambda c: c | {"role": "root"},
    "role of an object": lambda c: c | {"role": {"$ne": None}},
    "tenant list": lambda c: c | {"tenant": [c["tenant"]]},
    "tenant number": lambda c: c | {"tenant": 5},
    "tenant rubbish": lambda c: c | {"tenant": "*"},
    "jti rubbish": lambda c: c | {"jti": "1"},
    "not an object": lambda c: [c],
    "not json": lambda c: b"{",
}


@pytest.mark.parametrize("attack", BAD_CLAIMS)
def test_claims_that_are_wrong_or_missing_are_refused_though_our_key_signed_them(issuer: Issuer, attack: str):
    assert issuer.tokens.principal(issuer.token(claims=BAD_CLAIMS[attack](issuer.claims))) is None
    assert vars(issuer.tokens)["_remembered"] == {}, "it takes no good one's place"


def test_only_our_key_signs(issuer: Issuer):
    assert issuer.tokens.principal(issuer.token(key=Ed25519PrivateKey.generate())) is None


def test_a_public_key_is_no_secret(issuer: Issuer):
    for secret in (issuer.public_pem(), issuer.private.public_key().public_bytes_raw()):
        for header in (issuer.header, issuer.header | {"alg": "HS256"}):
            message = encoded(header) + b"." + encoded(issuer.claims)
            mac = hmac.digest(secret, message, "sha256")
            for signature in (mac, mac + mac, b"", b"\0" * 64):
                assert issuer.tokens.principal(message + b"." + encoded(signature)) is None


def test_changed_and_misshapen_tokens_are_refused(issuer: Issuer):
    good = issuer.token()
    header, claims, signature = good.split(b".")
    other = issuer.token(claims=issuer.claims | {"role": "viewer"}).split(b".")
    wrong = [
        b".".join((header, other[1], signature)),
        b".".join((header, claims, other[2])),
        b".".join((header, claims)),
        b".".join((header, claims, b"")),
        b".".join((header, claims, signature, b"")),
        b".".join((b"", header, claims, signature)),
        good + b"=",
        good[:-2] + (b"AA" if good[-2:] != b"AA" else b"BB"),
        b" " + good,
        good.upper(),
        b"",
        b".",
        b"..",
        b"a.b.c",
        "ä.ö.ü".encode(),
        b"." * 2000,
    ]
    assert [token for token in wrong if issuer.tokens.principal(token) is not None] == []


def test_an_oversized_token_is_not_even_looked_at(issuer: Issuer):
    big = issuer.token(claims=issuer.claims | {"more": "x" * 2048})
    assert issuer.tokens.principal(big) is None


def test_a_remembered_token_expires_all_the_same(issuer: Issuer, monkeypatch: pytest.MonkeyPatch):
    from chassis.identity import tokens

    token = issuer.token()
    assert issuer.tokens.principal(token) is not None
    later = time.time() + LIFETIME_SECONDS
    monkeypatch.setattr(tokens, "time", lambda: later)
    assert issuer.tokens.principal(token) is None


def test_a_remembered_token_goes_with_the_key_that_signed_it(issuer: Issuer):
    token = issuer.token()
    assert issuer.tokens.principal(token) is not None
    issuer.ring.read([issuer.ring.new(datetime.now(UTC))])
    assert issuer.tokens.principal(token) is None


def test_what_is_remembered_is_bounded(issuer: Issuer, monkeypatch: pytest.MonkeyPatch):
    from chassis.identity import tokens

    monkeypatch.setattr(tokens, "_MOST_REMEMBERED", 10)
    for _ in range(50):
        assert issuer.tokens.principal(issuer.token(claims=issuer.claims | {"jti": str(uuid4())})) is not None
    assert len(vars(issuer.tokens)["_remembered"]) == 10


def test_a_key_that_another_secret_sealed_is_no_key(issuer: Issuer):
    stranger = KeyRing("another secret key for tests, 32 +")
    key = stranger.new(datetime.now(UTC) - timedelta(minutes=1))
    assert stranger.read([key])
    assert not KeyRing(SECRET).read([key])
    token = access_tokens(stranger, ISSUER, PERMISSIONS).issue(
        subject=uuid4(), tenant_id=uuid4(), role="owner", session_id=uuid4()
    )
    assert issuer.tokens.principal(token.encode()) is None


def test_a_key_signs_nothing_before_every_replica_can_know_it(issuer: Issuer):
    now = datetime.now(UTC)
    old, new = issuer.ring.new(now - timedelta(hours=1)), issuer.ring.new(now + timedelta(seconds=30))
    assert issuer.ring.read([old, new])
    header = issuer.ring.signed(b"{}").split(b".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + b"=="))["kid"] == old.kid
    assert {key["kid"] for key in issuer.ring.published()["keys"]} == {old.kid, new.kid}


def test_an_opaque_token_of_one_purpose_is_none_of_another():
    refresh, one_time = OpaqueTokens(SECRET, b"refresh"), OpaqueTokens(SECRET, b"one time")
    token, _ = refresh.new(uuid4())
    assert refresh.read(token) is not None
    assert one_time.read(token) is None


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 would have it called Ed25519
@pytest.mark.anyio
async def test_any_library_reads_our_tokens_with_the_published_keys(join: Callable[..., Awaitable[Person]]):
    ann = await join()
    published = (await ann.client.get("/.well-known/jwks.json")).json()
    assert all("d" not in key for key in published["keys"])
    token = jwt.decode(ann.tokens["access_token"], KeySet.import_key_set(published), algorithms=["EdDSA"])
    assert token.header["typ"] == "at+jwt"
    assert token.claims["iss"] == "http://localhost"
    assert token.claims["exp"] - token.claims["iat"] == LIFETIME_SECONDS <= 15 * 60
    assert token.claims["sub"] == str(ann.id)


@pytest.mark.anyio
async def test_the_private_key_is_sealed_where_it_is_stored(app: Service, client: httpx.AsyncClient, sql: Any):
    (key,) = vars(app.identity.keys)["_keys"].values()
    private = cast(Ed25519PrivateKey, vars(key)["_private"])
    ((sealed,),) = sql("select sealed from chassis.signing_keys")
    assert private.private_bytes_raw() not in bytes(sealed)


@pytest.mark.anyio
async def test_a_token_counts_as_a_bearer_token_alone(join: Callable[..., Awaitable[Person]]):
    ann = await join()
    for scheme, status in (("Bearer", 200), ("bearer", 200), ("Badger", 401), ("Digest", 401)):
        headers = {"Authorization": f"{scheme} {ann.tokens['access_token']}"}
        assert (await ann.client.get("/v1/tenants", headers=headers)).status_code == status


@pytest.mark.anyio
async def test_replicas_that_start_at_once_make_one_key(app: Service, client: httpx.AsyncClient, sql: Any):
    sql("delete from chassis.signing_keys")
    watches = [Watch(app.database, KeyRing(SECRET)) for _ in range(5)]
    await asyncio.gather(*(watch.refresh() for watch in watches))
    assert sql("select count(*) from chassis.signing_keys") == [(1,)]
    for watch in watches:
        await watch.stop()


@pytest.mark.anyio
async def test_a_rotation_under_load_fails_no_request(
    quick_watch: None,
    join: Callable[..., Awaitable[Person]],
    replica: httpx.AsyncClient,
    app: Service,
    sql: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    from chassis.identity import commands

    monkeypatch.setattr(commands, "OVERLAP", timedelta(seconds=1))
    ann = await join()
    statuses: list[int] = []
    kids: set[str] = set()
    until = time.monotonic() + 2.5

    async def work(client: httpx.AsyncClient) -> None:
        tokens = ann.tokens
        while time.monotonic() < until:
            if client is ann.client:
                tokens = ann.tokens = (
                    await client.post("/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
                ).json()
            kids.add(json.loads(base64.urlsafe_b64decode(ann.tokens["access_token"].split(".")[0] + "=="))["kid"])
            headers = {"Authorization": f"Bearer {ann.tokens['access_token']}"}
            statuses.append((await client.get("/v1/tenants/members", headers=headers)).status_code)
            await asyncio.sleep(0.02)

    working = [asyncio.create_task(work(client)) for client in (ann.client, replica)]
    await asyncio.sleep(0.3)
    await commands.rotate(app.database, app.identity.keys)
    await asyncio.gather(*working)
    assert len(kids) == 2
    assert set(statuses) == {200}
    assert sql("select count(*) from chassis.signing_keys") == [(2,)]


@pytest.mark.anyio
async def test_a_key_goes_once_no_token_of_it_can_live(app: Service, client: httpx.AsyncClient, sql: Any):
    from chassis.identity import commands

    await commands.rotate(app.database, app.identity.keys)
    ((second,),) = sql("select kid from chassis.signing_keys order by signs_from desc limit 1")
    sql("update chassis.signing_keys set signs_from = signs_from - interval '13 minutes'")
    rotated = await commands.rotate(app.database, app.identity.keys)
    assert rotated.deleted == 1
    kept = {kid for (kid,) in sql("select kid from chassis.signing_keys")}
    assert kept == {second, rotated.kid}
