"""The resolver: lookups that hang, many at once, are shared and bounded, and do not hold up others."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest

from flask_hubhooks.transport import Concern, loop, resolver
from flask_hubhooks.transport.resolver import Lookup, Resolution, Resolver

from ..support.receivers import Receiver, poll
from ..support.threads import threads_named
from ..support.transports import post, transport

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
ADDRESS = Resolution(("127.0.0.1",))


class NameServer:
    """Answers with `FOUND` or with `answers`, and for hosts that begin with `hanging` only after `release`."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        self.running = self.most = 0
        self._lock = threading.Lock()

    def look_up(self, host: str, *_: Any, **__: Any) -> Any:
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
def dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    yield made
    made.release.set()
    poll(lambda: not threads_named("hubhooks-lookup"))


class Wanted:
    """A caller that waits for a lookup."""

    def __init__(self, tested: Resolver, host: str, repository: str = "") -> None:
        self.answers: SimpleQueue[Resolution] = SimpleQueue()
        found = tested.resolve(host, repository, self.answers.put)
        self.lookup = found if isinstance(found, Lookup) else None
        if isinstance(found, Resolution):
            self.answers.put(found)

    @property
    def started(self) -> bool:
        return self.lookup is not None and self.lookup.started_at is not None

    def answer(self) -> Resolution:
        return self.answers.get(timeout=10)


