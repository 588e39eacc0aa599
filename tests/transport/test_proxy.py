"""Requests through HUBHOOKS_PROXY, with real proxies on loopback: good, hostile, down and hanging."""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from flask_hubhooks.transport import Concern, Transport, certificate_files, loop
from flask_hubhooks.transport.egress import Egress
from flask_hubhooks.transport.resolver import Resolver

from ..support.host import Host
from ..support.receivers import Answer, Connection, Receiver, Request, close, hang, reset, sends, tls_context, trickles
from ..support.receivers import http as answer_of
from ..support.transports import BODY, LOOPBACK, SECRET, SOON_S, Network, post

PASSWORD = "pa:ss@wörd€"
CREDENTIALS = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
CLOSED = "The proxy closed the connection, or its response is not HTTP."
ADVICE = "The operator must check HUBHOOKS_PROXY, and that the proxy is running."


class Proxy(Receiver):
    """A proxy that resolves all names to 127.0.0.1, and asks for `CREDENTIALS` if it is `guarded`."""

    def __init__(self, *, guarded: bool = False, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self._pass_on, tls=tls)
        self.guarded = guarded

    def through(self, user: str = "") -> str:
        """Return a value for HUBHOOKS_PROXY."""
        scheme, host = ("https", "localhost") if self.tls else ("http", "127.0.0.1")
        return f"{scheme}://{user}{host}:{self.port}"

    def _pass_on(self, request: Request, connection: Connection) -> bytes | None:
        if self.guarded and request.headers.get("proxy-authorization") != CREDENTIALS:
            return answer_of(407, b"", "Proxy-Authenticate: Basic", "Proxy-Realm: inner")
        try:
            if request.method != "CONNECT":
                return _forward(request)
            _connect(request, connection)
        except OSError:
            return answer_of(502)
        return None


def _connect(request: Request, connection: Connection) -> None:
    with socket.create_connection(("127.0.0.1", int(request.path.rpartition(":")[2])), 5) as receiver:
        connection.socket.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n")
        ways = {receiver: connection.socket, connection.socket: receiver}
        with contextlib.suppress(OSError):
            while True:
                for source in select.select(list(ways), [], [], 5)[0]:
                    if not (data := source.recv(65536)):
                        return
                    ways[source].sendall(data)


def _forward(request: Request) -> bytes:
    parts = urlsplit(request.path)
    assert parts.scheme == "http"
    onward = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=5)
    kept = {name: value for name, value in request.headers.items() if name != "proxy-authorization"}
    with contextlib.closing(onward):
        onward.request(request.method, f"{parts.path}?{parts.query}", request.body, kept)
        answer = onward.getresponse()
        return answer_of(answer.status, answer.read())


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that were looked up in this process."""
    hosts: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, *args: Any, **options: Any) -> Any:
        hosts.append(host)
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(loop, "shared_resolver", Resolver())
    return hosts


def sender(proxy: str, egress: Egress | None = None, **options: Any) -> Transport:
    return Transport(egress, proxy=proxy, **options)


def test_http(looked_up: list[str]) -> None:
    """An http URL is requested with an absolute URI over one kept connection, and the proxy resolves its name."""
    with Receiver(200, answer_of(201, b"thanks")) as receiver, Proxy() as proxy:
        through = sender(proxy.through())
        url = f"http://ci.example.com:{receiver.port}/hook?a=b"
        assert post(through, url).status_code == 200
        outcome = post(through, url, **{"webhook-id": "x"})
        assert proxy.connections == 1
    assert (outcome.status_code, outcome.response_body, outcome.connect_ms) == (201, b"thanks", None)
    assert [(each.method, each.path) for each in proxy.requests] == [("POST", url)] * 2
    assert receiver.requests[1].headers["host"] == f"ci.example.com:{receiver.port}"
    assert (receiver.requests[1].path, receiver.requests[1].body) == ("/hook?a=b", BODY)
    assert receiver.requests[1].headers["webhook-id"] == "x"
    assert set(looked_up) == {"127.0.0.1"}  # by the proxy


@pytest.mark.parametrize("over_tls", [False, True])
def test_https(authority: trustme.CA, bundle: str, looked_up: list[str], over_tls: bool) -> None:
    """An https URL goes through CONNECT, with TLS to the receiver under the URL's name, also via an https proxy."""
    names: list[str | None] = []
    context = tls_context(authority, "ci.example.com")
    context.sni_callback = lambda _, name, __: names.append(name)
    with Receiver(tls=context) as receiver, Proxy(tls=tls_context(authority) if over_tls else None) as proxy:
        through = sender(proxy.through(), ca_bundle=bundle)
        outcomes = [post(through, f"https://ci.example.com:{receiver.port}/{SECRET}") for _ in range(2)]
        assert proxy.connections == receiver.connections == 1
    assert [(each.status_code, each.error) for each in outcomes] == [(200, "")] * 2
    assert [(each.method, each.path) for each in proxy.requests] == [("CONNECT", f"ci.example.com:{receiver.port}")]
    assert receiver.requests[0].headers["host"] == f"ci.example.com:{receiver.port}"
    assert names == ["ci.example.com"]
    assert "ci.example.com" not in looked_up


