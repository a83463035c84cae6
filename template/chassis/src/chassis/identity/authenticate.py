"""Who a request is from: the edge asks once a request, and the answer is nearly always in memory."""

from typing import TYPE_CHECKING

from chassis.identity.key_lookup import ApiKeys
from chassis.identity.principal import Principal
from chassis.identity.tokens import AccessTokens
from chassis.identity.watch import Watch
from chassis.observe.logs import get_logger

if TYPE_CHECKING:
    from chassis.http.exchange import Exchange

_log = get_logger("chassis.identity")

_SCHEME = b"bearer "


class Authenticate:
    """`Authorization: Bearer …` with an access token or an API key (RFC 6750); nothing else counts."""

    def __init__(self, tokens: AccessTokens, keys: ApiKeys, watch: Watch) -> None:
        self._tokens = tokens
        self._keys = keys
        self._watch = watch

    async def __call__(self, exchange: "Exchange", /) -> Principal | None:
        header = exchange.headers.get(b"authorization")
        if header is None or header[:7].lower() != _SCHEME:
            return None
        token = header[7:]
        if token[:3] == b"sk_":
            principal = await self._keys.principal(token, exchange.limit)
        else:
            principal = self._tokens.principal(token)
        if principal is None:
            self._watch.check_fresh()  # or this replica may only not know the key yet
            return None
        if self._watch.revoked(principal.session_id):
            _log.warning("authn_token_reuse", session=principal.session_id)
            return None
        return principal
