"""Turns by destination: how many requests each may have in flight, and what waits until it may be sent."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .breaker import Breaker, Sign

Task = TypeVar("Task")
Done = TypeVar("Done")

CAP = 8
"""How far a destination's cap grows where others are busy as well (measured: without a cap, or with one that starts
at this, receivers that hang hold up the others for seconds)."""


@dataclass
class _Lane(Generic[Task]):
    """One destination: its cap starts at 1, grows by one with each success, and falls to 1 with a failure."""

    breaker: Breaker
    waiting: deque[Task] = field(default_factory=deque)
    in_flight: int = 0
    cap: int = 1


class Caps(Generic[Task, Done]):
    """What may be sent now, destination by destination; safe to use from all threads.

    `limit` is what all have in flight together: a destination that is alone gets all of it once it has proved good.
    What is known of a destination is forgotten when it has nothing to send as the owner withdraws, but for its failures
    of the last hour: not sooner, lest what is answered while others are still being added count for nothing.
    """

    def __init__(
        self, limit: int, destination_of: Callable[[Task], str], sign_of: Callable[[Done], Sign | None]
    ) -> None:
        self._limit = limit
        self._destination_of = destination_of
        self._sign_of = sign_of
        self._lanes: dict[str, _Lane[Task]] = {}
        self._proven = 0  # lanes whose last request was answered well
        self._lock = threading.Lock()

    def add(self, task: Task, at_once: bool = False) -> list[Task]:
        """Take a task in; returns what is to be begun now: it, or nothing.

        Where it is to be begun `at_once` it waits for no turn and no breaker, unless `CAP` are in flight already.
        """
        destination = self._destination_of(task)
        with self._lock:
            lane = self._lanes.get(destination)
            if lane is None:
                lane = self._lanes[destination] = _Lane(Breaker(destination))
            if at_once and lane.in_flight < CAP:
                lane.in_flight += 1
                return [task]
            lane.waiting.append(task)
            return self._next_of(lane)

    def finished(self, task: Task, done: Done) -> list[Task]:
        """Learn from what came of a task; returns what of its destination is to be begun now."""
        return self._ended(task, self._sign_of(done))

    def unsent(self, task: Task) -> None:
        """Take back what was to be begun, after all that waits was withdrawn."""
        self._ended(task, None)

    def _ended(self, task: Task, sign: Sign | None) -> list[Task]:
        with self._lock:
            lane = self._lanes[self._destination_of(task)]
            lane.in_flight -= 1
            self._learn(lane, sign)
            return self._next_of(lane)

    def _learn(self, lane: _Lane[Task], sign: Sign | None) -> None:
        if sign is Sign.DOWN:
            lane.breaker.failed()
        elif sign:
            lane.breaker.answered()
        if sign is Sign.GOOD:
            self._set_cap(lane, min(lane.cap + 1, max(self._highest(), 2)))
        elif sign:
            self._set_cap(lane, 1)

    def _set_cap(self, lane: _Lane[Task], cap: int) -> None:
        self._proven += (cap > 1) - (lane.cap > 1)
        lane.cap = cap

    def _highest(self) -> int:
        """The cap of a proven destination among as many as there are now."""
        return max(CAP, self._limit // max(1, self._proven))

    def _next_of(self, lane: _Lane[Task]) -> list[Task]:
        cap = min(lane.cap, self._highest())
        begun: list[Task] = []
        while lane.waiting and lane.in_flight < cap and not lane.breaker.open_for_s:
            lane.breaker.sending()
            lane.in_flight += 1
            begun.append(lane.waiting.popleft())
        return begun

    def _forget_if_idle(self, destination: str, lane: _Lane[Task]) -> None:
        if not lane.in_flight and not lane.waiting:
            self._set_cap(lane, 1)
            if lane.breaker.untroubled:
                del self._lanes[destination]

    def withdraw(self, everything: bool) -> list[tuple[Task, float]]:
        """Take out what waits for a destination whose breaker is open, each with how many seconds it stays open.

        With `everything`, take out all that waits.
        """
        with self._lock:
            withdrawn = []
            for destination, lane in list(self._lanes.items()):
                open_for_s = lane.breaker.open_for_s
                if lane.waiting and (everything or open_for_s):
                    withdrawn += [(task, open_for_s) for task in lane.waiting]
                    lane.waiting.clear()
                self._forget_if_idle(destination, lane)
            return withdrawn

    @property
    def waiting(self) -> int:
        """What waits for destinations that answer, and so will be sent soon."""
        with self._lock:
            return sum(len(lane.waiting) for lane in self._lanes.values() if lane.cap > 1)

    def supplied(self, stock: int) -> set[str]:
        """The destinations that want no more now: those that are open, that have not yet proved good while they have
        a request in flight, and that have their part of a `stock` waiting."""
        with self._lock:
            share = max(CAP, stock // max(1, self._proven))
            return {destination for destination, lane in self._lanes.items() if _is_supplied(lane, share)}


def _is_supplied(lane: _Lane[Task], share: int) -> bool:
    unproven = lane.cap == 1 and lane.in_flight > 0
    return unproven or len(lane.waiting) >= share or lane.breaker.open_for_s > 0