def test_http_over_an_https_proxy(authority: trustme.CA, bundle: str) -> None:
    """An http URL goes to an https proxy over TLS."""
    with Receiver() as receiver, Proxy(tls=tls_context(authority)) as proxy:
        through = sender(proxy.through(), ca_bundle=bundle)
        assert post(through, f"http://ci.example.com:{receiver.port}/").status_code == 200
    assert [each.method for each in proxy.requests] == ["POST"]


def test_ipv6_literal(authority: trustme.CA, bundle: str) -> None:
    """The proxy is asked for an IPv6 address in brackets."""
    with Receiver(tls=tls_context(authority, "2606:4700::1111")) as receiver, Proxy() as proxy:
        outcome = post(sender(proxy.through(), ca_bundle=bundle), f"https://[2606:4700::1111]:{receiver.port}/")
    assert outcome.status_code == 200
    assert proxy.requests[0].path == f"[2606:4700::1111]:{receiver.port}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_password(authority: trustme.CA, bundle: str, scheme: str) -> None:
    """User name and password go to the proxy only, neither to the receiver nor into the outcome."""
    tls = tls_context(authority, "ci.example.com") if scheme == "https" else None
    with Receiver(tls=tls) as receiver, Proxy(guarded=True) as proxy:
        through = sender(proxy.through("ann:pa%3Ass%40w%C3%B6rd%E2%82%AC@"), ca_bundle=bundle)
        outcome = post(through, f"{scheme}://ci.example.com:{receiver.port}/", **{"Proxy-Authorization": "theirs"})
    assert outcome.status_code == 200
    assert proxy.requests[0].headers["proxy-authorization"] == CREDENTIALS
    assert "proxy-authorization" not in receiver.requests[0].headers
    assert CREDENTIALS[6:] not in repr(outcome)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("user", ["", "ann:wrong@", "ann@"])
