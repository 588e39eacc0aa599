"""Which addresses may be connected to, against an independent oracle of ranges instead of networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.transport.egress import AddressPolicy, ForbiddenAddress

PUBLIC_ONLY = AddressPolicy()
IPV4_MAPPED = bytes(10) + b"\xff\xff"
NAT64 = b"\x00\x64\xff\x9b" + bytes(8)
METADATA_IPV4 = [
    "100.100.100.200",
    "168.63.129.16",
    "169.254.42.42",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "192.0.0.192",
]
METADATA_IPV6 = ["fd00:42::42", "fd00:ec2::23", "fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe"]

# First and last address of what is not public: IANA's special-purpose registry, multicast, reserved, Azure.
SPECIAL_IPV4 = [
    ("0.0.0.0", "0.255.255.255"),  # noqa: S104
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("168.63.129.16", "168.63.129.16"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.31.196.0", "192.31.196.255"),
    ("192.52.193.0", "192.52.193.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("192.175.48.0", "192.175.48.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "255.255.255.255"),
]
# Of IPv6 all outside of 2000::/3, but for mapped and NAT64 addresses, judged as IPv4; and within it these.
SPECIAL_IPV6 = [
    ("::", "::fffe:ffff:ffff"),
    ("::1:0:0:0", "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("64:ff9b::1:0:0", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]


def span(first: str, last: str, kind: type[IPv4Address] | type[IPv6Address]) -> tuple[int, int]:
    return int(kind(first)), int(kind(last))


SPANS_IPV4 = [span(*ends, IPv4Address) for ends in SPECIAL_IPV4]
SPANS_IPV6 = [span(*ends, IPv6Address) for ends in SPECIAL_IPV6]


def near(spans: list[tuple[int, int]], limit: int) -> st.SearchStrategy[int]:
    """Return any number, often within, at the end of or just outside a span."""
    edges = {n for ends in spans for end in ends for n in (end - 1, end, end + 1) if 0 <= n <= limit}
    inside = st.sampled_from(spans).flatmap(lambda ends: st.integers(*ends))
    return st.one_of(st.integers(0, limit), st.sampled_from(sorted(edges)), inside)


def special(number: int, spans: list[tuple[int, int]]) -> bool:
    return any(first <= number <= last for first, last in spans)


ipv4 = near(SPANS_IPV4, 2**32 - 1).map(IPv4Address)
ipv6 = near(SPANS_IPV6, 2**128 - 1).map(IPv6Address)
plain_ipv6 = ipv6.filter(lambda address: address.packed[:12] not in (IPV4_MAPPED, NAT64))


@given(ipv4)
def test_public_ipv4_only(address: IPv4Address) -> None:
    """An IPv4 address is allowed exactly if the oracle does not call it special."""
    assert PUBLIC_ONLY.allows(address) is not special(int(address), SPANS_IPV4)


@given(plain_ipv6)
def test_public_ipv6_only(address: IPv6Address) -> None:
    """An IPv6 address is allowed exactly if the oracle does not call it special."""
    assert PUBLIC_ONLY.allows(address) is not special(int(address), SPANS_IPV6)


@given(st.sampled_from([IPV4_MAPPED, NAT64]), ipv4, st.integers(0, 32))
def test_ipv4_inside_of_ipv6(prefix: bytes, inner: IPv4Address, length: int) -> None:
    """A mapped or NAT64 address is judged as the IPv4 address inside, both to refuse and to allow."""
    outer = IPv6Address(prefix + inner.packed)
    allowing = AddressPolicy((IPv4Network((inner, length), strict=False),))
    assert PUBLIC_ONLY.allows(outer) is PUBLIC_ONLY.allows(inner)
    too_wide = length < 16 and inner.is_link_local
    assert allowing.allows(outer) is ((length == 32 or str(inner) not in METADATA_IPV4) and not too_wide)


@given(ipv4, ipv4, st.integers(0, 32))
def test_allowed_ipv4_network(address: IPv4Address, base: IPv4Address, length: int) -> None:
    """An allowed IPv4 network allows its members and changes nothing for others."""
    network = IPv4Network((base, length), strict=False)
    inside = address in network and (length == 32 or str(address) not in METADATA_IPV4)
    inside = inside and (length >= 16 or not address.is_link_local)
    assert AddressPolicy((network,)).allows(address) is (inside or PUBLIC_ONLY.allows(address))


@given(plain_ipv6, ipv6, st.integers(0, 128))
def test_allowed_ipv6_network(address: IPv6Address, base: IPv6Address, length: int) -> None:
    """An allowed IPv6 network allows its members and changes nothing for others."""
    network = IPv6Network((base, length), strict=False)
    inside = address in network and (length >= 10 or not address.is_link_local)
    assert AddressPolicy((network,)).allows(address) is (inside or PUBLIC_ONLY.allows(address))


@pytest.mark.parametrize(
    "address",
    ["224.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "fec0::1", "3fff::1", "::7f00:1"],
)
def test_what_ipaddress_lets_through(address: str) -> None:
    """Addresses for which `is_global` is or was wrong are refused."""
    assert not PUBLIC_ONLY.allows(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.216.34", "168.63.129.15", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public(address: str) -> None:
    """Public addresses are allowed, in any form."""
    PUBLIC_ONLY.check(address)


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1111%2"])
def test_zones(address: str) -> None:
    """An address with a zone is refused even if its network is allowed."""
    with pytest.raises(ForbiddenAddress, match="zone"):
        AddressPolicy((ip_network("::/0"),)).check(address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("::ffff:10.1.2.3", "private"),
        ("fd00:ec2::253", "unique local"),
        ("2001:0:1::1", "Teredo"),
        ("255.255.255.255", "broadcast"),
        ("4000::1", "not global unicast"),
    ],
)
def test_words(address: str, reason: str) -> None:
    """The exception says which address is refused, why, and what the operator can do."""
    with pytest.raises(ForbiddenAddress) as refused:
        PUBLIC_ONLY.check(address)
    remedy = "The operator can allow it with HUBHOOKS_ALLOWED_NETWORKS."
    said = f"Hook address {ip_address(address)} is not public ({reason})"
    assert str(refused.value) == f"{said}. {remedy}"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("169.254.1.1", "169.254.0.0/16"),
        ("::ffff:169.254.1.1", "169.254.0.0/16"),
        ("64:ff9b::a9fe:101", "169.254.0.0/16"),
        ("::a9fe:101", "169.254.0.0/16"),
        ("::ffff:0:a9fe:101", "169.254.0.0/16"),
        ("2002:a9fe:101::1", "169.254.0.0/16"),
        ("2001:0:808:808::5601:fefe", "169.254.0.0/16"),
        ("2001:0:a9fe:101::f7f7:f7f7", "169.254.0.0/16"),
        ("fe80::1", "fe80::/10"),
    ],
)
def test_link_local(address: str, network: str) -> None:
    """A link-local address, in whatever IPv6 form, is refused within wider networks and to a listed host.

    A network of link-local addresses alone allows it.
    """
    wide = AddressPolicy(tuple(map(ip_network, ("0.0.0.0/0", "::/0", "169.0.0.0/8", "fe00::/8", "169.254.2.0/24"))))
    for refusing in (PUBLIC_ONLY, wide):
        for listed in (False, True):
            with pytest.raises(ForbiddenAddress) as refused:
                refusing.check(address, listed=listed)
            assert str(refused.value).endswith(
                f"(link-local). The operator can allow it with a network within {network} in HUBHOOKS_ALLOWED_NETWORKS."
            )
    AddressPolicy((ip_network(network),)).check(address, listed=True)
    AddressPolicy((*wide.allowed_networks, ip_network(network))).check(address)


def test_local_nat64() -> None:
    """An address with a local NAT64 prefix is not taken for link-local, since the prefix length is unknown."""
    address = "64:ff9b:1:a9fe:1:100::"
    AddressPolicy().check(address, listed=True)
    AddressPolicy((ip_network("64:ff9b:1::/48"),)).check(address)


def wrapped(metadata: IPv4Address) -> list[IPv6Address]:
    """Return an IPv4 address embedded in IPv6 in all ways: mapped, NAT64, compatible, translated, 6to4, Teredo."""
    last = metadata.packed
    heads = [IPV4_MAPPED, NAT64, bytes(12), bytes(8) + b"\xff\xff\0\0", b"\x00\x64\xff\x9b\x00\x01" + bytes(6)]
    local = b"\x00\x64\xff\x9b\x00\x01"
    spread = [
        local + last[:2] + b"\0" + last[2:] + bytes(5),
        local + b"\0" + last[:1] + b"\0" + last[1:] + bytes(4),
        local + bytes(3) + last + bytes(3),
    ]
    return [
        *(IPv6Address(head + last) for head in heads),
        *map(IPv6Address, spread),
        IPv6Address(b" \x02" + last + bytes(10)),
        IPv6Address(b" \x01\0\0" + bytes(8) + bytes(each ^ 0xFF for each in last)),
    ]


@pytest.mark.parametrize("address", [*METADATA_IPV4, *METADATA_IPV6])
def test_metadata(address: str) -> None:
    """A cloud's metadata is refused in a wider network and to a listed host, and allowed if it is listed itself."""
    metadata = ip_address(address)
    wide = AddressPolicy((ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network(f"{address}/31", strict=False)))
    exact = AddressPolicy((ip_network(address),))
    forms = [metadata, *(wrapped(metadata) if isinstance(metadata, IPv4Address) else ())]
    for form in forms:
        for listed in (False, True):
            with pytest.raises(ForbiddenAddress, match=rf"\(cloud .+\)\. The operator can allow it with {address}/"):
                wide.check(form, listed=listed)
        AddressPolicy((*exact.allowed_networks, *wide.allowed_networks)).check(form)
    exact.check(metadata)


@given(ipv4 | ipv6)
def test_listed(address: IPv4Address | IPv6Address) -> None:
    """A listed host may have any address but link-local and metadata ones."""
    inner = IPv4Address(address.packed[12:]) if address.packed[:12] in (IPV4_MAPPED, NAT64) else address
    if str(inner) in METADATA_IPV4 + METADATA_IPV6 or inner.is_link_local:
        with pytest.raises(ForbiddenAddress):
            PUBLIC_ONLY.check(address, listed=True)
    elif inner.version == 4:
        PUBLIC_ONLY.check(address, listed=True)


@pytest.mark.parametrize("text", ["localhost", "127.1", "0177.0.0.1", "2130706433", ""])
def test_not_an_address(text: str) -> None:
    """Anything but a plain IP address is a `ValueError`, and never allowed."""
    with pytest.raises(ValueError, match="does not appear"):
        PUBLIC_ONLY.check(text)
