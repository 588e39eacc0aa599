"""Where hooks may be sent: the operator's rules, applied when a hook URL is saved and again when it is sent to.

Host names are not resolved here. Saving a URL must not make the host's web process wait for DNS, and what a name
resolves to may change before it is sent to. `Egress.check_addresses` judges the addresses of a name at each connect.

`ipaddress.is_global` is not used: it says that 224.0.0.1, 64:ff9b::7f00:1, 2002:7f00:1::, fec0::1 and 3fff::1 are
global. The tables below are the IANA special-purpose address registries of IPv4 and IPv6 (RFC 6890) and the address
spaces that other RFCs reserve. Of IPv6 only 2000::/3 is global unicast so far; everything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ..config import Config
from .hook_url import Target, target

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_REMEMBERED = 4096
"""URLs, and addresses of names, whose judgement is remembered."""
LOOPBACK = ("127.0.0.1", "::1")
"""What localhost resolves to (RFC 6761 section 6.3), often to both; if one of them is allowed, so is the other."""

# The first network that contains an address gives the reason, so narrow ones come before wide ones.
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
    # From here on outside of 2000::/3: refused in any case, and listed for their reasons.
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
_IPV4_IN_LAST_BYTES = (IPv6Network("::/96"), IPv6Network("::ffff:0:0:0/96"))  # compatible and translated, see above

# The bytes of an IPv6 address that hold an IPv4 one (RFC 6052 section 2.2), for prefixes of 48, 56, 64 and 96 bits.
_NAT64_BYTES = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))

_LINK_LOCAL: tuple[Network, ...] = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))  # as above

_METADATA: dict[Address, str] = {
    # A machine can read its own credentials there. Each address is from the documentation of the cloud named beside it.
    IPv4Address("169.254.169.254"): "instance metadata",  # AWS, Google Cloud, Azure, OpenStack, DigitalOcean, Oracle
    IPv6Address("fd00:ec2::254"): "instance metadata",  # AWS EC2, "Use IMDS": over IPv6
    IPv4Address("169.254.170.2"): "task metadata",  # AWS ECS, "Amazon ECS task IAM role": credentials of a task
    IPv4Address("169.254.170.23"): "pod identity",  # AWS EKS, "How EKS Pod Identity works"
    IPv6Address("fd00:ec2::23"): "pod identity",  # the same over IPv6
    IPv6Address("fd20:ce::254"): "instance metadata",  # Google Cloud, "About VM metadata": IPv6-only instances
    IPv4Address("168.63.129.16"): "virtual machine platform",  # Azure, "What is IP address 168.63.129.16?"
    IPv4Address("100.100.100.200"): "instance metadata",  # Alibaba Cloud ECS, "Instance metadata"
    IPv4Address("192.0.0.192"): "instance metadata",  # Oracle Cloud Infrastructure Classic
    IPv4Address("169.254.42.42"): "instance metadata",  # Scaleway
    IPv6Address("fd00:42::42"): "instance metadata",  # Scaleway, over IPv6
    IPv6Address("fe80::a9fe:a9fe"): "instance metadata",  # OpenStack Neutron, over IPv6
}


class Forbidden(Exception):
    """The operator's rules forbid a hook; nothing was sent. The text is for users.

    It is raised before any connection, so the text is the same whether anything listens there or not.
    """


class ForbiddenAddress(Forbidden):
    """The address of a hook may not be connected to."""


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Allows public addresses, and those in `allowed_networks`.

    An IPv4-mapped address (::ffff:0:0/96) reaches the IPv4 address inside it, and an address with the well-known NAT64
    prefix (64:ff9b::/96) does so through a gateway. Both are judged as that IPv4 address.

    A cloud's metadata address is only allowed if `allowed_networks` contains exactly that address (/32 or /128),
    however it is embedded in IPv6. Clouds keep adding such addresses among the link-local ones, so a link-local
    address, embedded or not, is only allowed by a network of link-local addresses alone.
    """

    allowed_networks: tuple[Network, ...] = ()

    def check(self, address: Address | str, *, listed: bool = False) -> None:
        """Accept an address that may be connected to; raise `ForbiddenAddress` for any other.

        `listed` is for hosts in `HUBHOOKS_ALLOWED_HOSTS`: they may have any address except metadata and link-local
        ones. Raises `ValueError` if the text is not an IP address.
        """
        address = ip_address(address)
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise ForbiddenAddress(
                f"Hook address {address} has a zone, which is a link of one machine. Use an address without a zone."
            )
        self._check_metadata(address)
        self._check_link_local(address)
        inner = _judged_as(address)
        reason = "" if listed else _not_public(inner)
        if reason and not any(inner in network for network in self.allowed_networks):
            raise ForbiddenAddress(
                f"Hook address {address} is not public ({reason}). "
                "The operator can allow it with HUBHOOKS_ALLOWED_NETWORKS."
            )

    def _check_metadata(self, address: Address) -> None:
        for each in (address, *_embedded(address)):
            if each in _METADATA and ip_network(each) not in self.allowed_networks:
                raise ForbiddenAddress(
                    f"Hook address {address} is refused (cloud {_METADATA[each]}). "
                    f"The operator can allow it with {ip_network(each)} in HUBHOOKS_ALLOWED_NETWORKS."
                )

    def _check_link_local(self, address: Address) -> None:
        # An address with the local NAT64 prefix can be read in several ways, one of which may look link-local.
        for each in (address, *(() if address in _LOCAL_NAT64 else _embedded(address))):
            link = next((link for link in _LINK_LOCAL if each in link), None)
            if link and not any(each in network for network in self.allowed_networks if _is_within(network, link)):
                raise ForbiddenAddress(
                    f"Hook address {address} is not public (link-local). "
                    f"The operator can allow it with a network within {link} in HUBHOOKS_ALLOWED_NETWORKS."
                )

    def allows(self, address: Address | str) -> bool:
        """Return whether `check` accepts an address; raises `ValueError` if it is not one."""
        try:
            self.check(address)
        except ForbiddenAddress:
            return False
        return True