def test_407(scheme: str, user: str, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that refuses the password has its own cause, without the password and without the proxy's response."""
    caplog.set_level("DEBUG")
    with Receiver() as receiver, Proxy(guarded=True) as proxy:
        outcome = post(sender(proxy.through(user)), f"{scheme}://ci.example.com:{receiver.port}/{SECRET}")
        assert receiver.connections == 0
    words = "The proxy answered 407 Proxy Authentication Required"
    assert (outcome.status_code, outcome.blocked, outcome.response_headers) == (None, False, ())
    assert outcome.error == f"{words}. The operator must check the user name and password in HUBHOOKS_PROXY."
    assert outcome.concern is Concern.NOBODY
    assert "wrong" not in caplog.text + repr(outcome)


def test_407_of_a_receiver(authority: trustme.CA, bundle: str) -> None:
    """If the receiver itself answers 407, in the tunnel or without a proxy, that is the receiver's response."""
    with Receiver(407, tls=tls_context(authority, "ci.example.com")) as receiver, Proxy() as proxy:
        through = sender(proxy.through(), ca_bundle=bundle)
        assert post(through, f"https://ci.example.com:{receiver.port}/").status_code == 407
    with Receiver(407) as receiver:
        assert post(Transport(LOOPBACK), receiver.url).status_code == 407


@pytest.mark.parametrize("host", ["ci.internal", "a.corp.example.com", "127.0.0.1"])
def test_no_proxy_for_some(network: Network, host: str) -> None:
    """Names, names below a wildcard and addresses in a network are reached directly, all others through the proxy."""
    direct = ("ci.internal", "*.corp.example.com", ip_network("127.0.0.0/8"))
    network.names.update({each: [("127.0.0.1", 80)] for each in ("ci.internal", "a.corp.example.com")})
    with Receiver() as receiver, Proxy() as proxy:
        through = sender(proxy.through(), LOOPBACK, no_proxy=direct)
        assert post(through, f"http://{host}:{receiver.port}/").status_code == 200
        assert proxy.connections == 0
        for other in ("ci.example.com", "corp.example.com", "xci.internal", "93.184.216.34"):
            assert post(through, f"http://{other}:{receiver.port}/").status_code == 200
        assert len(proxy.requests) == 4
    assert not {"ci.example.com", "corp.example.com", "xci.internal"} & set(network.looked_up)


def test_what_goes_directly_is_judged(network: Network) -> None:
    """A name that is reached directly is judged by its addresses, as without a proxy."""
    network.names["ci.internal"] = [("127.0.0.1", 80)]
    with Receiver() as receiver, Proxy() as proxy:
        through = sender(proxy.through(), no_proxy=("ci.internal",))
        assert post(through, f"http://ci.internal:{receiver.port}/").blocked
        assert proxy.connections == receiver.connections == 0


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy_of_the_environment(network: Network, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Proxies of the environment are ignored: nothing is connected to but the configured proxy."""
    monkeypatch.setenv(name, "*")
    network.names["ci.example.com"] = [("127.0.0.1", 80)]
    with Receiver() as receiver, Proxy() as proxy:
        assert post(sender(proxy.through()), f"http://ci.example.com:{receiver.port}/").status_code == 200
        assert len(proxy.requests) == 1
    assert network.connected == [("127.0.0.1", proxy.port)]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_no_proxy(scheme: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proxy is down, the attempt fails and is retried, and the cause does not show the proxy's address."""
    if host != "127.0.0.1":
        monkeypatch.setattr(socket, "getaddrinfo", _no_name)
        monkeypatch.setattr(loop, "shared_resolver", Resolver())
    outcome = post(sender(f"http://ann:{SECRET}@{host}:{closed_port()}"), f"{scheme}://ci.example.com/")
    assert (outcome.status_code, outcome.blocked) == (None, False)
    assert outcome.error == f"No connection to the proxy. {ADVICE}"
    assert (outcome.concern, outcome.connected) == (Concern.NOBODY, False)


def _no_name(*_: Any, **__: Any) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_the_receiver_is_away() -> None:
    """If the proxy cannot connect to the receiver, the proxy's response is the cause."""
    with Proxy() as proxy:
        outcome = post(sender(proxy.through()), f"https://ci.example.com:{closed_port()}/")
    assert outcome.error == "The proxy answered 502 Bad Gateway. Check the host of the hook URL, and the proxy's log."


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (hang, f"No answer from the proxy within 0.5 s. {ADVICE}"),
        (trickles(b"HTTP/1.1 200 " + b"x" * 100), f"No answer from the proxy within 0.5 s. {ADVICE}"),
        (close, f"{CLOSED} {ADVICE}"),
        (reset, f"{CLOSED} {ADVICE}"),
        (
            sends(b"220 mail.example.com ESMTP\r\n"),
            f"{CLOSED} {ADVICE}",
        ),
    ],
)
def test_bad_proxies(answer: Answer, words: str) -> None:
    """A proxy that hangs, trickles, closes or does not speak HTTP has its cause, by the deadline."""
    with Receiver(answer) as proxy:
        outcome = post(sender(proxy.url.removesuffix("/hook")), f"https://ci.example.com/{SECRET}", 0.5)
    assert (outcome.status_code, outcome.error) == (None, words)
    assert (outcome.concern, outcome.connected) == (Concern.NOBODY, False)
    assert outcome.duration_ms < SOON_S * 1000


@pytest.mark.parametrize("answer", [hang, trickles(answer_of(200, b"x" * 100))])
def test_deadline_of_http(answer: Answer) -> None:
    """The deadline holds for a proxy that does not answer an http URL, or trickles."""
    with Receiver(answer) as proxy:
        outcome = post(sender(proxy.url.removesuffix("/hook")), "http://ci.example.com/", 0.5)
    assert outcome.error.startswith("No answer within 0.5 s. ")
    assert outcome.duration_ms < SOON_S * 1000


@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize("answer", [hang, trickles(b"x" * 100, at_once=b"HTTP/1.1 202 OK\r\n\r\n")])
def test_deadline_through_a_tunnel(authority: trustme.CA, bundle: str, answer: Answer, over_tls: bool) -> None:
    """The deadline holds for a receiver in a tunnel, also for TLS in TLS, before and within its response."""
    tls = tls_context(authority, "ci.example.com")
    with Receiver(200, answer, tls=tls) as receiver, Proxy(tls=tls_context(authority) if over_tls else None) as proxy:
        through = sender(proxy.through(), ca_bundle=bundle)
        url = f"https://ci.example.com:{receiver.port}/"
        assert post(through, url).status_code == 200
        outcome = post(through, url, 0.8)
    assert " within 0.8 s. " in outcome.error
    assert outcome.duration_ms < SOON_S * 1000


