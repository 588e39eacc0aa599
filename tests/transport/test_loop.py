"""The transport's thread: when it starts, what ends it, and that nothing is left behind."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from collections import Counter
from ipaddress import ip_network
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

import pycurl
import pytest
import trustme

from flask_hubhooks.transport import Concern, Outcome, Request, Transport, exchange, loop
from flask_hubhooks.transport.egress import AddressPolicy, Egress
from flask_hubhooks.transport.loop import Loop

from ..support.receivers import Receiver, close, hang, poll, tls_context
from ..support.threads import threads_named
from ..support.transports import send

LOOPBACK = Egress(AddressPolicy((ip_network("127.0.0.0/8"),)))
STOPPED = "The worker stopped before there was an answer."


def test_the_thread_begins_with_the_first_request() -> None:
    """A transport has no thread until the first request, and none after it was closed."""
    before = set(threads_named("hubhooks-transport"))  # those of other tests may be about to end

    def begun() -> set[threading.Thread]:
        return set(threads_named("hubhooks-transport")) - before

    sender = Transport(LOOPBACK)
    assert not begun()
    with Receiver() as receiver:
        assert send(sender, receiver.url, b"", {}).status_code == 200
        assert [each.daemon for each in begun()] == [True]
        sender.close()
        sender.close()
        assert not begun()


def test_a_transport_that_is_dropped_ends_its_thread() -> None:
    """A transport that is no longer referenced leaves neither a thread nor a connection behind."""
    before = len(threads_named("hubhooks-transport"))
    sender = Transport(LOOPBACK)
    with Receiver() as receiver:
        send(sender, receiver.url, b"", {})
        del sender
        poll(lambda: not receiver.open and len(threads_named("hubhooks-transport")) == before)


def test_close_answers_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that hang, are being resolved or are queued are answered on close, as nobody's fault."""
    release = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: release.wait(30) and [])
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    sender = Transport(LOOPBACK)
    with Receiver(hang) as receiver:
        for _ in range(50):
            sender.send(Request(receiver.url, b"", {}, deadline_s=60), outcomes.put)
            sender.send(Request("http://hanging.example.com/", b"", {}, deadline_s=60), outcomes.put)
        receiver.wait_for(50)
        began = monotonic()
        sender.close()
        assert monotonic() - began < 3
        release.set()
    found = [outcomes.get(timeout=1) for _ in range(100)]
    assert {(each.status_code, each.error, each.concern) for each in found} == {(None, STOPPED, Concern.NOBODY)}
    assert {each.connected for each in found} == {True, False}
    assert outcomes.empty()


def test_close_over_tls(tmp_path: Path) -> None:
    """Receivers that never answer TLS's close do not delay closing."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    sender = Transport(LOOPBACK, ca_bundle=str(tmp_path / "ca.pem"))
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    with Receiver(hang, tls=tls_context(authority)) as receiver:
        for _ in range(20):
            sender.send(Request(receiver.url, b"", {}), outcomes.put)
        receiver.wait_for(20)
        began = monotonic()
        sender.close()
        assert monotonic() - began < 3
    assert outcomes.qsize() == 20


def test_close_from_within() -> None:
    """`done` may close the transport, and send again."""
    sender = Transport(LOOPBACK)
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    with Receiver() as receiver:

        def close_and_send(_: Outcome) -> None:
            sender.close()
            sender.send(Request(receiver.url, b"", {}), outcomes.put)

        sender.send(Request(receiver.url, b"", {}), close_and_send)
        assert outcomes.get(timeout=10).status_code == 200
    sender.close()


def test_no_request_is_lost_while_closing() -> None:
    """Each request is answered exactly once, though the transport is closed all the time."""
    sender = Transport(LOOPBACK)
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    sent = threading.Event()

    def closing() -> None:
        while not sent.is_set():
            sender.close()

    closer = threading.Thread(target=closing)
    with Receiver() as receiver:
        closer.start()
        for _ in range(300):
            sender.send(Request(receiver.url, b"", {}), outcomes.put)
        sent.set()
        closer.join()
        found = [outcomes.get(timeout=10) for _ in range(300)]
    sender.close()
    assert outcomes.empty()
    assert {(each.status_code, each.error) for each in found} <= {(200, ""), (None, STOPPED)}


def test_sending_from_within() -> None:
    """`done` may send the next request."""
    sender = Transport(LOOPBACK)
    told: SimpleQueue[Outcome] = SimpleQueue()
    with Receiver() as receiver:
        left = [100]

        def again(outcome: Outcome) -> None:
            left[0] -= 1
            if left[0]:
                sender.send(Request(receiver.url, b"", {}), again)
            else:
                told.put(outcome)

        sender.send(Request(receiver.url, b"", {}), again)
        assert told.get(timeout=20).status_code == 200
        assert len(receiver.requests) == 100
        assert receiver.connections == 1
    sender.close()


def test_who_is_told_raises(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in `done` is logged, and ends nothing else."""
    sender = Transport(LOOPBACK)

    def fail(_: Outcome) -> None:
        raise KeyError("fault of the caller")

    with Receiver() as receiver:
        sender.send(Request(receiver.url, b"", {}), fail)
        assert send(sender, receiver.url, b"", {}).status_code == 200
    sender.close()
    assert "fault of the caller" in caplog.text


