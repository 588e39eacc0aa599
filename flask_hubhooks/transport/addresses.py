"""Which addresses a hook may be sent to: public ones, and those of the networks that the operator allows.

`ipaddress.is_global` is not asked: it calls 224.0.0.1, 64:ff9b::7f00:1, 2002:7f00:1::, fec0::1 and 3fff::1
global. The tables below are the IANA special-purpose address registries of IPv4 and IPv6 (RFC 6890) and the
address spaces that other RFCs set aside. Of IPv6 only 2000::/3 is global unicast so far; all else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The first network that holds an address names the reason; narrow ones therefore stand before wide ones.
_REFUSED_IPV4 = {
    IPv4Network("0.0.0.0/8"): "this network",  # RFC 791 section 3.2; 0.0.0.0 connects to the machine itself
    IPv4Network("10.0.0.0/8"): "private",  # RFC 1918
    IPv4Network("100.64.0.0/10"): "shared address space",  # RFC 6598, carrier-grade NAT
    IPv4Network("127.0.0.0/8"): "loopback",  # RFC 1122 section 3.2.1.3
    IPv4Network("169.254.0.0/16"): "link-local",  # RFC 3927
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
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215
_6TO4 = IPv6Network("2002::/16")  # RFC 3056 section 2
_IPV4_LAST = (IPv6Network("::/96"), IPv6Network("::ffff:0:0:0/96"))  # compatible and translated, see above

# Where an IPv4 address is within an IPv6 one, by RFC 6052 section 2.2, for prefixes of 48, 56, 64 and 96 bits.
_NAT64_BYTES = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))

_LINK_LOCAL: tuple[Network, ...] = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))  # as above

_METADATA: dict[Address, str] = {
    # The machine's own credentials are read there. Each address is from the documentation of the cloud that is named.
    IPv4Address("169.254.169.254"): "instance metadata",  # AWS, Google Cloud, Azure, OpenStack, DigitalOcean, Oracle
    IPv6Address("fd00:ec2::254"): "instance metadata",  # AWS EC2, "Use IMDS": over IPv6
    IPv4Address("169.254.170.2"): "task metadata",  # AWS ECS, "Amazon ECS task IAM role": credentials of a task
    IPv4Address("169.254.170.23"): "pod identity",  # AWS EKS, "How EKS Pod Identity works"
    IPv6Address("fd00:ec2::23"): "pod identity",  # the same over IPv6
    IPv6Address("fd20:ce::254"): "instance metadata",  # Google Cloud, "About VM metadata": IPv6-only instances
    IPv4Address("168.63.129.16"): "the platform of a virtual machine",  # Azure, "What is IP address 168.63.129.16?"
    IPv4Address("100.100.100.200"): "instance metadata",  # Alibaba Cloud ECS, "Instance metadata"
    IPv4Address("192.0.0.192"): "instance metadata",  # Oracle Cloud Infrastructure Classic
    IPv4Address("169.254.42.42"): "instance metadata",  # Scaleway
    IPv6Address("fd00:42::42"): "instance metadata",  # Scaleway, over IPv6
    IPv6Address("fe80::a9fe:a9fe"): "instance metadata",  # OpenStack Neutron, over IPv6
}


class Forbidden(Exception):
    """What the operator's rules do not let a hook do; the text is for users, and nothing was sent.

    It is raised before any connection, so it is the same whether anything listens there or not.
    """


class ForbiddenAddress(Forbidden):
    """A hook address that may not be connected to."""


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Lets public addresses through, and those within `allowed_networks`.

    An IPv4-mapped address (::ffff:0:0/96) reaches the IPv4 address inside, and one of the well-known NAT64
    prefix (64:ff9b::/96) does so through a gateway: both are judged as that IPv4 address, to refuse and to
    allow. A cloud's metadata address is let through only where `allowed_networks` holds exactly it (/32 or
    /128), however it is wrapped in IPv6. Clouds keep adding such addresses among the link-local ones, so these are
    let through only where `allowed_networks` holds a network of link-local addresses alone, wrapped ones as well.
    """

    allowed_networks: tuple[Network, ...] = ()

    def check(self, address: Address | str, *, listed: bool = False) -> None:
        """Pass an address that may be connected to; `listed` is for a host in `HUBHOOKS_ALLOWED_HOSTS`.

        A listed host may have any address but those of metadata and link-local ones.

        Raises `ForbiddenAddress` for any other, `ValueError` where the text is not an IP address.
        """
        address = ip_address(address)
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise ForbiddenAddress(
                f"hook address {address} is refused: it has a zone, a link of one machine; use one without"
            )
        self._check_metadata(address)
        self._check_link_local(address)
        inner = _reached(address)
        reason = "" if listed else _refusal(inner)
        if reason and not any(inner in network for network in self.allowed_networks):
            raise ForbiddenAddress(
                f"hook address {address} is not public ({reason}); "
                "the operator can allow it with HUBHOOKS_ALLOWED_NETWORKS"
            )

    def _check_metadata(self, address: Address) -> None:
        for each in (address, *_inside(address)):
            if each in _METADATA and ip_network(each) not in self.allowed_networks:
                raise ForbiddenAddress(
                    f"hook address {address} is refused ({_METADATA[each]} of a cloud); "
                    f"the operator can allow it with {ip_network(each)} in HUBHOOKS_ALLOWED_NETWORKS"
                )

    def _check_link_local(self, address: Address) -> None:
        # A local NAT64 prefix can be read in several ways, of which an allowed address may look link-local in one.
        for each in (address, *(() if address in _LOCAL_NAT64 else _inside(address))):
            link = next((link for link in _LINK_LOCAL if each in link), None)
            if link and not any(each in network for network in self.allowed_networks if _is_within(network, link)):
                raise ForbiddenAddress(
                    f"hook address {address} is not public (link-local); "
                    f"the operator can allow it with a network within {link} in HUBHOOKS_ALLOWED_NETWORKS"
                )

    def allows(self, address: Address | str) -> bool:
        """Tell whether `check` passes this address; raises `ValueError` where it is not one."""
        try:
            self.check(address)
        except ForbiddenAddress:
            return False
        return True


def _is_within(network: Network, wider: Network) -> bool:
    return network.network_address in wider and network.prefixlen >= wider.prefixlen


def _inside(address: Address) -> set[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 one may lead to, by any way of writing one into the other."""
    if isinstance(address, IPv4Address):
        return set()
    packed = address.packed
    if address in _IPV4_MAPPED or address in _NAT64 or any(address in network for network in _IPV4_LAST):
        return {IPv4Address(packed[12:])}
    if address in _6TO4:
        return {IPv4Address(packed[2:6])}
    if address.teredo:  # RFC 4380: of its server, and of its client
        return set(address.teredo)
    if address in _LOCAL_NAT64:
        return {IPv4Address(bytes(packed[index] for index in places)) for places in _NAT64_BYTES}
    return set()


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


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address in its usual form."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