def test_certificate_of_the_receiver(authority: trustme.CA, bundle: str) -> None:
    """A receiver's certificate is verified against its own name, not the proxy's."""
    with Receiver(tls=tls_context(authority, "localhost")) as receiver, Proxy() as proxy:
        outcome = post(sender(proxy.through(), ca_bundle=bundle), f"https://ci.example.com:{receiver.port}/")
    assert outcome.error.startswith("TLS failed: the certificate is for localhost and not for ci.example.com. ")
    assert outcome.concern is Concern.HOST
    assert not receiver.requests
    assert proxy.connections == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_certificate_of_the_proxy(authority: trustme.CA, scheme: str) -> None:
    """Nothing is sent to an https proxy whose certificate is not trusted."""
    with Proxy(tls=tls_context(authority)) as proxy:
        outcome = post(sender(proxy.through(f"ann:{SECRET}@")), f"{scheme}://ci.example.com/")
    advice = "The operator must check HUBHOOKS_PROXY and HUBHOOKS_CA_BUNDLE."
    assert outcome.error == f"TLS failed: the proxy's certificate was refused. {advice}"
    assert outcome.concern is Concern.NOBODY
    assert not proxy.requests


HOSTS = ["10.0.0.1", "127.1", "0x7f.1", "2130706433", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "localhost"]


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_judged_before(host: str) -> None:
    """Addresses in any notation, names of this machine, schemes and ports are judged before the proxy is asked."""
    with Proxy() as proxy:
        for scheme in ("http", "https"):
            assert post(sender(proxy.through()), f"{scheme}://{host}/").blocked
        assert post(sender(proxy.through(), Egress(allow_http=False)), "http://ci.example.com/").blocked
        assert post(
            sender(proxy.through(), Egress(allowed_ports=frozenset({443}))), "https://ci.example.com:22/"
        ).blocked
        assert proxy.connections == 0


@pytest.mark.parametrize("spelling", ["0x08080808", "134744072", "010.8.8.8", "8.8.2056", "8.8.8.8."])
def test_the_proxy_reads_the_same_address(spelling: str) -> None:
    """A proxy is given an address in its usual notation, so that it cannot read another one."""
    with Receiver() as receiver, Proxy() as proxy:
        through = sender(proxy.through())
        assert post(through, f"http://{spelling}:{receiver.port}/").status_code == 200
        closed = closed_port()
        assert "502" in post(through, f"https://{spelling}:{closed}/").error
    assert [each.path for each in proxy.requests] == [f"http://8.8.8.8:{receiver.port}/", f"8.8.8.8:{closed}"]
    assert {each.headers["host"] for each in receiver.requests} == {f"8.8.8.8:{receiver.port}"}


