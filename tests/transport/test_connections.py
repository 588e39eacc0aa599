"""Deadlines, names, addresses and TLS of the transport's connections, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trustme

from flask_hubhooks.transport import MAX_STORED_BODY, Concern, Transport, exchange, loop, resolver
from flask_hubhooks.transport.resolver import Resolution, Resolver

from ..support.receivers import Answer, Receiver, hang, http, poll, tls_context, trickles
from ..support.transports import SECRET, SOON_S, Network, post, send, transport
from .test_transport import post_once

AT_ONCE = "Answer with 2xx at once and do the work afterwards, or give the hook a longer time-out."
UP = "Check that the receiver is running, and that no firewall drops the packets."
DNS = "Check the host of the hook URL, and the worker's DNS."


# Deadlines


@pytest.mark.parametrize(
    "answer", [hang, trickles(http(200)), trickles(b"x" * 100, at_once=b"HTTP/1.1 200 OK\r\nX-Long: ")]
)
def test_deadline_before_the_headers_end(answer: Answer) -> None:
    """If the headers are not complete by the deadline, there is no response, however they trickle."""
    started = monotonic()
    outcome = post_once(answer, deadline_s=0.5)
    assert (outcome.status_code, outcome.error) == (None, f"No answer within 0.5 s. {AT_ONCE}")
    assert monotonic() - started < SOON_S


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n64\r\n"])
def test_deadline_within_the_body(head: bytes) -> None:
    """A body that trickles past the deadline leaves the status, and the part of the body that has arrived."""
    started = monotonic()
    outcome = post_once(trickles(b"x" * 100, at_once=b"HTTP/1.1 202 OK\r\n" + head), deadline_s=0.5)
    advice = "End it at once and do the work afterwards, or give the hook a longer time-out."
    late = f"The response body did not end within 0.5 s. {advice}"
    assert (outcome.status_code, outcome.error) == (202, late)
    assert outcome.response_body.startswith(b"x")
    assert not outcome.truncated
    assert monotonic() - started < SOON_S


def test_deadline_while_sending() -> None:
    """A receiver that does not read a large body cannot hold up the POST past the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        outcome = send(transport(), url, b"x" * 20_000_000, {}, deadline_s=0.5)
    assert outcome.error == f"No answer within 0.5 s. {AT_ONCE}"
    assert outcome.duration_ms < SOON_S * 1000


def test_each_post_has_its_own_deadline() -> None:
    """A kept connection still serves POSTs after the deadline of the POST that opened it."""
    sender = transport()
    with Receiver() as receiver:
        opened = monotonic()
        post(sender, receiver.url, 0.5)
        poll(lambda: monotonic() - opened > 0.6)
        assert post(sender, receiver.url, 0.5).status_code == 200
        assert receiver.connections == 1


@contextmanager
def hanging(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Make connecting to a port hang, by filling its queue."""
    with socket.create_server((host, port), backlog=0) as listener:
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for client in clients:
            client.close()


@pytest.fixture
def silent() -> Iterator[int]:
    with hanging() as port:
        yield port


def test_connect_timeout(silent: int) -> None:
    """Connecting ends with its own time-out, before the deadline."""
    outcome = post(transport(connect_timeout_s=0.3), f"http://127.0.0.1:{silent}/", 30)
    assert (outcome.status_code, outcome.error) == (None, f"No connection within 0.3 s. {UP}")
    assert (outcome.concern, outcome.connected) == (Concern.HOST, False)
    assert outcome.duration_ms < SOON_S * 1000


def test_connection_refused(guarded: Transport) -> None:
    """The cause names a closed port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = f"Connection refused by 127.0.0.1:{port}. Check that the receiver is running and listens on that port."
    outcome = post(guarded, f"http://127.0.0.1:{port}/")
    assert outcome.error == said
    assert (outcome.concern, outcome.connected) == (Concern.HOST, False)


# Names and addresses


NUMBERS = ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "0", "10.0.0.1", "169.254.169.254"]
BRACKETED = ["[::1]", "[::]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[fe80::1]", "[fd00:ec2::254]"]


@pytest.mark.parametrize("host", ["localhost", *NUMBERS, *BRACKETED])
def test_forbidden_addresses(network: Network, host: str) -> None:
    """An address that is not public is blocked, however it is written, and nothing is connected to."""
    with Receiver() as receiver:
        outcome = post(Transport(), f"http://{host}:{receiver.port}/hook")
        assert receiver.connections == 0
    assert outcome.blocked
    assert outcome.error.startswith("Hook host localhost " if host == "localhost" else "Hook address ")
    assert (outcome.status_code, outcome.connect_ms) == (None, None)
    assert not network.connected


