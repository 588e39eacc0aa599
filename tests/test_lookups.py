"""Name look-ups that hang, many at once: shared, bounded, and no hindrance for others."""

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

from flask_hubhooks.transport import Concern, lookups, loop
from flask_hubhooks.transport.lookups import Answer, LookUp, LookUps

from .receivers import Receiver, poll
from .test_transport import post, transport

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
ADDRESS = Answer(("127.0.0.1",))


class Resolver:
    """Answers each host with `FOUND` or what `answers` has for it, those of `hanging` only once `release` is set."""

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
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    yield made
    made.release.set()
    poll(lambda: not threads())


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "hubhooks-look-up"]


class Wanted:
    """A look-up that somebody wants."""

    def __init__(self, look_ups: LookUps, host: str, repository: str = "") -> None:
        self.answers: SimpleQueue[Answer] = SimpleQueue()
        found = look_ups.find(host, repository, self.answers.put)
        self.look_up = found if isinstance(found, LookUp) else None
        if isinstance(found, Answer):
            self.answers.put(found)

    @property
    def started(self) -> bool:
        return self.look_up is not None and self.look_up.started_at is not None

    def answer(self) -> Answer:
        return self.answers.get(timeout=10)


def test_found(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up finds what the resolver says, and remembers it for a while, a failure too."""
    look_ups = LookUps()
    assert Wanted(look_ups, "ci.example.com").answer() == ADDRESS
    resolver.answers["ci.example.com"] = []
    assert Wanted(look_ups, "ci.example.com").answer() == ADDRESS
    monkeypatch.setattr(lookups, "REMEMBERED_S", 0.0)
    forgetful = LookUps()
    assert Wanted(forgetful, "ci.example.com").answer() == Answer((), "it has no addresses")
    resolver.answers["ci.example.com"] = FOUND
    assert Wanted(forgetful, "ci.example.com").answer() == ADDRESS
    assert resolver.asked == ["ci.example.com"] * 3


def test_what_is_remembered_is_bounded(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many names the last ones are remembered."""
    monkeypatch.setattr(lookups, "MAX_REMEMBERED", 2)
    look_ups = LookUps()
    for host in ("a", "b", "c", "b", "c", "a"):
        assert Wanted(look_ups, host).answer() == ADDRESS
    assert resolver.asked == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (OSError(24, "Too many open files"), "too many open files"),
        (UnicodeError("label too long"), "not a valid name"),
    ],
)
def test_not_found(resolver: Resolver, fault: Exception, words: str) -> None:
    """A look-up that fails says why."""
    resolver.answers["ci.example.com"] = fault
    assert Wanted(LookUps(), "ci.example.com").answer() == Answer((), words)


def test_one_for_all_who_wait(resolver: Resolver) -> None:
    """Who wants the same name at the same time shares one look-up."""
    look_ups = LookUps()
    wanted = [Wanted(look_ups, "hanging", f"acme/app{number}") for number in range(20)]
    poll(lambda: resolver.running)
    resolver.release.set()
    assert [each.answer() for each in wanted] == [ADDRESS] * 20
    assert resolver.asked == ["hanging"]


def test_quarter_rule(resolver: Resolver) -> None:
    """No repository has more than a quarter of the threads, and those of others find theirs at once."""
    look_ups = LookUps()
    quarter = lookups.MAX_THREADS // 4
    hanging = [Wanted(look_ups, f"hanging{number}", "acme/bad") for number in range(2 * quarter)]
    assert [each.started for each in hanging].count(True) == quarter
    assert Wanted(look_ups, "ci.example.com", "acme/good").answer() == ADDRESS
    resolver.release.set()
    assert [each.answer() for each in hanging] == [ADDRESS] * 2 * quarter
    assert resolver.most <= quarter + 1


def test_a_name_that_another_repository_waits_for(resolver: Resolver) -> None:
    """A name that waits behind those of one repository is looked up at once for another one that wants it."""
    look_ups = LookUps()
    for number in range(lookups.MAX_THREADS):
        Wanted(look_ups, f"hanging{number}", "acme/bad")
    behind = Wanted(look_ups, "ci.example.com", "acme/bad")
    assert not behind.started
    good = Wanted(look_ups, "ci.example.com", "acme/good")
    assert good.answer() == behind.answer() == ADDRESS
    assert resolver.asked.count("ci.example.com") == 1


@pytest.mark.parametrize("repositories", [4, 40, lookups.MAX_THREADS - 1])
def test_many_repositories_whose_names_hang(resolver: Resolver, repositories: int) -> None:
    """Whatever number of repositories have names that hang, one that has none finds its names at once."""
    look_ups = LookUps()
    for number in range(600):
        Wanted(look_ups, f"hanging{number}", f"bad/{number % repositories}")
    good = Wanted(look_ups, "ci.example.com", "acme/good")
    assert good.started
    assert good.answer() == ADDRESS
    assert Wanted(look_ups, "cd.example.com", "acme/good").answer() == ADDRESS