def test_found(dns: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup returns the name server's answer, which is remembered for a while, including failures."""
    tested = Resolver()
    assert Wanted(tested, "ci.example.com").answer() == ADDRESS
    dns.answers["ci.example.com"] = []
    assert Wanted(tested, "ci.example.com").answer() == ADDRESS
    monkeypatch.setattr(resolver, "REMEMBERED_S", 0.0)
    forgetful = Resolver()
    assert Wanted(forgetful, "ci.example.com").answer() == Resolution((), "it has no addresses")
    dns.answers["ci.example.com"] = FOUND
    assert Wanted(forgetful, "ci.example.com").answer() == ADDRESS
    assert dns.asked == ["ci.example.com"] * 3


def test_what_is_remembered_is_bounded(dns: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest names are remembered."""
    monkeypatch.setattr(resolver, "MAX_REMEMBERED", 2)
    tested = Resolver()
    for host in ("a", "b", "c", "b", "c", "a"):
        assert Wanted(tested, host).answer() == ADDRESS
    assert dns.asked == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (OSError(24, "Too many open files"), "too many open files"),
        (UnicodeError("label too long"), "not a valid name"),
    ],
)
def test_not_found(dns: NameServer, fault: Exception, words: str) -> None:
    """A failed lookup has a reason."""
    dns.answers["ci.example.com"] = fault
    assert Wanted(Resolver(), "ci.example.com").answer() == Resolution((), words)


def test_one_for_all_who_wait(dns: NameServer) -> None:
    """Callers that need the same name at the same time share one lookup."""
    tested = Resolver()
    wanted = [Wanted(tested, "hanging", f"acme/app{number}") for number in range(20)]
    poll(lambda: dns.running)
    dns.release.set()
    assert [each.answer() for each in wanted] == [ADDRESS] * 20
    assert dns.asked == ["hanging"]


def test_quarter_rule(dns: NameServer) -> None:
    """No repository has more than a quarter of the threads, and other repositories get one at once."""
    tested = Resolver()
    quarter = resolver.MAX_THREADS // 4
    hanging = [Wanted(tested, f"hanging{number}", "acme/bad") for number in range(2 * quarter)]
    assert [each.started for each in hanging].count(True) == quarter
    assert Wanted(tested, "ci.example.com", "acme/good").answer() == ADDRESS
    dns.release.set()
    assert [each.answer() for each in hanging] == [ADDRESS] * 2 * quarter
    assert dns.most <= quarter + 1


def test_a_name_that_another_repository_waits_for(dns: NameServer) -> None:
    """A queued name of one repository is looked up at once if another repository needs it."""
    tested = Resolver()
    for number in range(resolver.MAX_THREADS):
        Wanted(tested, f"hanging{number}", "acme/bad")
    behind = Wanted(tested, "ci.example.com", "acme/bad")
    assert not behind.started
    good = Wanted(tested, "ci.example.com", "acme/good")
    assert good.answer() == behind.answer() == ADDRESS
    assert dns.asked.count("ci.example.com") == 1


@pytest.mark.parametrize("repositories", [4, 40, resolver.MAX_THREADS - 1])
def test_many_repositories_whose_names_hang(dns: NameServer, repositories: int) -> None:
    """However many repositories have names that hang, one without any lookup gets a thread at once."""
    tested = Resolver()
    for number in range(600):
        Wanted(tested, f"hanging{number}", f"bad/{number % repositories}")
    good = Wanted(tested, "ci.example.com", "acme/good")
    assert good.started
    assert good.answer() == ADDRESS
    assert Wanted(tested, "cd.example.com", "acme/good").answer() == ADDRESS


@pytest.mark.parametrize("repositories", [4, 17, 40])
def test_first_threads(dns: NameServer, repositories: int) -> None:
    """However many repositories have names that hang, dozens that come later get a thread each, at once."""
    tested = Resolver()
    for number in range(1000):
        Wanted(tested, f"hanging{number}", f"bad/{number % repositories}")
    names = [f"hanging-other{number}" for number in range(resolver.MAX_THREADS // 4)]
    others = [Wanted(tested, name, f"acme/{name}") for name in names]
    assert all(each.started for each in others)


def test_turns(dns: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued lookups take turns by repository, so that many of one do not hold up the others."""
    monkeypatch.setattr(resolver, "MAX_THREADS", 1)
    tested = Resolver()
    wanted = [Wanted(tested, "hanging", "acme/bad")]
    wanted += [Wanted(tested, f"{name}{number}", f"acme/{name}") for name in "ab" for number in range(3)]
    dns.release.set()
    assert {each.answer() for each in wanted} == {ADDRESS}
    assert dns.asked == ["hanging", "a0", "b0", "a1", "b1", "a2", "b2"]


def test_bound(dns: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more lookups run at once than the limit, for all repositories together; the others are queued."""
    monkeypatch.setattr(resolver, "MAX_THREADS", 20)
    tested = Resolver()
    hanging = [Wanted(tested, f"hanging{number}", f"acme/{number}") for number in range(20)]
    poll(lambda: dns.running == 20)
    late = Wanted(tested, "late", "acme/late")
    waiting = Wanted(tested, "ci.example.com", "acme/good")
    assert not late.started
    assert late.lookup
    tested.cancel(late.lookup, late.answers.put)
    dns.release.set()
    assert {each.answer() for each in [*hanging, waiting]} == {ADDRESS}
    assert dns.most == 20
    assert "late" not in dns.asked, "whom nobody waits for is not asked for"


def test_threads_do_not_pile_up(dns: NameServer) -> None:
    """A name that hangs through any number of attempts uses one thread, and does not hold up other names."""
    tested = Resolver()
    for _ in range(10):
        wanted = Wanted(tested, "hanging")
        assert wanted.lookup
        tested.cancel(wanted.lookup, wanted.answers.put)
    assert len(threads_named("hubhooks-lookup")) == 1
    assert Wanted(tested, "ci.example.com").answer() == ADDRESS
    dns.release.set()
    poll(lambda: not threads_named("hubhooks-lookup"))
    assert Wanted(tested, "hanging").answer() == ADDRESS


def test_no_thread(dns: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the machine has no thread left, a lookup waits until it has one."""
    tested = Resolver()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patches:
        patches.setattr(threading.Thread, "start", start)
        wanted = Wanted(tested, "ci.example.com")
        assert not wanted.started
    tested.start_queued()
    assert wanted.answer() == ADDRESS


FORK = """
import os, socket, threading, warnings
from queue import SimpleQueue
from flask_hubhooks.transport import resolver

warnings.simplefilter("ignore")  # of a fork beside threads
resolver.MAX_THREADS = 1
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
resolver.shared_resolver.resolve("hanging", "", print)
child = os.fork()
if not child:
    socket.getaddrinfo = lambda *_, **__: []
    answers = SimpleQueue()
    resolver.shared_resolver.resolve("ci.example.com", "", answers.put)
    os._exit(not answers.get(timeout=10).failure)
os._exit(os.waitpid(child, 0)[1] != 0)
"""


def test_after_a_fork() -> None:
    """A child of a fork can run all its lookups, though those of its parent hang."""
    assert subprocess.run([sys.executable, "-c", FORK], timeout=30).returncode == 0


def test_posts_while_the_resolver_hangs(dns: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While all lookups hang, POSTs to addresses are sent at once, and those to names end at their deadline."""
    monkeypatch.setattr(loop, "shared_resolver", Resolver())
    monkeypatch.setattr(resolver, "MAX_THREADS", 8)
    sender = transport()
    with Receiver() as receiver, ThreadPoolExecutor(16) as pool:
        urls = [f"http://hanging{number % 4}.example.com/" for number in range(12)]
        patient = pool.submit(post, sender, urls[0], 60)
        late = [pool.submit(post, sender, url, 0.5) for url in urls]
        poll(lambda: dns.running == 2)
        assert post(sender, receiver.url).status_code == 200
        assert not any(each.done() for each in late)
        outcomes = [each.result() for each in late]
        assert not patient.done()
        sender.close()
    assert {(each.error.partition("(")[2].partition(")")[0], each.concern) for each in outcomes} == {
        ("no answer within 0.5 s", Concern.HOST),
        ("too many other lookups were unanswered for 0.5 s", Concern.NOBODY),
    }
    assert dns.most == 2
