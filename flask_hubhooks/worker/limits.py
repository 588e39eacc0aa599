"""Decides which of the deliveries that a worker has claimed may be sent now.

- Worker: at most `concurrency` requests are in flight. A request that is slow, in flight for more than a second, no
  longer counts, up to `SLOW_FACTOR` times as many requests or what the limit of open files allows.
- Hook: a hook's limit starts at one request in flight, grows by one with each success up to `MAX_PER_HOOK`, and falls
  to one after a failure, because a registry that retags 500 tags must not flood a small receiver.
- Repository: repositories take turns, and so do the hooks of each. While others wait, a repository may use at most a
  quarter of the worker's limit.
- Breakers: if a hook answers with 502, 503 or 504, or with a flood, or not at all, three times in a row, it is sent
  nothing for a while. So are all hooks of a host that could not be connected to three times in a row. Then a single
  request probes. For a host, any connection counts as a success.
- Urgent deliveries (tests and redeliveries that a person waits for) are sent at once, up to `MAX_URGENT` per hook.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from dataclasses import dataclass, field
from time import monotonic

from ..records.workers import OpenBreaker
from ..transport import Concern, Outcome
from ..transport.hook_url import BadURL, canonical_origin
from .breaker import Breaker
from .claims import MAX_URGENT, Claim

SLOW_S = 1.0
SLOW_FACTOR = 4
MAX_PER_HOOK = 100
"""The highest limit of a hook. Servers queue 128 to 511 new connections, as a rule. Those beyond are dropped without an
answer, and connect a second later."""
HELD_FACTOR = 4
"""For hooks that succeed, a worker holds about this many times as many claims as it may have in flight."""
MIN_SHARE = 2
"""Deliveries that a succeeding hook may hold at least, in flight or waiting here."""
MAX_SHOWN = 1000
"""Open breakers that a heartbeat lists. With many dead receivers there are thousands."""
FORGET_S = 10.0
"""How long a hook that has nothing to send is remembered."""


@dataclass(eq=False)
class _Host:
    breaker: Breaker
    in_flight: int = 0
    hooks: set[_Hook] = field(default_factory=set)


@dataclass(eq=False)
class _Hook:
    key: tuple[int, str]
    """The hook's id and URL: a changed URL starts afresh."""
    repository_key: int
    host: _Host
    breaker: Breaker
    limit: int = 1
    in_flight: int = 0
    waiting: deque[tuple[Claim, float]] = field(default_factory=deque)
    """Claims, each with the time until which it may wait."""
    idle_since: float = 0.0

    @property
    def open_for_s(self) -> float:
        return max(self.breaker.open_for_s, self.host.breaker.open_for_s)

    @property
    def holds(self) -> int:
        """Claims in flight or waiting."""
        return self.in_flight + len(self.waiting)

    @property
    def ready(self) -> bool:
        return bool(
            self.waiting
            and self.in_flight < self.limit
            and not self.open_for_s
            and not (self.host.breaker.tripped and self.host.in_flight)
        )


@dataclass(eq=False)
class _Flight:
    """A request in flight."""

    hook: _Hook
    began: float
    timeout_s: int
    slow: bool = False
    ended: bool = False


