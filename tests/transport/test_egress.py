"""The operator's rules for hook URLs, which are the same when a URL is saved and when it is sent to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.config import Config
from flask_hubhooks.transport import Transport, resolver
from flask_hubhooks.transport.egress import AddressPolicy, Egress, Forbidden, ForbiddenAddress, egress_of

from ..support.host import Host
from ..support.receivers import Receiver
from ..support.transports import LOOPBACK, Network, post
from .test_hook_url import SPELLINGS, recorded

NETWORKS = "the operator can allow it with HUBHOOKS_ALLOWED_NETWORKS"
LOCAL = ["localhost", "LocalHost.", "ci.localhost", "a.b.localhost."]


def policy(*networks: str) -> AddressPolicy:
    return AddressPolicy(tuple(map(ip_network, networks)))


def refusal(egress: Egress, url: str) -> str:
    """Return why a URL is refused; it must not be sent to either, and nothing is looked up."""
    with pytest.raises(Forbidden) as refused:
        egress.target(url)
    with recorded() as (looked_up, connected):
        outcome = post(Transport(egress), url)
    assert (outcome.blocked, outcome.error) == (True, str(refused.value))
    assert not looked_up + connected
    return outcome.error


# Schemes and ports


def test_http() -> None:
    """Without HUBHOOKS_ALLOW_HTTP a URL must be https."""
    egress = Egress(allow_http=False)
    assert egress.target("HTTPS://ci.example.com/").port == 443
    said = "The hook URL must use https. The operator can allow http with HUBHOOKS_ALLOW_HTTP."
    assert refusal(egress, "http://ci.example.com/") == said


@pytest.mark.parametrize("url", ["http://ci.example.com", "http://ci.example.com:22/", "https://ci.example.com:80/"])
def test_ports(url: str) -> None:
    """With HUBHOOKS_ALLOWED_PORTS other ports are refused, including the scheme's own if it is not listed."""
    egress = Egress(allowed_ports=frozenset({443, 8443}))
    egress.target("https://ci.example.com/")
    egress.target("http://ci.example.com:8443/")
    assert "port" in refusal(egress, url)
    assert Egress(allowed_ports=frozenset({80, 22})).target(url)


@given(st.integers(1, 65535), st.none() | st.frozensets(st.integers(1, 65535), min_size=1))
def test_any_port(port: int, allowed: frozenset[int] | None) -> None:
    """A port is accepted exactly if it is allowed."""
    try:
        Egress(allowed_ports=allowed).target(f"http://ci.example.com:{port}/")
    except Forbidden:
        assert allowed is not None and port not in allowed
    else:
        assert allowed is None or port in allowed


# Addresses and names of this machine


@pytest.mark.parametrize("spelling", [each for spellings in SPELLINGS.values() for each in spellings])
def test_spellings(spelling: str) -> None:
    """An address that is not public is refused in every notation, without a lookup."""
    assert refusal(Egress(), f"http://{spelling}/").startswith("Hook address ")
    assert refusal(Egress(allowed_hosts=("*.com", spelling.lower())), f"http://{spelling}/")


@pytest.mark.parametrize("host", ["[::]", "[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]"])
def test_ipv6(host: str) -> None:
    """The same holds for IPv6, and for IPv4 in IPv6."""
    assert refusal(Egress(), f"http://{host}/").startswith("Hook address ")


def test_metadata() -> None:
    """A cloud's metadata address is refused in an allowed network, and allowed if it is listed itself."""
    wide, exact = Egress(policy("169.254.0.0/16")), Egress(policy("169.254.169.254/32"))
    wide.target("http://169.254.1.1/")
    for spelling in ("169.254.169.254", *SPELLINGS["169.254.169.254"], "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]"):
        assert "169.254.169.254/32 in HUBHOOKS_ALLOWED_NETWORKS" in refusal(wide, f"http://{spelling}/")
        exact.target(f"http://{spelling}/")


@pytest.mark.parametrize("host", LOCAL)
def test_localhost(host: str) -> None:
    """A name of this machine is refused unless it is listed, or loopback is allowed."""
    said = refusal(Egress(), f"http://{host}/")
    assert said.startswith(f"Hook host {host.lower()} is the worker's own machine. ")
    assert refusal(Egress(policy("10.0.0.0/8"), ("localhosts",)), f"http://{host}/") == said
    for allowing in (policy("127.0.0.0/8"), policy("::1/128")):
        Egress(allowing).target(f"http://{host}/")
    Egress(allowed_hosts=("localhost", "*.localhost")).target(f"http://{host}/")


