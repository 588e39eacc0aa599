"""How the registry is asked for a tag, and where the password for it goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_network
from queue import SimpleQueue

import pytest
import trustme

from flask_hubhooks.transport import Transport
from flask_hubhooks.transport.egress import AddressPolicy, Egress
from flask_hubhooks.worker import registry_client
from flask_hubhooks.worker.registry_client import RegistryClient, Shown

from ..support.receivers import Answer, Receiver, close, hang, http, tls_context
from ..support.registries import Registry

AUTH = "ann:pä:ss wörd"
IMAGE = ("acme/app", "latest")
DIGEST = "sha256:new"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def transport(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    """The transport of a worker whose hooks may not reach this machine, and whose proxy nobody runs."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    transport = Transport(Egress(), ca_bundle=str(path), proxy="http://127.0.0.1:9")
    yield transport
    transport.close()


def look_up(transport: Transport, registry: Registry, auth: str | None = AUTH) -> Shown:
    client = RegistryClient(transport.send, registry.base, auth)
    return ask(client)


def ask(client: RegistryClient) -> Shown:
    shown: SimpleQueue[Shown] = SimpleQueue()
    client.look_up(*IMAGE, shown.put)
    return shown.get(timeout=30)


def passwords(receiver: Receiver) -> list[str]:
    """The credentials that came."""
    return [each.headers["authorization"] for each in receiver.requests if "authorization" in each.headers]


def test_any_address(transport: Transport) -> None:
    """The address rules and the proxy are for hooks: the operator chose where the registry is."""
    with Registry(auth=AUTH) as registry:
        registry.shows["acme/app:latest"] = DIGEST
        assert look_up(transport, registry) == Shown(DIGEST)
        assert look_up(transport, registry, "ann:wrong").fault == "it answered with 401 (check HUBHOOKS_REGISTRY_AUTH)"


def test_https(transport: Transport, authority: trustme.CA) -> None:
    """The registry's certificate is verified with HUBHOOKS_CA_BUNDLE."""
    with Registry(tls=tls_context(authority)) as registry, Registry(tls=tls_context(trustme.CA())) as other:
        registry.shows["acme/app:latest"] = other.shows["acme/app:latest"] = DIGEST
        assert look_up(transport, registry) == Shown(DIGEST)
        assert "certificate" in look_up(transport, other).fault
        assert other.requests == []


def test_token(transport: Transport) -> None:
    """A registry that wants a token gets one from its realm. It is used again until it is refused."""
    with Registry(auth=AUTH) as registry:
        registry.realm = f"{registry.base}/token?account=ann"
        registry.shows["acme/app:latest"] = DIGEST
        client = RegistryClient(transport.send, registry.base, AUTH)
        asked = [ask(client) for _ in range(2)]
        registry.tokens.clear()
        assert [*asked, ask(client)] == [Shown(DIGEST)] * 3
        assert [each.method for each in registry.requests] == ["HEAD", "GET", "HEAD", "HEAD", "HEAD", "GET", "HEAD"]
        assert registry.requests[1].path.endswith(
            "?account=ann&service=it%2C+self&scope=repository%3Aacme%2Fapp%3Apull"
        )
        assert "answered with 401" in look_up(transport, registry, "ann:wrong").fault


def test_token_without_a_password(transport: Transport) -> None:
    """Registries give tokens to anybody for what anybody may pull."""
    with Registry() as registry:
        registry.realm = f"{registry.base}/token"
        registry.shows["acme/app:latest"] = DIGEST
        assert look_up(transport, registry, None) == Shown(DIGEST)


@pytest.mark.parametrize(
    "realm",
    [
        "http://localhost:{port}/token",
        "https://localhost:{port}/token",
        "https://169.254.169.254/token",
        "ftp://127.0.0.1/token",
        "http://ann@127.0.0.1:{port}/token",
        "/token",
        "",
    ],
)
def test_a_realm_elsewhere(transport: Transport, authority: trustme.CA, realm: str) -> None:
    """A realm on another host must use https and obey the rules for hooks; else nothing is sent there."""
    with Registry(auth=AUTH) as registry, Receiver(tls=tls_context(authority)) as server:
        registry.realm = realm.format(port=server.port) or "\x7f"
        shown = look_up(transport, registry)
        assert shown.fault and not shown.digest
        assert server.connections == 0


def test_a_realm_on_an_allowed_host(authority: trustme.CA, transport: Transport) -> None:
    """A realm on another host gets the password over https, as far as hooks may go there, too."""
    token = http(200, json.dumps({"access_token": "t"}).encode())
    allowed = Egress(AddressPolicy((ip_network("127.0.0.0/8"), ip_network("::1/128"))))
    ca_bundle = transport._settings.ca_bundle.paths()[0]
    sender = Transport(allowed, ca_bundle=ca_bundle)
    with Registry(auth=AUTH) as registry, Receiver(token, tls=tls_context(authority)) as server:
        registry.realm, registry.tokens = f"https://localhost:{server.port}/token", {"t"}
        registry.shows["acme/app:latest"] = DIGEST
        assert look_up(sender, registry) == Shown(DIGEST)
        assert len(passwords(server)) == 1
    sender.close()


def test_no_way_back_to_http(transport: Transport, authority: trustme.CA) -> None:
    """A registry with https cannot send the password over http, not even to its own host."""
    with Registry(auth=AUTH, tls=tls_context(authority)) as registry, Receiver() as server:
        registry.realm = f"http://localhost:{server.port}/token"
        assert "over http" in look_up(transport, registry).fault
        assert server.connections == 0


def test_no_redirects(transport: Transport) -> None:
    """A redirect is not followed, neither the registry's nor the realm's."""
    with Receiver() as elsewhere, Registry() as registry:
        registry.fault = http(307, b"", f"Location: {elsewhere.url}")
        assert look_up(transport, registry).fault == "it answered with 307"
        assert elsewhere.connections == 0


BROKEN: dict[str, Answer] = {
    "error": 500,
    "no JSON": http(200, b"nonsense"),
    "no object": http(200, b"[]"),
    "no token": http(200, b"{}"),
    "no text": http(200, b'{"token": 5}'),
    "a line break": http(200, b'{"token": "a\\r\\nb"}'),
    "no number": http(200, b'{"token": "t", "expires_in": "x"}'),
    "deep": http(200, b"[" * 9999),
    "closed": close,
    "hangs": hang,
}


@pytest.mark.parametrize("answer", BROKEN)
def test_a_token_server_that_is_broken(transport: Transport, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the token server answers, the look-up ends in time with a fault that does not show the password."""
    monkeypatch.setattr(registry_client, "LOOK_UP_S", 1.0)
    with Receiver(BROKEN[answer]) as server, Registry(auth=AUTH) as registry:
        registry.realm = server.url
        shown = look_up(transport, registry)
    assert shown.fault and "wörd" not in shown.fault and not shown.digest


def test_hooks_do_not_share_its_connections(transport: Transport) -> None:
    """No connection to the registry is kept, since a hook might get it that may not go there."""
    with Registry() as registry:
        registry.shows["acme/app:latest"] = DIGEST
        client = RegistryClient(transport.send, registry.base, None)
        for _ in range(3):
            ask(client)
        assert registry.connections == 3