def test_from_the_app(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app's deliveries go through HUBHOOKS_PROXY, and its password is in no history, log or repr of the config."""
    caplog.set_level("DEBUG")
    with Receiver() as receiver, Proxy(guarded=True) as proxy:
        settings = {
            "HUBHOOKS_PROXY": proxy.through("ann:pa%3Ass%40w%C3%B6rd%E2%82%AC@"),
            "HUBHOOKS_ALLOWED_NETWORKS": [],
        }
        host = Host(sqlite_uri, "redis://127.0.0.1:1/0", config=settings)
        webhook = host.create(f"http://ci.example.com:{receiver.port}/")
        with host.deliveries:
            host.push()
            host.deliveries.deliver_now()
        history = host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/").get_data(as_text=True)
        assert len(proxy.requests) == len(receiver.requests) == 1
        assert str(proxy.port) not in history
        shown = history + caplog.text + repr(host.state.config)
        host.close()
    assert '"success"' in history
    assert not [each for each in (PASSWORD, "pa%3Ass", CREDENTIALS[6:]) if each in shown]


# Client certificates


@pytest.fixture
def asking(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Return a function that makes TLS contexts which ask for a client certificate."""

    def make(name: str = "localhost", *, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = tls_context(authority, name)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = most
        return context

    return make


@pytest.fixture
def own(authority: trustme.CA, tmp_path: Path) -> tuple[str, str]:
    """The files of a client certificate and its key."""
    issued = authority.issue_cert("hubhooks@example.com")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "own.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    return str(tmp_path / "own.pem"), str(tmp_path / "own.key")


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate(asking: Any, own: tuple[str, str], bundle: str, most: ssl.TLSVersion) -> None:
    """A receiver that asks for a client certificate gets it; if there is none, the cause says so."""
    with Receiver(tls=asking(most=most)) as receiver:
        shown = Transport(LOOPBACK, ca_bundle=bundle, client_certificate=own)
        assert post(shown, receiver.url).status_code == 200
        error = post(Transport(LOOPBACK, ca_bundle=bundle), receiver.url).error
    if not error.startswith("The connection was closed before an answer. "):  # which overtakes what TLS 1.3 says of it
        assert error.startswith("TLS failed: ")
        assert error.endswith((" Set HUBHOOKS_CLIENT_CERTIFICATE.", "and whether it wants a client certificate."))


def test_proxies_see_no_client_certificate(asking: Any, own: tuple[str, str], bundle: str) -> None:
    """A receiver in a tunnel is shown the client certificate, but a proxy that asks for one is not."""
    with Receiver(tls=asking("ci.example.com")) as receiver, Proxy() as proxy:
        through = sender(proxy.through(), ca_bundle=bundle, client_certificate=own)
        assert post(through, f"https://ci.example.com:{receiver.port}/").status_code == 200
    with Proxy(tls=asking()) as proxy:
        through = sender(proxy.through(), ca_bundle=bundle, client_certificate=own)
        for scheme in ("http", "https"):
            assert post(through, f"{scheme}://ci.example.com/").status_code is None
        assert not proxy.requests


def test_client_certificate_that_cannot_be_read(own: tuple[str, str], tmp_path: Path) -> None:
    """A wrong path, or a key of another certificate, raises at once, not at the first POST."""
    other = trustme.CA().issue_cert("other@example.com").private_key_pem
    other.write_to_path(str(tmp_path / "other.key"))
    for pair in ((own[0], str(tmp_path / "none.key")), (own[0], str(tmp_path / "other.key"))):
        with pytest.raises(OSError):
            Transport(client_certificate=pair)


def test_renewed_client_certificate(
    asking: Any, own: tuple[str, str], authority: trustme.CA, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewed client certificate is used without a restart, on a new connection."""
    monkeypatch.setattr(certificate_files, "CHECK_S", 0.0)
    shown: list[int] = []

    def note(_: Request, connection: Connection) -> int:
        shown.append(int(connection.socket.getpeercert()["serialNumber"], 16))  # type: ignore[attr-defined]
        return 200

    with Receiver(note, tls=asking()) as receiver:
        through = Transport(LOOPBACK, ca_bundle=bundle, client_certificate=own)
        assert [post(through, receiver.url).status_code for _ in range(2)] == [200, 200]
        renewed = authority.issue_cert("hubhooks@example.com")
        renewed.cert_chain_pems[0].write_to_path(own[0])
        assert post(through, receiver.url).status_code == 200, "its key is not there yet"
        renewed.private_key_pem.write_to_path(own[1])
        assert post(through, receiver.url).status_code == 200
        assert receiver.connections == 2
    assert shown[0] == shown[1] == shown[2] != shown[3]


def test_renewed_authorities(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced authorities are trusted without a restart, and the old ones no longer."""
    monkeypatch.setattr(certificate_files, "CHECK_S", 0.0)
    bundle = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(bundle))
    sender = Transport(LOOPBACK, ca_bundle=str(bundle))
    with Receiver(tls=tls_context(authority)) as receiver:
        assert post(sender, receiver.url).error.startswith(
            "TLS failed: the certificate of localhost is from an unknown authority"
        )
        authority.cert_pem.write_to_path(str(bundle))
        assert post(sender, receiver.url).status_code == 200
        trustme.CA().cert_pem.write_to_path(str(bundle))
        assert post(sender, receiver.url).error.startswith(
            "TLS failed: the certificate of localhost is from an unknown authority"
        )


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_files_that_become_unreadable(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, content: bytes | None
) -> None:
    """A file that can no longer be read leaves its old content in use, and is logged once."""
    monkeypatch.setattr(certificate_files, "CHECK_S", 0.0)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    sender = Transport(LOOPBACK, ca_bundle=str(bundle))
    with Receiver(tls=tls_context(authority)) as receiver:
        if content is None:
            bundle.unlink()
        else:
            bundle.write_bytes(content)
        for _ in range(3):
            receiver.drop()
            assert post(sender, receiver.url).status_code == 200
    [record] = [each for each in caplog.records if each.name == certificate_files.__name__]
    assert record.getMessage().startswith("the new content of HUBHOOKS_CA_BUNDLE cannot be used (")
    assert record.getMessage().endswith("), so the old one stays in use")
