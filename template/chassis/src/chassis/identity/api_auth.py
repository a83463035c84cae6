"""Signing up, in and out, sessions and passwords, over HTTP."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.params import Depends
from fastapi.responses import PlainTextResponse
from pydantic import Field

from chassis.http.input import Input
from chassis.http.paging import Page, PageRequest
from chassis.identity import accounts, sessions, signin, signup, tenants
from chassis.identity.identity import Desk, Me
from chassis.identity.passwords import LONGEST, SHORTEST, refuse_guessable
from chassis.identity.principal import public
from chassis.identity.sessions import Session
from chassis.identity.signin import Tokens
from chassis.identity.tenants import Joined
from chassis.limits.strict import MAIL, SIGN_IN, Here, aim_at, strictly_limited

_USER_AGENT_LENGTH = 200
_CONTACT_HOLDS = timedelta(days=180)
"""RFC 9116 asks for less than a year (section 2.5.5)."""

router = APIRouter(prefix="/auth")
well_known = APIRouter(dependencies=[public])

Email = Annotated[
    str,
    Field(
        min_length=3,
        max_length=254,
        description="An e-mail address.",
        examples=["ann@example.com"],
        json_schema_extra={"format": "email"},
    ),
]
Password = Annotated[str, Field(min_length=1, max_length=LONGEST)]
NewPassword = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST,
        description="15 characters or more, and not one that others would guess.",
        json_schema_extra={"minLength": SHORTEST},
    ),
]
Token = Annotated[str, Field(min_length=1, max_length=200)]


class Credentials(Input):
    email: Email
    password: Password


class NewAccount(Input):
    email: Email
    password: NewPassword


class OneTimeToken(Input):
    token: Token


class RefreshToken(Input):
    refresh_token: Token


class Switch(Input):
    refresh_token: Token
    tenant_id: UUID


class PasswordChange(Input):
    current_password: Password
    new_password: NewPassword


class Forgotten(Input):
    email: Email


@dataclass(frozen=True, slots=True)
class Accepted:
    """Whatever happened, this is all that is told here: the rest goes by mail."""

    status: Literal["accepted"] = "accepted"


class Reset(Input):
    token: Token
    password: NewPassword


async def _user_agent(request: Request) -> str | None:
    agent = request.headers.get("user-agent", "")[:_USER_AGENT_LENGTH]
    return agent if agent.isprintable() and agent else None


UserAgent = Annotated[str | None, Depends(_user_agent)]


@router.post("/signup", status_code=202, dependencies=[public, strictly_limited])
async def sign_up(body: NewAccount, desk: Desk, here: Here) -> Accepted:
    """Make an account. What is next stands in a mail; the answer is the same when the address has an account."""
    address = accounts.parse_address(body.email)
    refuse_guessable(body.password, address.canonical)  # before it counts as a mail, which it is none
    await aim_at(here, address.canonical, MAIL)
    await signup.sign_up(desk, address, body.password)
    return Accepted()


@router.post("/verify", status_code=204, dependencies=[public, strictly_limited])
async def verify(body: OneTimeToken, desk: Desk) -> None:
    """Confirm an address with the token of the mail."""
    await signup.verify(desk, body.token)


@router.post("/signin", dependencies=[public, strictly_limited], responses={401: {}})
async def sign_in(body: Credentials, desk: Desk, user_agent: UserAgent, here: Here) -> Tokens:
    """Get an access token, for minutes, and a refresh token, for days."""
    address = accounts.parse_address(body.email)
    attempt = await aim_at(here, address.canonical, SIGN_IN)
    tokens = await signin.sign_in(desk, address, body.password, user_agent)
    await attempt.succeeded()
    return tokens


@router.post("/refresh", dependencies=[public], responses={401: {}})
async def refresh(body: RefreshToken, desk: Desk) -> Tokens:
    """Get new tokens for a refresh token. It is good once: the second use ends the session."""
    return await signin.refresh(desk, body.refresh_token)


@router.post("/switch", dependencies=[public], responses={401: {}})
async def switch(body: Switch, desk: Desk) -> Tokens:
    """Get tokens for another tenant of the same account. The refresh token and its session end."""
    return await signin.switch(desk, body.refresh_token, body.tenant_id)


@router.post("/signout", status_code=204)
async def sign_out(who: Me, desk: Desk) -> None:
    """End the session that the access token belongs to."""
    if who.session_id is not None:
        await sessions.sign_out(desk, who, who.session_id)


@router.get("/sessions")
async def list_sessions(who: Me, desk: Desk, page: PageRequest) -> Page[Session]:
    """Where the account is signed in, newest first."""
    return await sessions.page(desk, who, page)


@router.delete("/sessions", status_code=204)
async def end_all_sessions(who: Me, desk: Desk) -> None:
    """Sign out everywhere, here too."""
    await sessions.end_all(desk, who)


@router.delete("/sessions/{session_id}", status_code=204)
async def end_session(session_id: UUID, who: Me, desk: Desk) -> None:
    """Sign out one session."""
    await sessions.end_one(desk, who, session_id)


@router.post("/password/change", status_code=204, dependencies=[strictly_limited])
async def change_password(body: PasswordChange, who: Me, desk: Desk, here: Here) -> None:
    """Change the password. All other sessions end."""
    attempt = await aim_at(here, str(who.subject), SIGN_IN)
    await signup.change(desk, who, body.current_password, body.new_password)
    await attempt.succeeded()


@router.post("/password/forgot", status_code=202, dependencies=[public, strictly_limited])
async def forgot_password(body: Forgotten, desk: Desk, here: Here) -> Accepted:
    """Ask for a mail with a link to choose a new password. The answer is the same for an unknown address."""
    address = accounts.parse_address(body.email)
    await aim_at(here, address.canonical, MAIL)
    await signup.forgot(desk, address)
    return Accepted()


@router.post("/password/reset", status_code=204, dependencies=[public, strictly_limited])
async def reset_password(body: Reset, desk: Desk) -> None:
    """Choose a new password with the token of the mail. All sessions end."""
    await signup.reset(desk, body.token, body.password)


@router.post("/invitations/accept", dependencies=[strictly_limited])
async def accept_invitation(body: OneTimeToken, who: Me, desk: Desk) -> Joined:
    """Join the tenant that has invited the caller's address."""
    return await tenants.accept(desk, who, body.token)


@well_known.get("/.well-known/security.txt", response_class=PlainTextResponse)
async def security_txt(request: Request) -> PlainTextResponse:
    """Where to report a vulnerability (RFC 9116)."""
    contact, expires = request.app.settings.security_contact, datetime.now(UTC) + _CONTACT_HOLDS
    return PlainTextResponse(f"Contact: {contact}\nExpires: {expires:%Y-%m-%dT%H:%M:%SZ}\n")


@well_known.get("/.well-known/jwks.json")
async def jwks(desk: Desk) -> dict[str, Any]:
    """The public keys of access tokens, as a JWK Set (RFC 7517), for those who check tokens themselves."""
    return desk.keys.published()
