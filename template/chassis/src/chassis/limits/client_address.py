"""Whose request it is, as far as the network tells."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_FORWARDED = b"x-forwarded-for"
_MOST_HOPS = 20


class ClientAddresses:
    """The client is the peer, unless the peer is one of our own proxies: then it is whom that one names.

    `X-Forwarded-For` is read from the right, as far as the addresses are of trusted proxies: what stands further left was
    written by whoever sent the request.
    """

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted = [ip_network(network) for network in trusted_proxies]
        self._key = lru_cache(maxsize=10_000)(self._key_of_peer)

    def key(self, peer: str, headers: dict[bytes, bytes]) -> str:
        """What limits count by: an IPv4 address, or the /64 network of an IPv6 one, since a client has all of it."""
        if not self._trusted or _FORWARDED not in headers:
            return self._key(peer)
        address = _parsed(peer)
        hops = headers[_FORWARDED].decode("latin-1").split(",")[-_MOST_HOPS:]
        while hops and address is not None and self._is_trusted(address):
            named = _parsed(hops.pop())
            if named is None:
                break
            address = named
        return _network(address) if address else peer

    def _key_of_peer(self, peer: str) -> str:
        address = _parsed(peer)
        return _network(address) if address else peer

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip().strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _network(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, 64), strict=False))