@pytest.mark.parametrize("repositories", [4, 17, 40])
def test_first_threads(resolver: Resolver, repositories: int) -> None:
    """However many repositories have names that hang, dozens that come later each find a thread at once."""
    look_ups = LookUps()
    for number in range(1000):
        Wanted(look_ups, f"hanging{number}", f"bad/{number % repositories}")
    names = [f"hanging-other{number}" for number in range(lookups.MAX_THREADS // 4)]
    others = [Wanted(look_ups, name, f"acme/{name}") for name in names]
    assert all(each.started for each in others)


def test_turns(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups that wait take turns by repository: one that wants many does not stand before the others."""
    monkeypatch.setattr(lookups, "MAX_THREADS", 1)
    look_ups = LookUps()
    wanted = [Wanted(look_ups, "hanging", "acme/bad")]
    wanted += [Wanted(look_ups, f"{name}{number}", f"acme/{name}") for name in "ab" for number in range(3)]
    resolver.release.set()
    assert {each.answer() for each in wanted} == {ADDRESS}
    assert resolver.asked == ["hanging", "a0", "b0", "a1", "b1", "a2", "b2"]


def test_bound(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more look-ups run at once than the bound, whosever they are; the others wait in line."""
    monkeypatch.setattr(lookups, "MAX_THREADS", 20)
    look_ups = LookUps()
    hanging = [Wanted(look_ups, f"hanging{number}", f"acme/{number}") for number in range(20)]
    poll(lambda: resolver.running == 20)
    late = Wanted(look_ups, "late", "acme/late")
    waiting = Wanted(look_ups, "ci.example.com", "acme/good")
    assert not late.started
    assert late.look_up
    look_ups.leave(late.look_up, late.answers.put)
    resolver.release.set()
    assert {each.answer() for each in [*hanging, waiting]} == {ADDRESS}
    assert resolver.most == 20
    assert "late" not in resolver.asked, "whom nobody waits for is not asked for"


def test_threads_do_not_pile_up(resolver: Resolver) -> None:
    """A name that hangs through any number of attempts holds one thread, and other names find theirs at once."""
    look_ups = LookUps()
    for _ in range(10):
        wanted = Wanted(look_ups, "hanging")
        assert wanted.look_up
        look_ups.leave(wanted.look_up, wanted.answers.put)
    assert len(threads()) == 1
    assert Wanted(look_ups, "ci.example.com").answer() == ADDRESS
    resolver.release.set()
    poll(lambda: not threads())
    assert Wanted(look_ups, "hanging").answer() == ADDRESS


def test_no_thread(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without room for another thread makes the look-up wait, until there is room again."""
    look_ups = LookUps()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patches:
        patches.setattr(threading.Thread, "start", start)
        wanted = Wanted(look_ups, "ci.example.com")
        assert not wanted.started
    look_ups.start_waiting()
    assert wanted.answer() == ADDRESS


FORK = """
import os, socket, threading, warnings
from queue import SimpleQueue
from flask_hubhooks.transport import lookups

warnings.simplefilter("ignore")  # of a fork beside threads
lookups.MAX_THREADS = 1
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
lookups.look_ups.find("hanging", "", print)
child = os.fork()
if not child:
    socket.getaddrinfo = lambda *_, **__: []
    answers = SimpleQueue()
    lookups.look_ups.find("ci.example.com", "", answers.put)
    os._exit(not answers.get(timeout=10).failure)
os._exit(os.waitpid(child, 0)[1] != 0)
"""


def test_after_a_fork() -> None:
    """A child process has room for all its look-ups, though those of its parent hang."""
    assert subprocess.run([sys.executable, "-c", FORK], timeout=30).returncode == 0


def test_posts_while_the_resolver_hangs(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every look-up hanging, POSTs to addresses go out at once, and those to names end with their deadline."""
    monkeypatch.setattr(loop, "look_ups", LookUps())
    monkeypatch.setattr(lookups, "MAX_THREADS", 8)
    sender = transport(deadline_s=0.5)
    with Receiver() as receiver, ThreadPoolExecutor(16) as pool:
        urls = [f"http://hanging{number % 4}.example.com/" for number in range(12)]
        late = [pool.submit(post, sender, url) for url in urls]
        poll(lambda: resolver.running == 2)
        assert post(sender, receiver.url).status_code == 200
        assert not any(each.done() for each in late)
        outcomes = [each.result() for each in late]
    assert {(each.error.partition("(")[2].partition(")")[0], each.concern) for each in outcomes} == {
        ("no answer within 0.5 s", Concern.HOST),
        ("too many other look-ups without an answer within 0.5 s", Concern.NOBODY),
    }
    assert resolver.most == 2
