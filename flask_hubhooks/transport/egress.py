"""Where hooks may be sent to: the operator's rules, judged in one place when a URL is saved and when it is sent to.

A name is not looked up here: who saves a URL would otherwise have the host's web process wait for DNS, and what it
resolves to may change until it is sent to. Its addresses are judged at each connect, by `check_answer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..config import Config
from .addresses import AddressPolicy, Forbidden, ForbiddenAddress, Network, is_address
from .hook_url import Target, target

REMEMBERED = 4096  # URLs, and answers of look-ups, whose judgement is kept
PUBLIC_ONLY = AddressPolicy()
LOOPBACK = ("127.0.0.1", "::1")
"""What localhost resolves to (RFC 6761 section 6.3), often both: one that is allowed lets it have the other as well."""


@dataclass(frozen=True)
class Egress:
    """An operator's rules for hook URLs; the fields are those of `Config`."""

    addresses: AddressPolicy = PUBLIC_ONLY
    allowed_hosts: tuple[str, ...] = ()
    allow_http: bool = True
    allowed_ports: frozenset[int] | None = None

    @cached_property
    def target(self) -> Callable[[str], Target]:
        """Return where a URL leads, of which nothing but a name's addresses is left to be judged.

        Raises `BadURL` where it is none that we could send to, `Forbidden` where a rule is against its scheme, its
        port, its address in whatever spelling, or its being a name of this machine. Judgements are remembered.
        """
        return lru_cache(REMEMBERED)(self._judged)

    def _judged(self, url: str) -> Target:
        found = target(url)
        if found.scheme != "https" and not self.allow_http:
            raise Forbidden("hook URL must begin with https://; the operator can allow http with HUBHOOKS_ALLOW_HTTP")
        if self.allowed_ports is not None and found.port not in self.allowed_ports:
            raise Forbidden(
                f"hook port {found.port} is not allowed; the operator can allow it with HUBHOOKS_ALLOWED_PORTS"
            )
        if found.address is not None:
            self.addresses.check(found.address)
        elif _is_local(found.host) and not self._lets_local(found.host):
            raise ForbiddenAddress(
                f"hook host {found.host} is this machine itself; the operator can allow it with "
                "HUBHOOKS_ALLOWED_HOSTS, or with 127.0.0.0/8 in HUBHOOKS_ALLOWED_NETWORKS"
            )
        return found

    def _lets_local(self, host: str) -> bool:
        return self.lists(host) or any(map(self.addresses.allows, LOOPBACK))

    def lists(self, host: str) -> bool:
        """Tell whether a name, in lower-case ASCII, is one of `allowed_hosts` or below one of their wildcards."""
        return bool(self.allowed_hosts) and not self._patterns.isdisjoint(patterns_of(host.removesuffix(".")))

    @cached_property
    def _patterns(self) -> frozenset[str]:
        return frozenset(self.allowed_hosts)

    @cached_property
    def check_answer(self) -> Callable[[str, tuple[str, ...]], None]:
        """Pass what a host was resolved to; raises `ForbiddenAddress` where any one of the addresses is forbidden.

        Of a name the text does not tell which address it has: names of an internal network may be looked up, too.
        What passed is remembered: judging each address takes as long as a third of sending a request.
        """
        return lru_cache(REMEMBERED)(self._check_answer)

    def _check_answer(self, host: str, addresses: tuple[str, ...]) -> None:
        listed = self.lists(host)
        local = LOOPBACK if _is_local(host) and self._lets_local(host) else ()
        for address in addresses:
            try:
                self.addresses.check(address, listed=listed or address in local)
            except ForbiddenAddress:
                if is_address(host):
                    raise
                raise ForbiddenAddress(
                    f"hook host {host} has an address that is not public; the operator can allow it with "
                    "HUBHOOKS_ALLOWED_HOSTS or HUBHOOKS_ALLOWED_NETWORKS"
                ) from None


def _is_local(host: str) -> bool:
    """Tell whether a name is localhost or below it (RFC 6761 section 6.3)."""
    return host.removesuffix(".").rpartition(".")[2] == "localhost"


def patterns_of(host: str) -> set[str]:
    """Return the patterns that a name matches: itself, and a wildcard for each name that it is below."""
    labels = host.split(".")
    return {host, *("*." + ".".join(labels[start:]) for start in range(1, len(labels)))}


def egress_of(config: Config) -> Egress:
    """Return an app's rules: the same object for the same rules, since it remembers its judgements."""
    return _egress(config.allowed_networks, config.allowed_hosts, config.allow_http, config.allowed_ports)


@lru_cache(maxsize=16)
def _egress(
    networks: tuple[Network, ...], hosts: tuple[str, ...], allow_http: bool, ports: frozenset[int] | None
) -> Egress:
    return Egress(AddressPolicy(networks), hosts, allow_http, ports)
