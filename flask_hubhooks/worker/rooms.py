"""Which of the deliveries that a worker has claimed may be sent now.

- The room is how many requests may be in flight. One that has waited for over a second no longer counts, up to four
  times the room, or what the limit of open files allows.
- A hook may have one request in flight at first, one more for each that succeeds, and one again after a failure: a
  registry that retags 500 tags must not flood a small receiver.
- Repositories take turns, and so do the hooks of each. No repository has more than a quarter of the room while others
  wait.
- A hook whose path gives no answer, or 502, 503 or 504, three times in a row gets nothing for a while; neither do all
  hooks of a host that three times in a row could not be connected to. Then one request probes. Any connection to the
  host is enough for its other hooks.
- What a person waits for, a test or a redelivery, goes at once, up to eight requests of a hook.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from dataclasses import dataclass, field
from time import monotonic

from ..transport import Concern, Outcome
from ..transport.hook_url import BadURL, canonical_origin
from .breaker import Breaker
from .claims import URGENT_MOST, Claim

SLOW_S = 1.0
SLOW_TIMES = 4
SHARE_LEAST = 2
"""How many deliveries of a hook that succeeds wait here at least, where so many are due."""
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
    repository_key: int
    host: _Host
    breaker: Breaker
    limit: int = 1
    in_flight: int = 0
    waiting: deque[tuple[Claim, float]] = field(default_factory=deque)
    """Claims, each with until when it may wait."""
    idle_since: float = 0.0

    @property
    def open_for_s(self) -> float:
        return max(self.breaker.open_for_s, self.host.breaker.open_for_s)

    @property
    def ready(self) -> bool:
        return bool(
            self.waiting
            and self.in_flight < self.limit
            and not self.open_for_s
            and not (self.host.breaker.half_open and self.host.in_flight)
        )


@dataclass(eq=False)
class _Flight:
    hook: _Hook
    began: float
    slow: bool = False
    ended: bool = False


class Rooms:
    """Holds the claims of one worker until they may be sent; safe to use from all threads.

    `room` is how many requests may be in flight, `most` how many with those that are slow.
    """

    def __init__(self, room: int, most: int) -> None:
        self._room = min(room, most)
        self._most = most
        self._lock = threading.Lock()
        self._hooks: dict[tuple[int, str], _Hook] = {}
        self._hosts: dict[str, _Host] = {}
        self._of_repository: dict[int, int] = {}  # requests in flight
        self._ready: dict[int, dict[_Hook, None]] = {}  # by repository; those whose turn is next come first
        self._urgent: deque[tuple[Claim, float]] = deque()
        # By delivery and lease: one that hangs can be cancelled and sent again while its first request is in flight.
        self._flights: dict[tuple[uuid.UUID, uuid.UUID], _Flight] = {}
        self._young: deque[_Flight] = deque()
        self._slow = 0

    def add(self, claim: Claim, wait_until: float) -> None:
        """Take a claim in, which may wait until then."""
        with self._lock:
            hook = self._hook_of(claim)
            if claim.urgent and hook.in_flight < URGENT_MOST:
                hook.in_flight += 1
                hook.host.in_flight += 1
                self._urgent.append((claim, wait_until))
            else:
                hook.waiting.append((claim, wait_until))
                self._note_if_ready(hook)

    def take(self) -> list[Claim]:
        """Return the claims to be sent now, which are in flight from here on.

        One that has waited for too long, such as while the process was suspended, is not: another worker may have it.
        """
        with self._lock:
            now = monotonic()
            self._note_slow(now)
            taken = []
            while self._urgent and len(self._flights) < self._most:
                claim, wait_until = self._urgent.popleft()
                hook = self._hook_of(claim)
                if wait_until < now:
                    hook.in_flight -= 1
                    hook.host.in_flight -= 1
                    hook.waiting.appendleft((claim, wait_until))
                    continue
                self._begin(claim, hook, now)
                taken.append(claim)
            while self._ready and len(self._flights) < min(self._room + self._slow, self._most):
                hook = self._next()
                if not hook.ready or hook.waiting[0][1] < now:  # a breaker has opened since, say
                    continue
                hook.in_flight += 1
                hook.host.in_flight += 1
                hook.breaker.sending()
                hook.host.breaker.sending()
                claim, _ = hook.waiting.popleft()
                self._begin(claim, hook, now)
                taken.append(claim)
                self._note_if_ready(hook)
            return taken

    def _begin(self, claim: Claim, hook: _Hook, now: float) -> None:
        flight = self._flights[claim.id, claim.lease_token] = _Flight(hook, now)
        self._young.append(flight)
        key = hook.repository_key
        self._of_repository[key] = self._of_repository.get(key, 0) + 1

    def _next(self) -> _Hook:
        """Take out the hook whose turn it is; its repository goes behind the others."""
        quarter = max(1, min(self._room + self._slow, self._most) // 4)
        within = (key for key in self._ready if self._of_repository.get(key, 0) < quarter)
        key = next(within, None) or next(iter(self._ready))
        hooks = self._ready.pop(key)
        hook = next(iter(hooks))
        del hooks[hook]
        if hooks:
            self._ready[key] = hooks
        return hook

    def _note_if_ready(self, hook: _Hook) -> None:
        if hook.ready:
            self._ready.setdefault(hook.repository_key, {})[hook] = None

    def _note_slow(self, now: float) -> None:
        while self._young and (self._young[0].ended or self._young[0].began < now - SLOW_S):
            flight = self._young.popleft()
            if not flight.ended:
                flight.slow = True
                self._slow += 1

    def ended(self, claim: Claim, outcome: Outcome | None = None, *, received: bool = False) -> None:
        """Learn from what came of a request; without an outcome nothing was sent."""
        with self._lock:
            flight = self._flights.pop((claim.id, claim.lease_token))
            flight.ended = True
            self._slow -= flight.slow
            hook, host = flight.hook, flight.hook.host
            left = self._of_repository[hook.repository_key] - 1
            if left:
                self._of_repository[hook.repository_key] = left
            else:
                del self._of_repository[hook.repository_key]
            hook.in_flight -= 1
            host.in_flight -= 1
            hook.idle_since = monotonic()
            probed = host.breaker.half_open
            if outcome is not None and not claim.is_test:
                self._learn(hook, outcome, received)
            for each in host.hooks if probed else (hook,):
                self._note_if_ready(each)

    def _learn(self, hook: _Hook, outcome: Outcome, received: bool) -> None:
        if outcome.connected:
            hook.host.breaker.succeeded()
        elif outcome.concern is Concern.HOST:
            hook.host.breaker.failed()
        if outcome.concern is Concern.NOBODY:
            return
        if outcome.status_code not in (None, 502, 503, 504):
            hook.breaker.succeeded()
        elif outcome.concern is Concern.HOOK:
            hook.breaker.failed()
        hook.limit = min(hook.limit + 1, self._most) if received else 1

    def withdraw(self, *, everything: bool = False) -> list[tuple[Claim, float]]:
        """Take out what has waited for too long, or waits for a breaker that is open, each with for how many seconds
        it is; or `everything` that is not in flight."""
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
                self._note_if_ready(hook)
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

    def _forget_if_idle(self, hook: _Hook, now: float) -> None:
        if hook.in_flight or hook.idle_since > now - FORGET_S or not hook.breaker.untroubled:
            return
        del self._hooks[hook.key]
        hook.host.hooks.remove(hook)

    def left_out(self, stock: int) -> list[int]:
        """The hooks that want no more now: those behind an open breaker, those that have a request in flight and have
        not yet succeeded, and those that have their part of a `stock` in flight or waiting."""
        with self._lock:
            proven = sum(hook.limit > 1 for hook in self._hooks.values())
            share = max(SHARE_LEAST, stock // max(1, proven))
            return [
                hook.key[0]
                for hook in self._hooks.values()
                if (hook.limit == 1 and hook.in_flight)
                or hook.in_flight + len(hook.waiting) >= share
                or hook.open_for_s
            ]

    @property
    def stock(self) -> int:
        """What is in flight and not slow, or waits for hooks that succeed: it will be done soon."""
        with self._lock:
            waiting = sum(len(hook.waiting) for hook in self._hooks.values() if hook.limit > 1)
            return len(self._flights) - self._slow + waiting

    @property
    def moving(self) -> bool:
        """Whether requests are in flight that may be answered soon."""
        return len(self._flights) > self._slow

    def _hook_of(self, claim: Claim) -> _Hook:
        key = (claim.hook_id, claim.hook_url)
        if hook := self._hooks.get(key):
            return hook
        name = _host_of(claim.hook_url)
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(Breaker(f"host {name}"))
        hook = self._hooks[key] = _Hook(
            key, claim.repository_key, host, Breaker(f"hook {claim.hook_id} at {name}"), idle_since=monotonic()
        )
        host.hooks.add(hook)
        return hook


def _host_of(url: str) -> str:
    try:
        return canonical_origin(url)
    except BadURL:  # it was accepted by an earlier version
        return "unknown"