@pytest.mark.parametrize("host", ["[fe80::1%25lo]", "[127.0.0.1]", "\uff11\uff12\uff17.0.0.1", "127.0.0.1%00"])
def test_addresses_that_are_none(network: Network, host: str) -> None:
    """A host that only looks like an address is not connected to, however it is read."""
    outcome = post(transport(), f"http://{host}:80/")
    assert outcome.status_code is None
    assert outcome.error
    assert not network.connected


def test_forbidden_ports_look_alike(network: Network) -> None:
    """The outcome for a forbidden address is the same for an open and a closed port."""
    with Receiver() as receiver:
        opened = post(Transport(), receiver.url)
    closed = post(Transport(), receiver.url)
    assert opened.error == closed.error
    assert (opened.blocked, closed.blocked) == (True, True)
    assert not network.connected


@pytest.mark.parametrize("forbidden", [("10.0.0.1", 80), ("fe80::1", 80, 0, 0), ("2606:4700::1", 80, 0, 2)])
def test_one_forbidden_answer_blocks(network: Network, forbidden: Any) -> None:
    """A name is blocked if any of its addresses is forbidden, even the last one."""
    network.names["ci.example.com"] = [("93.184.216.34", 80), forbidden]
    assert post(Transport(), "http://ci.example.com/").blocked
    assert not network.connected


