"""Whose request it is, as far as the network tells."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from chassis.http.reply import Header

_FORWARDED = b"x-forwarded-for"
_MOST_HOPS = 20
_LONGEST = 64  # an address with a zone and a port; what is longer is no address, and not worth remembering


class _Peer(NamedTuple):
    key: str
    """Empty when it is no address."""
    trusted: bool


_NO_ADDRESS = _Peer("", trusted=False)


class ClientAddresses:
    """The client is the peer, unless the peer is one of our own proxies: then it is whom that one names.

    `X-Forwarded-For` is read from the right, for as long as the addresses are those of trusted proxies: what stands
    further left was written by whoever sent the request. An entry that is no address ends the reading.
    """

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._trusted = [ip_network(network) for network in trusted_proxies]
        self._known = lru_cache(maxsize=10_000)(self._parse)

    def key(self, peer: str, headers: Iterable[Header]) -> str:
        """What limits count by: an IPv4 address, or the /64 network of an IPv6 one, since a client has all of it."""
        client = self._known(peer)
        if client.trusted:
            values = [value for name, value in headers if name == _FORWARDED]
            for hop in reversed(b",".join(values).decode("latin-1").rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
                named = self._known(hop) if len(hop) <= _LONGEST else _NO_ADDRESS
                if not named.key:
                    break
                client = named
                if not named.trusted:
                    break
        return client.key or peer

    def _parse(self, text: str) -> _Peer:
        address = _address(text.strip(" \t"))
        if address is None:
            return _NO_ADDRESS
        trusted = any(address in network for network in self._trusted)
        if isinstance(address, IPv4Address):
            return _Peer(str(address), trusted)
        return _Peer(str(IPv6Network((int(address), 64), strict=False)), trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in `192.0.2.1`, `2001:db8::1`, either with a zone or, as some proxies write it, with a port."""
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not (port[0] == ":" and port[1:].isdecimal()):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
