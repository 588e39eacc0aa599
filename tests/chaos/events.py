"""Carries out the actions of a plan, and keeps what was done to whom, and when."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from time import monotonic, time

from .plan import WORKERS, Action
from .servers import Child, World


@dataclass
class Worker:
    """One process of `flask hubhooks worker`; times are of the machine's monotonic clock."""

    name: str
    child: Child
    killed_at: float | None = None
    """When it got SIGKILL."""
    asked_at: float | None = None
    """When it got SIGTERM."""
    suspended: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ended_by_itself(self) -> bool:
        """It is gone, though nobody killed it; or it did not end as it should when it was asked to."""
        return not self.child.running and self.killed_at is None and (self.asked_at is None or self.exit_code != 0)

    @property
    def exit_code(self) -> int | None:
        return self.child.process.returncode


class Events:
    """The workers, each with a place that its successors take, and what befell them and the servers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.workers: list[Worker] = []
        self._at_place: list[Worker] = [self._start(place) for place in range(WORKERS)]
        self._down_since: dict[str, float] = {}
        self.outages: list[tuple[str, float, float]] = []
        """Server, from when, until when."""
        self.wall_s = time() - monotonic()
        """How much later it is by the clock that attempts are dated by."""
        self.done: Counter[str] = Counter()
        self.out = 0
        """How many servers, receivers and workers are stopped or suspended now."""

    def _start(self, place: int) -> Worker:
        name = f"worker-{place}.{sum(each.name.startswith(f'worker-{place}.') for each in self.workers)}"
        environment = self._world.environment | {"CHAOS_WORKER": name}
        worker = Worker(name, Child(self._world.folder / f"{name}.log", environment, "flask", "hubhooks", "worker"))
        self.workers.append(worker)
        return worker

    def perform(self, action: Action) -> None:
        if action.victim == "worker":
            getattr(self, f"_{action.verb}")(action.place)
        elif action.victim == "receiver":
            self._world.tell_receivers(f"{action.verb} {action.place}")
        else:
            self._turn(action.victim, action.verb)
        self.done[f"{action.verb} {action.victim}"] += 1
        self.out += {"stop": 1, "suspend": 1, "start": -1, "resume": -1}.get(action.verb, 0)

    def _turn(self, name: str, verb: str) -> None:
        server: Mapping[str, object] = {"postgres": self._world.postgres, "valkey": self._world.valkey}
        if verb == "stop":
            self._down_since[name] = monotonic()
        getattr(server[name], verb)()
        if verb == "start":
            self.outages.append((name, self._down_since.pop(name), monotonic()))

    def _kill(self, place: int) -> None:
        worker = self._at_place[place]
        if worker.child.running:
            worker.child.send(signal.SIGKILL)
            worker.child.process.wait()
            worker.killed_at = monotonic()
        self._at_place[place] = self._start(place)

    def _replace(self, place: int) -> None:
        """As a rolling deploy does: the old one finishes what it has on the wire while the new one begins."""
        worker = self._at_place[place]
        worker.asked_at = monotonic()
        worker.child.send(signal.SIGTERM)
        self._at_place[place] = self._start(place)

    def _suspend(self, place: int) -> None:
        worker = self._at_place[place]
        worker.child.send(signal.SIGSTOP)
        worker.suspended.append((monotonic(), inf))

    def _resume(self, place: int) -> None:
        worker = self._at_place[place]
        worker.child.send(signal.SIGCONT)
        worker.suspended = [(begin, min(end, monotonic())) for begin, end in worker.suspended]

    @property
    def ready(self) -> bool:
        """Whether all workers have come to where they deliver."""
        return all("delivering from queue" in each.child.log_file.read_text() for each in self._at_place)

    def look_after(self) -> None:
        """Put another worker in the place of one that has ended by itself; the verdict will tell of it."""
        for place, worker in enumerate(self._at_place):
            if not worker.child.running:
                self._at_place[place] = self._start(place)

    def end(self) -> None:
        """All servers up, all workers asked to end, and ended."""
        for name in list(self._down_since):
            self._turn(name, "start")
        for worker in self._at_place:
            worker.asked_at = monotonic()
        for worker in self.workers:
            if worker.child.running:
                worker.child.end()

    def destroy(self) -> None:
        """Whatever happens, no worker is left behind."""
        for worker in self.workers:
            if worker.child.running:
                os.killpg(worker.child.process.pid, signal.SIGKILL)
            worker.child.process.communicate()
