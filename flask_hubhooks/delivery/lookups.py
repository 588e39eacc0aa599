"""Name look-ups that nobody waits for longer than they want, with a bound on how many run at once.

`socket.getaddrinfo` knows no time-out: each runs on a daemon thread, which does not keep the process from ending,
and is left to itself by who has waited long enough. Those who want the same name at the same time share one. Nothing
is remembered once a look-up has ended: what a name resolves to may change from one request to the next.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from typing import Any, TypeAlias

MOST = 64  # look-ups a process has under way at most

Found: TypeAlias = "list[tuple[Any, ...]]"
"""What `socket.getaddrinfo` returns."""


class LookUpFailed(Exception):
    """A name has no addresses, or not in time; the text says why."""


class LookUpLate(LookUpFailed):
    """The time was over."""


class _LookUp:
    """One name that is being looked up, or waits to be, and how many wait for it."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.waiting = 0
        self.started = False
        self.ended = threading.Event()
        self.answer: Found | Exception = LookUpFailed("not looked up")

    def run(self) -> None:
        try:
            self.answer = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except Exception as fault:  # also a `UnicodeError`, for what is no name
            self.answer = fault


class LookUps:
    """At most so many look-ups at once; more wait in line until one of these has ended."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Begin anew, as the child of a fork must: threads stay behind in the parent."""
        self._lock = threading.Lock()
        self._by_host: dict[str, _LookUp] = {}
        self._line: deque[_LookUp] = deque()
        self._threads = 0

    def find(self, host: str, port: int, seconds: float) -> Found:
        """Return what `socket.getaddrinfo` finds for a name within that time; raises `LookUpFailed` or `LookUpLate`."""
        one = self._join(host, port)
        try:
            if not one.ended.wait(seconds):
                raise LookUpLate("no answer" if one.started else "too many other look-ups without an answer")
        finally:
            self._leave(one)
        answer = one.answer
        if isinstance(answer, Exception):
            raise LookUpFailed(_why(answer))
        return answer if port == one.port else [(*each[:4], (each[4][0], port, *each[4][2:])) for each in answer]

    def _join(self, host: str, port: int) -> _LookUp:
        with self._lock:
            one = self._by_host.get(host)
            if one is None:
                one = self._by_host[host] = _LookUp(host, port)
                self._line.append(one)
                self._make_room()
            one.waiting += 1
            return one

    def _make_room(self) -> None:
        if self._threads < self._most:
            self._threads += 1
            try:
                threading.Thread(target=self._work, daemon=True, name="hubhooks-look-up").start()
            except RuntimeError:  # the machine has no more threads: those that run will come to it
                self._threads -= 1

    def _leave(self, one: _LookUp) -> None:
        """Take a look-up out of the line that nobody waits for any more."""
        with self._lock:
            one.waiting -= 1
            if not one.waiting and not one.started:
                self._line.remove(one)
                del self._by_host[one.host]

    def _work(self) -> None:
        while one := self._next():
            one.run()
            with self._lock:  # from here on a new look-up begins for who asks
                del self._by_host[one.host]
            one.ended.set()

    def _next(self) -> _LookUp | None:
        with self._lock:
            if not self._line:
                self._threads -= 1
                return None
            one = self._line.popleft()
            one.started = True
            return one


def _why(fault: Exception) -> str:
    return str(fault.strerror).lower() if isinstance(fault, socket.gaierror) else "not a valid name"


look_ups = LookUps()
"""Those of this process."""

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=look_ups.forget)