def test_nothing_stays_behind(tmp_path: Path) -> None:
    """Exchanges leave nothing to the garbage collector, whatever their outcome, nor does the transport."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    plain = Receiver(200, 500, close, hang)
    encrypted = Receiver(tls=tls_context(authority, "elsewhere.example.com"))
    gc.collect()
    gc.disable()
    try:
        before = ours()
        with plain as one, encrypted as other:
            sender = Transport(LOOPBACK, ca_bundle=str(tmp_path / "ca.pem"))
            for url in [*[one.url] * 4, other.url, "http://127.0.0.1:1/", "http://10.0.0.1/", "nonsense"]:
                send(sender, url, b"", {}, deadline_s=0.3)
            assert ours() > before
            sender.close()
            del sender
        assert ours() <= before  # those of an earlier test may have ended meanwhile
    finally:
        gc.enable()


def ours() -> Counter[str]:
    """Count the objects of libcurl and of the transport."""
    return Counter(
        type(each).__name__
        for each in gc.get_objects()
        if isinstance(each, (pycurl.Curl, pycurl.CurlMulti, Transport, Loop, exchange.Exchange))
    )


# Forks

PARENT = """
import os, sys, threading, time
from ipaddress import ip_network
from flask_hubhooks.transport import Transport
from flask_hubhooks.transport.egress import AddressPolicy
from flask_hubhooks.transport.egress import Egress
from tests.support.transports import send

url, bundle, before = sys.argv[1:]
sender = Transport(Egress(AddressPolicy((ip_network("127.0.0.0/8"),))), ca_bundle=bundle)
def sends():
    return send(sender, url, b"{}", {}).status_code == 200
if before == "used":
    assert sends()
child = os.fork()
if not child:
    good = sends() and sends()
    sender.close()
    del sender
    sys.exit(0 if good else 9)  # with all that an interpreter clears away when it ends
assert os.waitpid(child, 0)[1] == 0
assert sends() and sends()
sender.close()
"""


@pytest.mark.parametrize(("before", "connections"), [("unused", 2), ("used", 2)])
def test_fork(tmp_path: Path, before: str, connections: int) -> None:
    """A child of a fork starts afresh, and the parent's connections survive the child's end, also over TLS."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Receiver(tls=tls_context(authority)) as receiver:
        run = [sys.executable, "-W", "ignore", "-c", PARENT, receiver.url, str(tmp_path / "ca.pem"), before]
        ended = subprocess.run(run, timeout=60, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert len(receiver.requests) == 4 + (before == "used")
        assert receiver.connections == connections


# Connections


@pytest.mark.parametrize("option", [pycurl.MAXLIFETIME_CONN, pycurl.MAXAGE_CONN])
def test_connections_have_a_maximum_age(option: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is too old, or was idle for too long, is not used again."""
    make = exchange.make_handle

    def shortened(made_for: exchange.Exchange) -> Any:
        handle = make(made_for)
        assert exchange.MAX_CONNECTION_AGE_S <= 60
        handle.setopt(option, 1)
        return handle

    monkeypatch.setattr("flask_hubhooks.transport.loop.make_handle", shortened)
    sender = Transport(LOOPBACK)
    with Receiver() as receiver:
        if option == pycurl.MAXLIFETIME_CONN:
            poll(lambda: send(sender, receiver.url, b"", {}).status_code == 200 and receiver.connections == 3)
            assert len(receiver.requests) > 3
        else:
            send(sender, receiver.url, b"", {})
            until = monotonic() + 2.2
            poll(lambda: monotonic() > until)
            send(sender, receiver.url, b"", {})
            assert receiver.connections == 2
    sender.close()


def test_an_old_libcurl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libcurl that is too old raises when a transport is made, with advice."""
    monkeypatch.setattr(pycurl, "version_info", lambda: (9, "7.88.1", 0x75801))
    with pytest.raises(
        RuntimeError, match=r"uses libcurl 7\.88\.1, but hubhooks needs \d+\.\d+\.\d+ or newer\. Install"
    ):
        Transport()


@pytest.mark.parametrize("step", ["make_handle", "is_address"])
def test_faults_of_ours(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str) -> None:
    """Whatever goes wrong when a request begins, it is answered, and the loop goes on."""

    def fail(*_: object) -> None:
        raise MemoryError

    sender = Transport(LOOPBACK)
    with Receiver() as receiver:
        with monkeypatch.context() as patches:
            patches.setattr(loop, step, fail)
            outcome = send(sender, receiver.url, b"", {})
        assert (outcome.error, outcome.concern) == (
            "Internal error (MemoryError). See the worker's log.",
            Concern.NOBODY,
        )
        assert send(sender, receiver.url, b"", {}).status_code == 200
    sender.close()
    assert "a request failed because of an internal error" in caplog.text


def test_lack_of_files(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without files for another connection the attempt fails as nobody's fault, and the transport goes on."""
    caplog.set_level(logging.ERROR)
    sender = Transport(LOOPBACK)
    with Receiver() as receiver:
        with monkeypatch.context() as patches:

            def lacking(_: object) -> None:
                raise OSError(24, "Too many open files")

            patches.setattr(exchange, "open_socket", lacking)
            outcome = send(sender, receiver.url, b"", {})
        assert (outcome.status_code, outcome.concern, outcome.connected) == (None, Concern.NOBODY, False)
        assert outcome.error == "Too many open files. Check the worker and its machine."
        assert send(sender, receiver.url, b"", {}).status_code == 200
    sender.close()
    assert not caplog.text
