"""Name look-ups that hang, many at once: shared, bounded, and no hindrance for others."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flask_hubhooks.delivery import connections, lookups
from flask_hubhooks.delivery.lookups import LookUpFailed, LookUpLate, LookUps

from .receivers import Receiver, poll
from .test_transport import post, transport

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
SOON_S = 5.0


class Resolver:
    """Answers each host with `FOUND` or what `answers` has for it, those of `hanging` only once `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        self.running = self.most = 0
        self._lock = threading.Lock()

    def look_up(self, host: str, *_: Any, **options: Any) -> Any:
        if options.get("flags"):
            return [(*FOUND[0][:4], (host, _[0]))]
        with self._lock:
            self.asked.append(host)
            self.running += 1
            self.most = max(self.most, self.running)
        if host.startswith("hanging"):
            self.release.wait(30)
        with self._lock:
            self.running -= 1
        answer = self.answers.get(host, FOUND)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    yield made
    made.release.set()
    poll(lambda: not threads())


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "hubhooks-look-up"]


def test_found(resolver: Resolver) -> None:
    """A look-up finds what the resolver says, each time anew: nothing is remembered."""
    look_ups = LookUps()
    assert look_ups.find("ci.example.com", 80, SOON_S) == FOUND
    resolver.answers["ci.example.com"] = []
    assert look_ups.find("ci.example.com", 80, SOON_S) == []
    assert resolver.asked == ["ci.example.com"] * 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (UnicodeError("label too long"), "not a valid name"),
    ],
)
def test_not_found(resolver: Resolver, fault: Exception, words: str) -> None:
    """A look-up that fails says why."""
    resolver.answers["ci.example.com"] = fault
    with pytest.raises(LookUpFailed, match=words):
        LookUps().find("ci.example.com", 80, SOON_S)


def test_one_for_all_who_wait(resolver: Resolver) -> None:
    """Who wants the same name at the same time shares one look-up, each with the port it wants."""
    look_ups = LookUps()
    with ThreadPoolExecutor(20) as pool:
        wanted = [pool.submit(look_ups.find, "hanging", port, SOON_S) for port in range(80, 100)]
        poll(lambda: look_ups._by_host and look_ups._by_host["hanging"].waiting == 20)
        resolver.release.set()
        assert [each.result()[0][4] for each in wanted] == [("127.0.0.1", port) for port in range(80, 100)]
    assert resolver.asked == ["hanging"]


def test_bound(resolver: Resolver) -> None:
    """No more look-ups run at once than the bound; who finds no room waits for it until its time is over."""
    look_ups = LookUps(most=4)
    with ThreadPoolExecutor(40) as pool:
        hanging = [pool.submit(look_ups.find, f"hanging{number}", 80, SOON_S) for number in range(4)]
        poll(lambda: resolver.running == 4)
        late = [pool.submit(look_ups.find, f"late{number}", 80, 0.2) for number in range(30)]
        assert all(isinstance(each.exception(), LookUpLate) for each in late)
        assert str(late[0].exception()) == "too many other look-ups without an answer"
        waiting = pool.submit(look_ups.find, "ci.example.com", 80, SOON_S)
        poll(lambda: "ci.example.com" in look_ups._by_host)
        resolver.release.set()
        assert waiting.result() == FOUND
        assert all(each.result() == FOUND for each in hanging)
    assert resolver.most == 4
    assert not [host for host in resolver.asked if host.startswith("late")], "whom nobody waits for is not asked for"


def test_threads_do_not_pile_up(resolver: Resolver) -> None:
    """A name that hangs through any number of attempts holds one thread, and other names find theirs at once."""
    look_ups = LookUps(most=2)
    for _ in range(10):
        with pytest.raises(LookUpLate, match="no answer"):
            look_ups.find("hanging", 80, 0.01)
    assert len(threads()) == 1
    assert look_ups.find("ci.example.com", 80, SOON_S) == FOUND
    resolver.release.set()
    poll(lambda: not threads())
    assert look_ups.find("hanging", 80, SOON_S) == FOUND


def test_no_thread(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without room for another thread makes the look-up late, and the next one that starts goes on."""
    look_ups = LookUps()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patches:
        patches.setattr(threading.Thread, "start", start)
        with pytest.raises(LookUpLate):
            look_ups.find("ci.example.com", 80, 0.01)
    assert look_ups.find("ci.example.com", 80, SOON_S) == FOUND


FORK = """
import os, socket, threading, warnings
from flask_hubhooks.delivery.lookups import LookUpLate, look_ups

warnings.simplefilter("ignore")  # of a fork beside threads
look_ups._most = 1
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
try:
    look_ups.find("hanging", 80, 0.01)
except LookUpLate:
    pass
child = os.fork()
if not child:
    socket.getaddrinfo = lambda *_, **__: []
    os._exit(look_ups.find("ci.example.com", 80, 5.0) != [])
os._exit(os.waitpid(child, 0)[1] != 0)
"""


def test_after_a_fork() -> None:
    """A child process has room for all its look-ups, though those of its parent hang."""
    assert subprocess.run([sys.executable, "-c", FORK], timeout=30).returncode == 0


def test_posts_while_the_resolver_hangs(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every look-up hanging, POSTs to addresses go out at once, and those to names end with their deadline."""
    monkeypatch.setattr(connections, "look_ups", LookUps(most=2))
    sender = transport(deadline_s=0.5)
    with Receiver() as receiver, ThreadPoolExecutor(16) as pool:
        urls = [f"http://hanging{number % 4}.example.com/" for number in range(12)]
        late = [pool.submit(post, sender, url) for url in urls]
        poll(lambda: resolver.running == 2)
        assert post(sender, receiver.url).status_code == 200
        assert not any(each.done() for each in late)
        errors = {each.result().error.partition(": ")[0] for each in late}
    assert all(error.endswith(" within 0.5 s)") for error in errors)
    assert {error.partition("(")[2] for error in errors} == {
        "no answer within 0.5 s)",
        "too many other look-ups without an answer within 0.5 s)",
    }
    assert resolver.most == 2


def test_process_bound() -> None:
    """A process has 64 look-ups under way at most, whatever number of transports it has."""
    assert lookups.MOST == 64
    assert connections.look_ups is lookups.look_ups