def test_names_that_flip(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that alternates between public and private is never connected to at a private address."""
    monkeypatch.setattr(resolver, "REMEMBERED_S", 0.0)
    with Receiver() as receiver:
        url = f"http://ci.example.com:{receiver.port}/"
        sender = transport()
        for turn in range(20):
            network.names["ci.example.com"] = [(("127.0.0.1", "10.0.0.1")[turn % 2], 80)]
            outcome = post(sender, url)
            assert (outcome.status_code, outcome.blocked) == ((None, True) if turn % 2 else (200, False))
        assert receiver.connections == 1
    assert network.looked_up == ["ci.example.com"] * 20
    assert network.connected == [("127.0.0.1", receiver.port)]
    assert {request.headers["host"] for request in receiver.requests} == {f"ci.example.com:{receiver.port}"}


def test_names_are_remembered_for_a_while(network: Network) -> None:
    """A name is not resolved for each POST: the judged address is used, even if the name has another one by then."""
    with Receiver() as receiver:
        network.names["ci.example.com"] = [("127.0.0.1", 80)]
        sender = transport()
        url = f"http://ci.example.com:{receiver.port}/"
        assert post(sender, url).status_code == 200
        network.names["ci.example.com"] = [("10.0.0.1", 80)]
        receiver.drop()
        poll(lambda: not receiver.open)
        assert post(sender, url).status_code == 200
    assert network.looked_up == ["ci.example.com"]
    assert network.connected == [("127.0.0.1", receiver.port)] * 2


def test_another_reading_of_the_answer(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """If libcurl tried another address than the judged one, it would get no socket."""
    network.names["ci.example.com"] = [("93.184.216.34", 80)]
    real = exchange.Exchange.prepare

    def prepare(self: exchange.Exchange, handle: Any, answer: Any) -> None:
        real(self, handle, Resolution(("10.0.0.1",)))

    monkeypatch.setattr(exchange.Exchange, "prepare", prepare)
    outcome = post(transport(), "http://ci.example.com/")
    assert (outcome.blocked, outcome.concern) == (True, Concern.NOBODY)
    assert not network.connected


def test_the_next_address_is_tried(network: Network) -> None:
    """If addresses of a name are silent or unreachable, the next one is tried in time."""
    with Receiver() as receiver, hanging("127.0.0.2", receiver.port):
        network.names["ci.example.com"] = [("2606:4700::1", 80, 0, 0), ("127.0.0.2", 80), ("127.0.0.1", 80)]
        outcome = post(transport(connect_timeout_s=2.0), f"http://ci.example.com:{receiver.port}/")
    assert (outcome.status_code, outcome.connected) == (200, True)


def test_all_addresses_fail(network: Network, silent: int) -> None:
    """If no address answers, the cause says so once, with one piece of advice."""
    network.names["ci.example.com"] = [("2606:4700::1", 80, 0, 0), ("127.0.0.1", 80)]
    outcome = post(transport(connect_timeout_s=0.4), f"http://ci.example.com:{silent}/")
    assert outcome.error == f"No connection within 0.4 s. {UP}"


def test_no_route(network: Network) -> None:
    """If the worker's own network is at fault, the advice says so."""
    network.names["ci.example.com"] = [("2606:4700::1", 80, 0, 0)]
    assert post(transport(), "http://ci.example.com/").error.endswith("unreachable). Check the worker and its network.")


def test_name_not_found(guarded: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause of a failed lookup names the host and the resolver's reason."""

    def look_up(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(loop, "shared_resolver", Resolver())
    outcome = post(guarded, f"http://ci.example.com/{SECRET}")
    assert outcome.error == f"The host name ci.example.com could not be resolved (name or service not known). {DNS}"
    assert (outcome.blocked, outcome.concern, outcome.connected) == (False, Concern.HOST, False)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example.com"])
def test_names_that_are_none(guarded: Transport, host: str) -> None:
    """A name that no resolver accepts results in a failed outcome."""
    error = post(guarded, f"http://{host}/").error
    assert error.endswith((f"(not a valid name). {DNS}", "URL or a header is not valid."))


def test_stuck_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup that hangs ends at the deadline, and its thread does not keep the process running."""
    release, threads = threading.Event(), []

    def look_up(*_: Any, **__: Any) -> list[Any]:
        threads.append(threading.current_thread())
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(loop, "shared_resolver", Resolver())
    outcome = post(transport(), "http://ci.example.com/", 0.3)
    release.set()
    assert outcome.concern is Concern.HOST
    assert outcome.error == f"The host name ci.example.com could not be resolved (no answer within 0.3 s). {DNS}"
    assert outcome.duration_ms < SOON_S * 1000
    assert [thread.daemon for thread in threads] == [True]
    threads[0].join(10)


# TLS


def test_tls(authority: trustme.CA, bundle: str) -> None:
    """POSTs to a receiver with a valid certificate use one kept connection, which is told the URL's host name."""
    names: list[str | None] = []
    context = tls_context(authority)
    context.sni_callback = lambda _, name, __: names.append(name)
    sender = transport(ca_bundle=bundle)
    with Receiver(200, http(200, b"x" * MAX_STORED_BODY * 2), 200, tls=context) as receiver:
        outcomes = [post(sender, receiver.url) for _ in range(3)]
        assert receiver.connections == 2
    assert [outcome.status_code for outcome in outcomes] == [200, 200, 200]
    assert [outcome.truncated for outcome in outcomes] == [False, True, False]
    assert receiver.requests[0].headers["host"] == f"localhost:{receiver.port}"
    assert names == ["localhost"] * 2


def test_certifi_is_the_default(authority: trustme.CA) -> None:
    """Without HUBHOOKS_CA_BUNDLE a private authority is not trusted."""
    with Receiver(tls=tls_context(authority)) as receiver:
        assert post(transport(), receiver.url).error.startswith(
            "TLS failed: the certificate of localhost is from an unknown authority ("
        )
    assert not receiver.requests


def test_tls_to_a_plain_port(guarded: Transport) -> None:
    """An https URL to a port that does not speak TLS results in a hint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n"), daemon=True).start()
        outcome = post(guarded, f"https://127.0.0.1:{listener.getsockname()[1]}/")
    assert outcome.error.startswith("TLS failed: ")
    assert outcome.error.endswith(". Check that the port speaks TLS, or begin the hook URL with http:// instead.")


def test_tls_handshake_closed(guarded: Transport) -> None:
    """A connection that is closed during the handshake has its own cause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_greet, args=(listener, b""), daemon=True).start()
        outcome = post(guarded, f"https://127.0.0.1:{listener.getsockname()[1]}/")
    advice = "Check that the port speaks TLS, and that the receiver serves this host name."
    assert outcome.error == f"TLS failed: connection closed during the handshake. {advice}"


def _greet(listener: socket.socket, greeting: bytes) -> None:
    """Answer one TLS hello with a greeting, and close."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(10_000)
        connection.sendall(greeting)


def test_tls_handshake_hangs() -> None:
    """A handshake that hangs ends at the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        outcome = post(transport(), f"https://127.0.0.1:{mute.getsockname()[1]}/", 0.4)
    advice = "Check that the port speaks TLS, and that the receiver is not overloaded."
    assert outcome.error == f"TLS failed: no handshake within 0.4 s. {advice}"
    assert outcome.duration_ms < SOON_S * 1000


@pytest.mark.parametrize("answer", [hang, trickles(b"x" * 100, at_once=b"HTTP/1.1 202 OK\r\n\r\n")])
def test_deadline_over_tls(authority: trustme.CA, bundle: str, answer: Answer) -> None:
    """The deadline also holds over TLS, before the headers and within the body."""
    sender = transport(ca_bundle=bundle)
    with Receiver(200, answer, tls=tls_context(authority)) as receiver:
        assert post(sender, receiver.url).status_code == 200
        outcome = post(sender, receiver.url, 0.6)
    assert " within 0.6 s. " in outcome.error
    assert outcome.status_code == (None if answer is hang else 202)
    assert outcome.duration_ms < SOON_S * 1000


def test_bundle_that_cannot_be_read(tmp_path: Path) -> None:
    """A wrong path of the bundle raises at once, not at the first POST."""
    with pytest.raises(OSError, match="No such file"):
        Transport(ca_bundle=str(tmp_path / "none.pem"))