@pytest.mark.parametrize("host", LOCAL)
def test_localhost_that_leads_elsewhere(network: Network, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Allowing loopback lets names below localhost resolve to this machine, and to no other address."""
    monkeypatch.setattr(resolver, "REMEMBERED_S", 0.0)
    for loopback in ("127.0.0.0/8", "::1/128"):
        for address in ("127.0.0.1", "::1"):
            Egress(policy(loopback)).check_addresses(host.lower(), (address,))
        for address in ("10.9.9.9", "169.254.1.1", "192.168.7.7", "fd00::1"):
            network.names[host.lower()] = [(address, 80)] if "." in address else [(address, 80, 0, 0)]
            outcome = post(Transport(Egress(policy(loopback))), f"http://{host}/")
            assert outcome.blocked, outcome
    assert not network.connected


def test_names_that_are_not_local() -> None:
    """A name that only ends like localhost is an ordinary name."""
    for host in ("notlocalhost", "localhost.example.com", "localhosts", "ci.internal"):
        assert Egress().target(f"http://{host}/").host == host


# Listed hosts


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("ci.internal", True),
        ("ci.internal.", True),
        ("x.ci.internal", False),
        ("internal", False),
        ("xci.internal", False),
        ("corp.example.com", False),
        ("a.corp.example.com", True),
        ("a.b.corp.example.com.", True),
        ("acorp.example.com", False),
        ("a.corp.example.com.evil.org", False),
        ("xn--bcher-kva.example", True),
    ],
)
def test_listed(host: str, listed: bool) -> None:
    """A name is listed by itself, or by a wildcard at any depth above it."""
    assert Egress(allowed_hosts=("ci.internal", "*.corp.example.com", "xn--bcher-kva.example")).lists(host) is listed


LISTING = Egress(allowed_hosts=("ci.internal", "*.corp.example.com"))


@pytest.mark.parametrize("host", ["ci.internal", "CI.Internal.", "a.b.corp.example.com"])
def test_a_listed_host_may_be_private(network: Network, host: str) -> None:
    """A listed host is connected to even if its address is not public."""
    with Receiver() as receiver:
        network.names[host.lower()] = [("127.0.0.1", receiver.port)]
        assert post(Transport(LISTING), f"http://{host}:{receiver.port}/").status_code == 200


@pytest.mark.parametrize(
    "metadata", [("169.254.169.254", 80), ("fd00:ec2::254", 80, 0, 0), ("::ffff:a9fe:a9fe", 80, 0, 0)]
)
def test_a_listed_host_is_no_metadata(network: Network, metadata: Any) -> None:
    """A listed host that resolves to a cloud's metadata is blocked, unless that very address is allowed."""
    network.names["ci.internal"] = [("127.0.0.1", 80), metadata]
    assert post(Transport(LISTING), "http://ci.internal/").blocked
    assert not network.connected
    exact = policy("169.254.169.254/32", "fd00:ec2::254/128")
    assert not post(Transport(Egress(exact, LISTING.allowed_hosts)), "http://ci.internal/").blocked


@pytest.mark.parametrize("link_local", [("169.254.1.1", 80), ("fe80::1", 80, 0, 0), ("::ffff:a9fe:101", 80, 0, 0)])
def test_a_listed_host_is_not_link_local(network: Network, link_local: Any) -> None:
    """A listed host that resolves to a link-local address is blocked, unless a link-local network is allowed."""
    network.names["ci.internal"] = [link_local]
    for networks in ((), ("0.0.0.0/0", "::/0"), ("169.254.2.0/24", "fe80:1::/64")):
        assert post(Transport(Egress(policy(*networks), LISTING.allowed_hosts)), "http://ci.internal/").blocked
    assert not network.connected
    allowing = policy("169.254.1.0/24", "fe80::/64")
    assert not post(Transport(Egress(allowing, LISTING.allowed_hosts)), "http://ci.internal/").blocked


@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "169.254.169.254", "192.168.7.7"])
def test_words_for_a_name(network: Network, address: str) -> None:
    """The cause for a name shows neither its address nor the kind of address."""
    network.names["intranet.example.com"] = [(address, 80)]
    outcome = post(Transport(LISTING), "http://intranet.example.com/")
    said = "The operator can allow it with HUBHOOKS_ALLOWED_HOSTS or HUBHOOKS_ALLOWED_NETWORKS."
    assert outcome.blocked
    assert outcome.error == f"Hook host intranet.example.com has an address that is not public. {said}"
    assert not network.connected


def test_rebinding(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that alternates between a public and a private address is never connected to at the private one."""
    monkeypatch.setattr(resolver, "REMEMBERED_S", 0.0)
    flips = [("93.184.216.34", 80)], [("10.0.0.1", 80)], [("93.184.216.34", 80), ("127.0.0.1", 80)]
    sender, blocked = Transport(), 0
    for turn in range(60):
        network.names["rebind.example.com"] = flips[turn % 3]
        blocked += post(sender, "http://rebind.example.com/").blocked
    assert blocked == 40
    assert network.connected == [("93.184.216.34", 80)] * 20


def test_rebinding_at_once(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for many POSTs at once, which share lookups."""
    monkeypatch.setattr(resolver, "REMEMBERED_S", 0.0)
    private = iter([True, False] * 500)

    def flip(*_: Any, **__: Any) -> Any:
        address = "10.0.0.1" if next(private) else "93.184.216.34"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))]

    monkeypatch.setattr(socket, "getaddrinfo", flip)
    sender = Transport()
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: post(sender, "http://rebind.example.com/"), range(200)))
    assert {each.blocked for each in outcomes} == {True, False}
    assert {address[0] for address in network.connected} == {"93.184.216.34"}