PUBLIC_ONLY = AddressPolicy()


def _is_within(network: Network, wider: Network) -> bool:
    return network.network_address in wider and network.prefixlen >= wider.prefixlen


def _embedded(address: Address) -> set[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address may lead to, by all ways of embedding one in the other."""
    if isinstance(address, IPv4Address):
        return set()
    packed = address.packed
    if address in _IPV4_MAPPED or address in _NAT64 or any(address in network for network in _IPV4_IN_LAST_BYTES):
        return {IPv4Address(packed[12:])}
    if address in _6TO4:
        return {IPv4Address(packed[2:6])}
    if address.teredo:  # RFC 4380: of its server and of its client
        return set(address.teredo)
    if address in _LOCAL_NAT64:
        return {IPv4Address(bytes(packed[index] for index in places)) for places in _NAT64_BYTES}
    return set()


def _judged_as(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, and any other address unchanged."""
    if isinstance(address, IPv6Address) and (address in _IPV4_MAPPED or address in _NAT64):
        return IPv4Address(address.packed[12:])
    return address


def _not_public(address: Address) -> str:
    """Return why an address is not public; "" if it is."""
    table: Iterable[tuple[Network, str]]
    table = _REFUSED_IPV4.items() if isinstance(address, IPv4Address) else _REFUSED_IPV6.items()
    for network, reason in table:
        if address in network:
            return reason
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "not global unicast"
    return ""


@lru_cache(MAX_REMEMBERED)
def is_address(host: str) -> bool:
    """Return whether a host is an IP address in its usual notation."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Egress:
    """An operator's rules for hook URLs; the fields are those of `Config`."""

    addresses: AddressPolicy = PUBLIC_ONLY
    allowed_hosts: tuple[str, ...] = ()
    allow_http: bool = True
    allowed_ports: frozenset[int] | None = None

    @cached_property
    def target(self) -> Callable[[str], Target]:
        """Parse a hook URL and check everything about it except the addresses of a name. Judgements are remembered.

        Raises `BadURL` for a URL that cannot be sent to, and `Forbidden` for a forbidden scheme, port or address (in
        any notation), and for a name of the worker's own machine.
        """
        return lru_cache(MAX_REMEMBERED)(self._target)

    def _target(self, url: str) -> Target:
        found = target(url)
        if found.scheme != "https" and not self.allow_http:
            raise Forbidden("The hook URL must use https. The operator can allow http with HUBHOOKS_ALLOW_HTTP.")
        if self.allowed_ports is not None and found.port not in self.allowed_ports:
            raise Forbidden(
                f"Hook port {found.port} is not allowed. The operator can allow it with HUBHOOKS_ALLOWED_PORTS."
            )
        if found.address is not None:
            self.addresses.check(found.address)
        elif _is_localhost(found.host) and not self._allows_localhost(found.host):
            raise ForbiddenAddress(
                f"Hook host {found.host} is the worker's own machine. The operator can allow it with "
                "HUBHOOKS_ALLOWED_HOSTS, or with 127.0.0.0/8 in HUBHOOKS_ALLOWED_NETWORKS."
            )
        return found

    @cached_property
    def check_addresses(self) -> Callable[[str, tuple[str, ...]], None]:
        """Check the addresses that a host was resolved to; raise `ForbiddenAddress` if any of them is forbidden.

        The text does not contain a name's address, since names of an internal network may be resolved, too. What
        passed is remembered: checking each address takes a third as long as sending a request.
        """
        return lru_cache(MAX_REMEMBERED)(self._check_addresses)

    def _check_addresses(self, host: str, addresses: tuple[str, ...]) -> None:
        listed = self.lists(host)
        local = LOOPBACK if _is_localhost(host) and self._allows_localhost(host) else ()
        for address in addresses:
            try:
                self.addresses.check(address, listed=listed or address in local)
            except ForbiddenAddress:
                if is_address(host):
                    raise
                raise ForbiddenAddress(
                    f"Hook host {host} has an address that is not public. The operator can allow it with "
                    "HUBHOOKS_ALLOWED_HOSTS or HUBHOOKS_ALLOWED_NETWORKS."
                ) from None

    def lists(self, host: str) -> bool:
        """Return whether a name, in lower-case ASCII, is in `allowed_hosts` or below one of the wildcards there."""
        return bool(self.allowed_hosts) and not patterns_of(host.removesuffix(".")).isdisjoint(self.allowed_hosts)

    def _allows_localhost(self, host: str) -> bool:
        return self.lists(host) or any(map(self.addresses.allows, LOOPBACK))


def _is_localhost(host: str) -> bool:
    """Return whether a name is localhost or below it (RFC 6761 section 6.3)."""
    return host.removesuffix(".").rpartition(".")[2] == "localhost"


def patterns_of(host: str) -> set[str]:
    """Return the patterns that match a name: the name itself, and `*.` with each name that it is below."""
    labels = host.split(".")
    return {host, *("*." + ".".join(labels[start:]) for start in range(1, len(labels)))}


def egress_of(config: Config) -> Egress:
    """Return an app's rules: the same object for the same rules, since it remembers judgements."""
    return _egress(config.allowed_networks, config.allowed_hosts, config.allow_http, config.allowed_ports)


@lru_cache(maxsize=16)
def _egress(
    networks: tuple[Network, ...], hosts: tuple[str, ...], allow_http: bool, ports: frozenset[int] | None
) -> Egress:
    return Egress(AddressPolicy(networks), hosts, allow_http, ports)
