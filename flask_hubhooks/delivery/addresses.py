"""Which addresses a hook may be sent to: public ones, and those of the networks that the operator allows.

`ipaddress.is_global` is not asked: it calls 224.0.0.1, 64:ff9b::7f00:1, 2002:7f00:1::, fec0::1 and 3fff::1
global. The tables below are the IANA special-purpose address registries of IPv4 and IPv6 (RFC 6890) and the
address spaces that other RFCs set aside. Of IPv6 only 2000::/3 is global unicast so far; all else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The first network that holds an address names the reason; narrow ones therefore stand before wide ones.
_REFUSED_IPV4 = {
    IPv4Network("0.0.0.0/8"): "this network",  # RFC 791 section 3.2; 0.0.0.0 connects to the machine itself
    IPv4Network("10.0.0.0/8"): "private",  # RFC 1918
    IPv4Network("100.64.0.0/10"): "shared address space",  # RFC 6598, carrier-grade NAT
    IPv4Network("127.0.0.0/8"): "loopback",  # RFC 1122 section 3.2.1.3
    IPv4Network("168.63.129.16/32"): "the platform of an Azure virtual machine",  # Microsoft, "168.63.129.16"
    IPv4Network("169.254.0.0/16"): "link-local",  # RFC 3927; the metadata service of most clouds
    IPv4Network("172.16.0.0/12"): "private",  # RFC 1918
    IPv4Network("192.0.0.0/24"): "IETF protocol assignments",  # RFC 6890 section 2.1
    IPv4Network("192.0.2.0/24"): "documentation",  # RFC 5737
    IPv4Network("192.31.196.0/24"): "AS112",  # RFC 7535
    IPv4Network("192.52.193.0/24"): "multicast relay",  # RFC 7450
    IPv4Network("192.88.99.0/24"): "6to4 relay",  # RFC 7526
    IPv4Network("192.168.0.0/16"): "private",  # RFC 1918
    IPv4Network("192.175.48.0/24"): "AS112",  # RFC 7534
    IPv4Network("198.18.0.0/15"): "benchmarking",  # RFC 2544
    IPv4Network("198.51.100.0/24"): "documentation",  # RFC 5737
    IPv4Network("203.0.113.0/24"): "documentation",  # RFC 5737
    IPv4Network("224.0.0.0/4"): "multicast",  # RFC 5771
    IPv4Network("255.255.255.255/32"): "broadcast",  # RFC 919
    IPv4Network("240.0.0.0/4"): "reserved",  # RFC 1112 section 4
}

_REFUSED_IPV6 = {
    IPv6Network("2001::/32"): "Teredo",  # RFC 4380
    IPv6Network("2001:2::/48"): "benchmarking",  # RFC 5180
    IPv6Network("2001:10::/28"): "ORCHID",  # RFC 4843
    IPv6Network("2001:20::/28"): "ORCHIDv2",  # RFC 7343
    IPv6Network("2001::/23"): "IETF protocol assignments",  # RFC 2928
    IPv6Network("2001:db8::/32"): "documentation",  # RFC 3849
    IPv6Network("2002::/16"): "6to4",  # RFC 3056, holds an IPv4 address
    IPv6Network("2620:4f:8000::/48"): "AS112",  # RFC 7534
    IPv6Network("3fff::/20"): "documentation",  # RFC 9637
    # From here on outside of 2000::/3: refused in any case, listed for the words.
    IPv6Network("::/128"): "unspecified",  # RFC 4291 section 2.5.2; connects to the machine itself
    IPv6Network("::1/128"): "loopback",  # RFC 4291 section 2.5.3
    IPv6Network("::/96"): "IPv4-compatible",  # RFC 4291 section 2.5.5.1
    IPv6Network("::ffff:0:0:0/96"): "IPv4-translated",  # RFC 2765 section 2.1
    IPv6Network("64:ff9b:1::/48"): "local NAT64",  # RFC 8215
    IPv6Network("100::/64"): "discard",  # RFC 6666
    IPv6Network("100:0:0:1::/64"): "dummy",  # RFC 9780
    IPv6Network("5f00::/16"): "segment routing",  # RFC 9602
    IPv6Network("fc00::/7"): "unique local",  # RFC 4193
    IPv6Network("fe80::/10"): "link-local",  # RFC 4291 section 2.5.6
    IPv6Network("fec0::/10"): "site-local",  # RFC 3879
    IPv6Network("ff00::/8"): "multicast",  # RFC 4291 section 2.7
}

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291 section 2.4, as assigned so far
_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291 section 2.5.5.2
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1


class ForbiddenAddress(Exception):
    """A hook address that may not be connected to; its text is for users, and nothing was sent.

    It is raised before any connection, so it is the same whether anything listens there or not.
    """


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Lets public addresses through, and those within `allowed_networks`.

    An IPv4-mapped address (::ffff:0:0/96) reaches the IPv4 address inside, and one of the well-known NAT64
    prefix (64:ff9b::/96) does so through a gateway: both are judged as that IPv4 address, to refuse and to
    allow.
    """

    allowed_networks: tuple[Network, ...] = ()

    def check(self, address: Address | str) -> None:
        """Pass an address that may be connected to.

        Raises `ForbiddenAddress` for any other, `ValueError` where the text is not an IP address.
        """
        address = ip_address(address)
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise ForbiddenAddress(
                f"hook address {address} is refused: it has a zone, a link of one machine; use one without"
            )
        inner = _reached(address)
        reason = _refusal(inner)
        if reason and not any(inner in network for network in self.allowed_networks):
            raise ForbiddenAddress(
                f"hook address {address} is not public ({reason}); "
                "the operator can allow it with HUBHOOKS_ALLOWED_NETWORKS"
            )

    def allows(self, address: Address | str) -> bool:
        """Tell whether `check` passes this address; raises `ValueError` where it is not one."""
        try:
            self.check(address)
        except ForbiddenAddress:
            return False
        return True


def _reached(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, and any other as it is."""
    if isinstance(address, IPv6Address) and (address in _IPV4_MAPPED or address in _NAT64):
        return IPv4Address(address.packed[12:])
    return address


def _refusal(address: Address) -> str:
    """Return why an address is not public, or an empty text where it is."""
    table: Iterable[tuple[Network, str]]
    table = _REFUSED_IPV4.items() if isinstance(address, IPv4Address) else _REFUSED_IPV6.items()
    for network, reason in table:
        if address in network:
            return reason
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "not global unicast"
    return ""
