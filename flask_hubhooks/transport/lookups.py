"""Name look-ups on daemon threads, so that nobody waits for one longer than they want.

`socket.getaddrinfo` knows no time-out: a thread that waits for it is left to itself by those who have waited long
enough, and does not keep the process from ending. Requests that want the same name at the same time share a look-up,
and its answer is remembered for a few seconds, so that a busy receiver's name is not asked for again and again.

Names that never answer must not use up the threads. A quarter of them is kept for repositories that have none yet. Of
the others a repository may have half as many as are still free: a quarter of all where nobody else has any, fewer the
more others have.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

MAX_THREADS = 256
REMEMBERED_S = 5.0
"""How long an answer is remembered, a failure too."""
MAX_REMEMBERED = 4096
"""Names whose answers are remembered."""


class Answer(NamedTuple):
    """What a look-up found."""

    addresses: tuple[str, ...]
    """In the order in which to try them; with its zone, where one has a zone."""
    failure: str = ""
    """Why there are none."""


Found = Callable[[Answer], None]
"""Is called on a look-up's thread and must not raise."""


class LookUp:
    """One name that is being looked up, or waits to be, and who wants it."""

    __slots__ = ("host", "repositories", "repository", "started_at", "wanted_by")

    def __init__(self, host: str) -> None:
        self.host = host
        self.repositories: list[str] = []
        """In whose lines it waits, or waited: those of all who want it, lest one of them hold up the others."""
        self.repository = ""
        """Once it has started: whose thread it counts as."""
        self.started_at: float | None = None
        self.wanted_by: list[Found] = []


class LookUps:
    """All look-ups of a process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as the child of a fork must: threads stay behind in the parent."""
        self._lock = threading.Lock()
        self._by_host: dict[str, LookUp] = {}
        self._line: dict[str, deque[LookUp]] = {}  # by repository, those whose turn comes first
        self._threads: Counter[str] = Counter()  # by repository
        self._remembered: dict[str, tuple[float, Answer]] = {}  # the oldest first

    def find(self, host: str, repository: str, found: Found) -> Answer | LookUp:
        """Return the remembered answer, or else a look-up that calls `found` once there is one."""
        with self._lock:
            known = self._remembered.get(host)
            if known and monotonic() < known[0]:
                return known[1]
            one = self._by_host.get(host)
            if one is None:
                one = self._by_host[host] = LookUp(host)
            if one.started_at is None and repository not in one.repositories:
                one.repositories.append(repository)
                self._line.setdefault(repository, deque()).append(one)
            one.wanted_by.append(found)
            self._start()
            return one

    def leave(self, one: LookUp, found: Found) -> None:
        """Want a look-up no more: one that has not started and that nobody else wants is taken out of the lines."""
        with self._lock:
            if found in one.wanted_by:
                one.wanted_by.remove(found)
            if not one.wanted_by and one.started_at is None and self._by_host.get(one.host) is one:
                self._take_out(one)
                del self._by_host[one.host]

    def _take_out(self, one: LookUp) -> None:
        for repository in one.repositories:
            line = self._line[repository]
            line.remove(one)
            if not line:
                del self._line[repository]

    def start_waiting(self) -> None:
        """Start look-ups that the machine had no thread for, and that no other will start when it ends."""
        if self._line and not self._threads:
            with self._lock:
                self._start()

    def _start(self) -> None:
        while one := self._next():
            one.started_at = monotonic()
            try:
                threading.Thread(target=self._work, args=(one,), daemon=True, name="hubhooks-look-up").start()
            except RuntimeError:  # the machine has no more threads: it is tried again when the next one ends or asks
                one.started_at = None
                for repository in one.repositories:
                    self._line.setdefault(repository, deque()).appendleft(one)
                return
            self._threads[one.repository] += 1

    def _next(self) -> LookUp | None:
        """Take the first one that may have a thread out of the line; its repository's next turn comes last."""
        free = MAX_THREADS - self._threads.total()
        for repository, line in self._line.items():
            own = self._threads[repository]
            if (own == 0 and free > 0) or 2 * own < free - MAX_THREADS // 4:
                one = line[0]
                one.repository = repository
                self._take_out(one)
                if line:
                    self._line[repository] = self._line.pop(repository)
                return one
        return None

    def _work(self, one: LookUp) -> None:
        answer = look_up(one.host)
        with self._lock:
            wanted_by = one.wanted_by
            if self._by_host.get(one.host) is one:  # else it is of before `forget`
                self._threads[one.repository] -= 1
                if not self._threads[one.repository]:
                    del self._threads[one.repository]
                del self._by_host[one.host]
                self._remember(one.host, answer)
                self._start()
        for found in wanted_by:
            found(answer)

    def _remember(self, host: str, answer: Answer) -> None:
        self._remembered.pop(host, None)
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[host] = (monotonic() + REMEMBERED_S, answer)


def look_up(host: str) -> Answer:
    """Return the addresses of a name, or of an address itself, for which nobody is asked."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as fault:
        return Answer((), str(fault.strerror).lower())
    except OSError as fault:
        return Answer((), (fault.strerror or type(fault).__name__).lower())
    except Exception:  # such as a `UnicodeError`, for what is no name
        return Answer((), "not a valid name")
    addresses = (_address(sockaddr) for *_, sockaddr in found)
    return Answer(tuple(dict.fromkeys(addresses)), "" if found else "it has no addresses")


def _address(sockaddr: tuple[Any, ...]) -> str:
    """Return the address with its zone, which `getaddrinfo` may give apart from it."""
    address = str(sockaddr[0])
    zone = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{address}%{zone}" if zone and "%" not in address else address


look_ups = LookUps()
"""Those of this process."""

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=look_ups.forget)
