"""Whose limit a request uses: never one that the client chooses."""

import pytest

from chassis.limits.client_address import ClientAddresses

ADDRESSES = ClientAddresses(["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"])


def key(peer: str, *forwarded: str, addresses: ClientAddresses = ADDRESSES) -> str:
    headers = [(b"host", b"localhost"), *[(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]]
    return addresses.key(peer, headers)


SPOOFS = [
    "203.0.113.1",
    "203.0.113.1, 198.51.100.1",
    "10.0.0.1",
    "203.0.113.1, 10.0.0.1",
    ", ".join(["203.0.113.1"] * 500),
    ", ".join(["10.0.0.1"] * 500),
    "unknown",
    "",
    ",,,",
    "for=203.0.113.1;by=10.0.0.1",
    "203.0.113.1\x85",
    "::ffff:203.0.113.1",
    "fe80::1%eth0",
    "x" * 10_000,
]


@pytest.mark.parametrize("spoof", SPOOFS)
def test_a_header_of_somebody_else_than_a_proxy_means_nothing(spoof: str):
    assert key("198.51.100.9", spoof) == "198.51.100.9"
    assert key("198.51.100.9", spoof, addresses=ClientAddresses()) == "198.51.100.9"


@pytest.mark.parametrize("spoof", SPOOFS)
def test_what_a_client_wrote_before_the_proxy_added_its_address_means_nothing(spoof: str):
    assert key("10.0.0.1", f"{spoof}, 198.51.100.9") == "198.51.100.9"
    assert key("10.0.0.1", spoof, "198.51.100.9") == "198.51.100.9", "in a header of its own"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "198.51.100.9, 10.0.0.2, 10.9.9.9", "198.51.100.9"),
        ("fd00::1", "198.51.100.9, 192.0.2.7, fd12::7", "198.51.100.9"),
        ("::ffff:10.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("10.0.0.1", "198.51.100.9, ::ffff:10.0.0.2", "198.51.100.9"),
        ("192.0.2.8", "198.51.100.9", "192.0.2.8"),
        ("10.0.0.1", "198.51.100.9:49152", "198.51.100.9"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]:49152", "2001:db8:1:2::/64"),
        ("10.0.0.1", "\t198.51.100.9 ", "198.51.100.9"),
        ("10.0.0.1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.9, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.9, 10.0.0.2, 198.51.100.9:http", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_a_chain_of_trusted_proxies_is_followed_from_the_right(peer: str, forwarded: str, client: str):
    assert key(peer, forwarded) == client


def test_without_a_header_the_proxy_itself_is_the_client():
    assert key("10.0.0.1") == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::1%other", "fe80::/64"),
        ("::ffff:198.51.100.9", "198.51.100.9"),
        ("::1", "::/64"),
        ("", ""),
        ("a-socket", "a-socket"),
    ],
)
def test_a_client_has_one_key_whatever_its_addresses_look_like(peer: str, counted: str):
    assert key(peer) == counted