# Saved


@pytest.fixture
def make_saving(sqlite_uri: str) -> Iterator[Any]:
    made: list[Host] = []

    def make(**config: Any) -> Host:
        keys = {f"HUBHOOKS_{key.upper()}": value for key, value in {"allowed_networks": [], **config}.items()}
        made.append(Host(sqlite_uri, "redis://127.0.0.1:1/0", config=keys))
        return made[-1]

    yield make
    for each in made:
        each.close()


def saved(host: Host, url: str) -> str | None:
    """Return the error at the field of a refused URL, alone and in a chain."""
    answer = host.api("POST", "acme/app/webhooks/", json={"name": uuid4().hex, "hook_url": url})
    chained = host.api("POST", "acme/app/webhooks/", json={"name": uuid4().hex, "hooks": [{"hook_url": url}]})
    if answer.status_code == chained.status_code == 201:
        return None
    assert answer.status_code == chained.status_code == 400
    [words] = answer.get_json()["errors"]["hook_url"]
    assert chained.get_json()["errors"] == {"hooks": {"0": {"hook_url": [words]}}}
    return str(words)


def test_refused_when_saved(make_saving: Any) -> None:
    """A refused URL gets the text of the history at its field, without a lookup."""
    host = make_saving(allowed_ports=[80, 443, 8080], allowed_networks=["169.254.0.0/16", "192.168.0.0/16"])
    egress = egress_of(host.state.config)
    spelt = [f"http://{each}/" for spellings in SPELLINGS.values() for each in spellings]
    others = [
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://ci.example.com:22/",
        *(f"http://{each}/" for each in LOCAL),
    ]
    with recorded() as (looked_up, connected):
        for url in spelt + others:
            words = saved(host, url)
            assert words == refusal(egress, url)
        assert saved(host, "http://192.168.1.1:8080/") is None
        assert saved(host, "http://ci.example.com/") is None
    assert not looked_up + connected


def test_syntax_when_saved(make_saving: Any) -> None:
    """A malformed URL keeps its own text."""
    host = make_saving()
    assert saved(host, "http://%31%32%37.0.0.1/") == "Must not contain % or \\ in the host name."
    assert saved(host, "http://[fe80::1%25lo]/") == "Must not contain % or \\ in the host name."
    assert saved(host, "http://ci.example.com/#a") == "Must not contain a user name or a fragment."


def test_changed_when_saved(make_saving: Any) -> None:
    """A changed hook URL is judged like a new one; if it is refused, the hook stays as it was."""
    host = make_saving()
    webhook = host.create("https://ci.example.com/")
    path = f"acme/app/webhooks/{webhook['id']}"
    hook = f"{path}/hooks/{webhook['hooks'][0]['id']}/"
    answer = host.api("PATCH", hook, json={"hook_url": "http://127.1/"})
    assert answer.status_code == 400
    assert host.api("GET", hook).get_json()["hook_url"] == "https://ci.example.com/"


def test_rules_that_change(make_saving: Any) -> None:
    """A URL that was saved under laxer rules is not sent to under stricter ones."""
    with Receiver() as receiver:
        lax = Egress(LOOPBACK.addresses)
        assert post(Transport(lax), receiver.url).status_code == 200
        for strict in (
            Egress(LOOPBACK.addresses, allow_http=False),
            Egress(LOOPBACK.addresses, (), True, frozenset({1})),
        ):
            assert post(Transport(strict), receiver.url).blocked
        assert receiver.connections == 1


# From the config


def test_from_config() -> None:
    """An app's config determines its rules, which are made once."""
    config = Config("https://registry.example.com", allowed_networks=(ip_network("10.0.0.0/8"),), allow_http=False)
    assert egress_of(config) == Egress(policy("10.0.0.0/8"), allow_http=False)
    assert egress_of(config) is egress_of(
        Config("https://other.example.com", allowed_networks=config.allowed_networks, allow_http=False)
    )
    with pytest.raises(ForbiddenAddress):
        egress_of(Config("https://registry.example.com")).target("https://10.0.0.1/")


def test_environment_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    """Netrc and proxies of the environment do not change where a request goes or what it contains."""
    (tmp_path / "netrc").write_text("machine ci.internal login ann password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        network.names["ci.internal"] = [("127.0.0.1", receiver.port)]
        assert post(Transport(LISTING), f"http://ci.internal:{receiver.port}/").status_code == 200
        assert proxy.connections == 0
    assert not {"authorization", "proxy-authorization"} & set(receiver.requests[0].headers)


def test_redirect_inwards(network: Network) -> None:
    """A redirect to a private address is a response like any other, and is not followed."""
    targets = ["http://169.254.169.254/", "http://127.0.0.1:1/", "//10.0.0.1/", "http://2130706433/"]
    for status in (301, 302, 303, 307, 308):
        for location in targets:
            answer = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
            with Receiver(answer) as receiver:
                assert post(Transport(LOOPBACK), receiver.url).status_code == status
                assert network.connected.pop() == ("127.0.0.1", receiver.port)
                assert not network.connected
