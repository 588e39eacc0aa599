"""Resolves host names on daemon threads, so that a request can stop waiting for a name at its deadline.

`socket.getaddrinfo` has no time-out. A thread that hangs in it is abandoned when its deadline is over, and does not
keep the process from ending. Requests that need the same name at the same time share a lookup, and its result is
remembered for a few seconds, so that the name of a busy receiver is not looked up again and again.

Names that never resolve must not use up the threads. A quarter of the threads is reserved for repositories that have
none yet. Of the others, a repository may use at most half as many as are free: a quarter of all threads if it is alone,
and fewer if other repositories use some.
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
"""How long a result is remembered, including failures."""
MAX_REMEMBERED = 4096
"""How many names are remembered."""


class Resolution(NamedTuple):
    """The result of a lookup."""

    addresses: tuple[str, ...]
    """In the order in which to try them; with their zones, if they have any."""
    failure: str = ""
    """Why there are none."""


OnResolved = Callable[[Resolution], None]
"""Called on a lookup's thread; must not raise."""


class Lookup:
    """One name that is being looked up, or is queued."""

    __slots__ = ("host", "repositories", "repository", "started_at", "waiters")

    def __init__(self, host: str) -> None:
        self.host = host
        self.repositories: list[str] = []
        """All repositories that need it: it is in the queue of each, so that none of them holds up the others."""
        self.repository = ""
        """Once it has started: the repository whose thread it uses."""
        self.started_at: float | None = None
        self.waiters: list[OnResolved] = []


class Resolver:
    """Looks up names for all transports of a process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start afresh, as the child of a fork must: threads exist in the parent only."""
        self._lock = threading.Lock()
        self._lookups: dict[str, Lookup] = {}  # by host
        self._queues: dict[str, deque[Lookup]] = {}  # by repository, in the order of their turns
        self._threads: Counter[str] = Counter()  # by repository
        self._remembered: dict[str, tuple[float, Resolution]] = {}  # oldest first

    def resolve(self, host: str, repository: str, on_resolved: OnResolved) -> Resolution | Lookup:
        """Return the remembered result, or else a lookup that will call `on_resolved`."""
        with self._lock:
            known = self._remembered.get(host)
            if known and monotonic() < known[0]:
                return known[1]
            lookup = self._lookups.get(host)
            if lookup is None:
                lookup = self._lookups[host] = Lookup(host)
            if lookup.started_at is None and repository not in lookup.repositories:
                lookup.repositories.append(repository)
                self._queues.setdefault(repository, deque()).append(lookup)
            lookup.waiters.append(on_resolved)
            self._start()
            return lookup

    def cancel(self, lookup: Lookup, on_resolved: OnResolved) -> None:
        """Stop waiting for a lookup. It leaves the queues if it has not started and nobody else waits for it."""
        with self._lock:
            if on_resolved in lookup.waiters:
                lookup.waiters.remove(on_resolved)
            if not lookup.waiters and lookup.started_at is None and self._lookups.get(lookup.host) is lookup:
                self._dequeue(lookup)
                del self._lookups[lookup.host]

    def start_queued(self) -> None:
        """Start lookups that the machine had no thread for, and that no other lookup will start when it ends."""
        if self._queues and not self._threads:
            with self._lock:
                self._start()

    def _start(self) -> None:
        while lookup := self._take_next():
            lookup.started_at = monotonic()
            try:
                threading.Thread(target=self._run, args=(lookup,), daemon=True, name="hubhooks-lookup").start()
            except RuntimeError:  # no more threads on this machine: try again when a lookup ends or is added
                lookup.started_at = None
                for repository in lookup.repositories:
                    self._queues.setdefault(repository, deque()).appendleft(lookup)
                return
            self._threads[lookup.repository] += 1

    def _take_next(self) -> Lookup | None:
        """Dequeue the first lookup that may have a thread; its repository's next turn comes after all others'."""
        free = MAX_THREADS - self._threads.total()
        for repository, queue in self._queues.items():
            own = self._threads[repository]
            if (own == 0 and free > 0) or 2 * own < free - MAX_THREADS // 4:
                lookup = queue[0]
                lookup.repository = repository
                self._dequeue(lookup)
                if queue:
                    self._queues[repository] = self._queues.pop(repository)
                return lookup
        return None

    def _dequeue(self, lookup: Lookup) -> None:
        for repository in lookup.repositories:
            queue = self._queues[repository]
            queue.remove(lookup)
            if not queue:
                del self._queues[repository]

    def _run(self, lookup: Lookup) -> None:
        resolution = resolve(lookup.host)
        with self._lock:
            waiters = lookup.waiters
            if self._lookups.get(lookup.host) is lookup:  # else it was started before `reset`
                self._threads[lookup.repository] -= 1
                if not self._threads[lookup.repository]:
                    del self._threads[lookup.repository]
                del self._lookups[lookup.host]
                self._remember(lookup.host, resolution)
                self._start()
        for on_resolved in waiters:
            on_resolved(resolution)

    def _remember(self, host: str, resolution: Resolution) -> None:
        self._remembered.pop(host, None)
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[host] = (monotonic() + REMEMBERED_S, resolution)


def resolve(host: str) -> Resolution:
    """Look up a name now, and wait for as long as it takes; an IP address is returned without a lookup."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return Resolution((), str(error.strerror).lower())
    except OSError as error:
        return Resolution((), (error.strerror or type(error).__name__).lower())
    except Exception:  # such as a `UnicodeError`
        return Resolution((), "not a valid name")
    addresses = (_with_zone(sockaddr) for *_, sockaddr in found)
    return Resolution(tuple(dict.fromkeys(addresses)), "" if found else "it has no addresses")


def _with_zone(sockaddr: tuple[Any, ...]) -> str:
    """Return the address with its zone, which `getaddrinfo` may give separately."""
    address = str(sockaddr[0])
    zone = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{address}%{zone}" if zone and "%" not in address else address


shared_resolver = Resolver()
"""The resolver of this process."""

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=shared_resolver.reset)