class Limits:
    """Holds the claims of one worker until they may be sent. Thread-safe.

    `concurrency` is the limit of requests in flight, `max_in_flight` the limit including slow ones.
    """

    def __init__(self, concurrency: int, max_in_flight: int) -> None:
        self._concurrency = min(concurrency, max_in_flight)
        self._max_in_flight = max_in_flight
        self._lock = threading.Lock()
        self._hooks: dict[tuple[int, str], _Hook] = {}
        self._hosts: dict[str, _Host] = {}
        self._in_flight: dict[int, int] = {}  # requests by repository
        self._ready: dict[int, dict[_Hook, None]] = {}  # hooks by repository, both in the order of their turns
        self._urgent: deque[tuple[Claim, float]] = deque()
        # By delivery and lease: a delivery can be cancelled and sent again while its first request is in flight.
        self._flights: dict[tuple[uuid.UUID, uuid.UUID], _Flight] = {}
        self._fresh: deque[_Flight] = deque()  # those that are not slow yet, oldest first
        self._slow = 0

    # What happens to a claim: it is added, and then taken to be sent until its request has ended, or withdrawn.

    def add(self, claim: Claim, wait_until: float) -> None:
        """Hold a claim, which may wait until then."""
        with self._lock:
            hook = self._hook_of(claim)
            if claim.urgent and hook.in_flight < MAX_URGENT:
                hook.in_flight += 1
                hook.host.in_flight += 1
                self._urgent.append((claim, wait_until))
            else:
                hook.waiting.append((claim, wait_until))
                self._queue_if_ready(hook)

    def take(self) -> list[Claim]:
        """Return the claims to send now; they count as in flight from here on.

        A claim that has waited too long, for example because the process was suspended, is not returned, since another
        worker may have it by now.
        """
        with self._lock:
            now = monotonic()
            self._note_slow(now)
            taken = []
            while self._urgent and len(self._flights) < self._max_in_flight:
                claim, wait_until = self._urgent.popleft()
                hook = self._hook_of(claim)
                if wait_until < now:
                    hook.in_flight -= 1
                    hook.host.in_flight -= 1
                    hook.waiting.appendleft((claim, wait_until))
                    continue
                self._begin(claim, hook, now)
                taken.append(claim)
            while self._ready and len(self._flights) < self._limit:
                hook = self._next_hook()
                if not hook.ready or hook.waiting[0][1] < now:  # a breaker may have opened since
                    continue
                hook.in_flight += 1
                hook.host.in_flight += 1
                hook.breaker.before_sending()
                hook.host.breaker.before_sending()
                claim, _ = hook.waiting.popleft()
                self._begin(claim, hook, now)
                taken.append(claim)
                self._queue_if_ready(hook)
            return taken

    def ended(self, claim: Claim, outcome: Outcome | None = None, *, received: bool | None = False) -> None:
        """Learn from the outcome of a request, None if nothing was sent.

        `received` is None if the answer says nothing about the hook.
        """
        with self._lock:
            flight = self._flights.pop((claim.id, claim.lease_token))
            flight.ended = True
            self._slow -= flight.slow
            hook, host = flight.hook, flight.hook.host
            left = self._in_flight[hook.repository_key] - 1
            if left:
                self._in_flight[hook.repository_key] = left
            else:
                del self._in_flight[hook.repository_key]
            hook.in_flight -= 1
            host.in_flight -= 1
            hook.idle_since = monotonic()
            probed = host.breaker.tripped
            if outcome is not None and not claim.is_test:
                self._learn(hook, outcome, received)
            for each in host.hooks if probed else (hook,):
                self._queue_if_ready(each)

    def withdraw(self, *, everything: bool = False) -> list[tuple[Claim, float]]:
        """Remove claims that have waited too long or wait for an open breaker, or `everything` that is not in flight.

        Each is returned with the seconds for which its breaker stays open.
        """
        with self._lock:
            now = monotonic()
            withdrawn = []
            for hook in list(self._hooks.values()):
                if not hook.waiting:
                    self._forget_if_idle(hook, now)
                    continue
                open_for_s = hook.open_for_s
                if everything or open_for_s:
                    withdrawn += [(claim, open_for_s) for claim, _ in hook.waiting]
                    hook.waiting.clear()
                while hook.waiting and hook.waiting[0][1] < now:
                    withdrawn.append((hook.waiting.popleft()[0], 0.0))
                self._queue_if_ready(hook)
            for name, host in list(self._hosts.items()):
                if not host.hooks and host.breaker.untroubled:
                    del self._hosts[name]
            while everything and self._urgent:
                claim, _ = self._urgent.popleft()
                hook = self._hook_of(claim)
                hook.in_flight -= 1
                hook.host.in_flight -= 1
                withdrawn.append((claim, 0.0))
            if everything:
                self._ready.clear()
            return withdrawn

    # What the dispatcher asks before it claims more

    def excluded(self, capacity: int) -> list[int]:
        """Return the ids of hooks that should get no more claims, if the worker can keep up with `capacity` claims.

        Hooks that succeed share these claims, but at most `HELD_FACTOR` times the worker's limit, so that other workers
        send what would only wait here. Excluded are hooks that have their share in flight or waiting, hooks that have a
        request in flight and have not succeeded yet, and hooks behind an open breaker.
        """
        with self._lock:
            succeeding = sum(hook.limit > 1 and hook.holds > 0 for hook in self._hooks.values())
            held = min(capacity, HELD_FACTOR * self._limit)
            share = max(MIN_SHARE, held // max(1, succeeding))
            return [
                hook.key[0]
                for hook in self._hooks.values()
                if (hook.limit == 1 and hook.in_flight) or hook.holds >= share or hook.open_for_s
            ]

    @property
    def soon_done(self) -> int:
        """The number of claims in flight and not slow, or waiting for hooks that succeed."""
        with self._lock:
            waiting = sum(len(hook.waiting) for hook in self._hooks.values() if hook.limit > 1)
            return len(self._flights) - self._slow + waiting

    @property
    def any_fresh(self) -> bool:
        """Whether a request is in flight that is not slow, so that it may be answered soon."""
        return len(self._flights) > self._slow

    @property
    def longest_timeout_s(self) -> int:
        """The longest time-out of the requests in flight; 0 if there are none."""
        with self._lock:
            return max((flight.timeout_s for flight in self._flights.values()), default=0)

    # For the heartbeat

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return len(self._flights)

    def open_breakers(self) -> list[OpenBreaker]:
        """Return at most `MAX_SHOWN` breakers that are open or half-open, those of hosts first."""
        with self._lock:
            breakers: dict[int | str, Breaker] = {origin: host.breaker for origin, host in self._hosts.items()}
            # A hook with a new URL has a new breaker, which comes later.
            breakers |= {hook.key[0]: hook.breaker for hook in self._hooks.values()}
            tripped = [(key, breaker.open_until) for key, breaker in breakers.items() if breaker.tripped]
        return [
            OpenBreaker(
                hook_id=key if isinstance(key, int) else None,
                origin="" if isinstance(key, int) else key,
                open_until=open_until,
            )
            for key, open_until in tripped[:MAX_SHOWN]
        ]

    # How turns, limits and breakers work; the lock is held

    @property
    def _limit(self) -> int:
        return min(self._concurrency + self._slow, self._max_in_flight)

    def _begin(self, claim: Claim, hook: _Hook, now: float) -> None:
        flight = self._flights[claim.id, claim.lease_token] = _Flight(hook, now, claim.timeout_s)
        self._fresh.append(flight)
        key = hook.repository_key
        self._in_flight[key] = self._in_flight.get(key, 0) + 1

    def _queue_if_ready(self, hook: _Hook) -> None:
        if hook.ready:
            self._ready.setdefault(hook.repository_key, {})[hook] = None

    def _next_hook(self) -> _Hook:
        """Remove and return the hook whose turn it is; its repository's next turn comes after the others'."""
        quarter = max(1, self._limit // 4)
        below_quarter = (key for key in self._ready if self._in_flight.get(key, 0) < quarter)
        key = next(below_quarter, None) or next(iter(self._ready))
        hooks = self._ready.pop(key)
        hook = next(iter(hooks))
        del hooks[hook]
        if hooks:
            self._ready[key] = hooks
        return hook

    def _note_slow(self, now: float) -> None:
        while self._fresh and (self._fresh[0].ended or self._fresh[0].began < now - SLOW_S):
            flight = self._fresh.popleft()
            if not flight.ended:
                flight.slow = True
                self._slow += 1

    def _learn(self, hook: _Hook, outcome: Outcome, received: bool | None) -> None:
        if outcome.connected:
            hook.host.breaker.succeeded()
        elif outcome.concern is Concern.HOST:
            hook.host.breaker.failed()
        if outcome.concern is Concern.NOBODY or received is None:
            return
        if outcome.status_code not in (None, 502, 503, 504) and not outcome.costly:
            hook.breaker.succeeded()
        elif outcome.concern is Concern.HOOK:
            hook.breaker.failed()
        hook.limit = min(hook.limit + 1, MAX_PER_HOOK) if received and not outcome.costly else 1

    def _hook_of(self, claim: Claim) -> _Hook:
        key = (claim.hook_id, claim.hook_url)
        if hook := self._hooks.get(key):
            return hook
        try:
            origin = canonical_origin(claim.hook_url)
        except BadURL:  # an earlier version accepted it
            origin = "unknown"
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(Breaker(f"host {origin}"))
        hook = self._hooks[key] = _Hook(
            key, claim.repository_key, host, Breaker(f"hook {claim.hook_id} at {origin}"), idle_since=monotonic()
        )
        host.hooks.add(hook)
        return hook

    def _forget_if_idle(self, hook: _Hook, now: float) -> None:
        if hook.in_flight or hook.idle_since > now - FORGET_S or not hook.breaker.untroubled:
            return
        del self._hooks[hook.key]
        hook.host.hooks.remove(hook)
