"""What a seed decides: the webhooks, the pushes, how receivers behave, and what is done to whom at which time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from .pace import LEASE_S

WORKERS = 3
PORTS = 32
"""Of the receivers: as many destinations."""
REPOSITORIES = 8
WEBHOOKS = 16
LONGEST_CHAIN = 4
RATE = 100
"""Deliveries per second that flow in the mean, about half of what two cores manage with all that runs here."""
BURST_S = 1.5
"""Pushes come in bursts, one about every so often, so that a kill finds much on the wire."""
SOON_S = (0.1, 0.5)
"""So soon after a burst its deliveries are on the wire."""
KILL_S = 5.0
"""A kill at least every so often, in the mean."""
AWAY_S = (1.0, 4.0)
"""How long a server or a receiver is away."""
LAST = 4
"""Pushes at the end, when nobody pushes or calls back any more: no delivery of theirs is received at first."""
QUIET = "quiet"
"""What the tags of these begin with."""
ROLLING, ROLLING_LEAST_S = 0.1, 6.0
"""This part of the time at the end, and as much at least, nothing is killed, stopped or suspended: rolling deploys."""
REPLACE_S = 1.5
"""How soon after one worker the next is replaced then."""


@dataclass(frozen=True)
class Chain:
    """A webhook of a repository, with its hooks' paths."""

    number: int
    repository: str
    length: int

    def path(self, position: int) -> str:
        return f"/{self.number}/of-{self.length}/{position}"


@dataclass(frozen=True)
class PlannedPush:
    at_s: float
    repository: str
    tag: str


@dataclass(frozen=True)
class Action:
    """Something that is done to a worker or to a server, at a time in seconds from the beginning."""

    at_s: float
    verb: str
    """kill, replace, suspend and resume a worker; stop and start a server or a receiver."""
    victim: str
    """worker, receiver, valkey or postgres."""
    place: int = 0
    """Which of the workers or receivers."""


@dataclass(frozen=True)
class Plan:
    seed: int
    deliveries: int
    kills: int

    @cached_property
    def seconds(self) -> float:
        """How long pushes come and things are killed."""
        return max(self.deliveries / RATE, self.kills * KILL_S, 1.3 * LEASE_S + ROLLING_LEAST_S)

    @cached_property
    def chains(self) -> list[Chain]:
        lengths = [1 + number % LONGEST_CHAIN for number in range(WEBHOOKS)]
        random.Random(f"{self.seed} lengths").shuffle(lengths)
        return [Chain(number, f"acme/app{number % REPOSITORIES}", length) for number, length in enumerate(lengths)]

    @cached_property
    def pushes(self) -> list[PlannedPush]:
        """As many as make the deliveries, in order of time, and at last some that are retried when it is quiet."""
        choice = random.Random(f"{self.seed} pushes")
        tags = list(self._tags(choice))
        times = sorted(choice.choice(self._bursts) for _ in tags)
        last = [PlannedPush(self.seconds, each.repository, f"{QUIET}{each.number}") for each in self.chains[:LAST]]
        return [*(PlannedPush(at_s, *each) for at_s, each in zip(times, tags, strict=True)), *last]

    @cached_property
    def _bursts(self) -> list[float]:
        choice = random.Random(f"{self.seed} bursts")
        return [choice.uniform(0, self.seconds) for _ in range(int(self.seconds / BURST_S))]

    def _tags(self, choice: random.Random) -> Iterator[tuple[str, str]]:
        planned = 0
        while planned < self.deliveries:
            repository = choice.choice(self.chains).repository
            yield repository, f"p{planned}"
            planned += self.made_by(repository)

    def made_by(self, repository: str) -> int:
        """Deliveries of one push."""
        return sum(each.length for each in self.chains if each.repository == repository)

    @property
    def planned_deliveries(self) -> int:
        return sum(self.made_by(push.repository) for push in self.pushes)

    @property
    def calm_s(self) -> float:
        """From when on workers are only replaced, one by one."""
        return self.seconds - max(ROLLING_LEAST_S, ROLLING * self.seconds)

    @cached_property
    def actions(self) -> list[Action]:
        """What is done, in order of time."""
        choice = random.Random(f"{self.seed} actions")
        few = max(1, self.kills // 5)
        actions = self._outings("worker", few, lambda: choice.randrange(WORKERS), choice)
        for verb, number in (("kill", self.kills), ("replace", few)):
            times = [self._moment(choice) for _ in range(number)]
            actions += [Action(at_s, verb, "worker", _victim(at_s, actions, choice)) for at_s in times]
        for server in ("valkey", "postgres"):
            actions += self._outings(server, few, lambda: 0, choice)
        actions += self._outings("receiver", 2 * few, lambda: choice.randrange(PORTS), choice)
        actions += self._replacements()
        return sorted(actions, key=lambda action: action.at_s)

    def _moment(self, choice: random.Random) -> float:
        """Any time before it is calm, as often as not soon after a burst, when much is on the wire."""
        bursts = [at_s for at_s in self._bursts if 1 < at_s < self.calm_s - SOON_S[1]]
        anywhere = choice.uniform(0.05, 1) * self.calm_s
        return choice.choice((anywhere, choice.choice(bursts) + choice.uniform(*SOON_S)))

    def _outings(self, victim: str, number: int, place: Callable[[], int], choice: random.Random) -> list[Action]:
        """Put such victims out for a while, none before the one before is back."""
        begin, end = ("suspend", "resume") if victim == "worker" else ("stop", "start")
        share = self.calm_s / number
        actions = []
        for nth in range(number):
            lasts = LEASE_S + 1 if victim == "worker" else min(choice.uniform(*AWAY_S), 0.9 * share)
            begins = nth * share + choice.uniform(0.05, 0.95) * (share - lasts)
            who = place()
            actions += [Action(begins, begin, victim, who), Action(begins + lasts, end, victim, who)]
        return actions

    def _replacements(self) -> list[Action]:
        """Rolling deploys: each worker in its turn."""
        number = int((self.seconds - self.calm_s) / REPLACE_S)
        return [Action(self.calm_s + nth * REPLACE_S, "replace", "worker", nth % WORKERS) for nth in range(1, number)]


def _victim(at_s: float, actions: list[Action], choice: random.Random) -> int:
    """A worker that is not suspended at that time: it is to outlive its lease."""
    out = Counter(each.place for each in actions if each.at_s <= at_s and each.verb == "suspend")
    out -= Counter(each.place for each in actions if each.at_s <= at_s and each.verb == "resume")
    return choice.choice([place for place in range(WORKERS) if place not in out])


@dataclass(frozen=True)
class Behaviour:
    """How a receiver treats one delivery."""

    faults: tuple[str, ...]
    """What becomes of its first POSTs: 500, reset, hang or trickle; from then on all are answered with 200."""
    answer_s: float
    """How long an answer of 200 takes."""
    states: tuple[str, ...]
    """The callbacks, posted all at once; none where no callback is expected."""
    calls_at: int
    """At which POST it calls back, counted from 0; one that fails may be it."""
    call_s: float
    """How long after that; 0: before it answers."""


def behaviour(seed: int, path: str, tag: str) -> Behaviour:
    """How the receiver at `path` treats the push of `tag`: the same whenever it is asked."""
    choice = random.Random(f"{seed} {path} {tag}")
    kinds = choice.choices(("500", "reset", "hang", "trickle"), weights=(6, 2, 1, 1), k=2)
    faults = tuple(kinds[: choice.choices((0, 1, 2), weights=(88, 9, 3))[0]])
    if tag.startswith(QUIET):
        faults = ("500", "500", "500")
    calls = "/of-1/" not in path  # a webhook with one hook expects no callback
    states = choice.choices(
        (("success",), ("success",) * 2, ("failure",), ("success", "failure")), weights=(80, 15, 3, 2)
    )[0]
    return Behaviour(
        faults,
        answer_s=choice.choice((0.0, 0.02, 0.1, 0.5)),
        states=states if calls else (),
        calls_at=choice.choice((0, len(faults), len(faults))),
        call_s=choice.choice((0.0, 0.0, 0.05, 0.3, 2.0)),
    )
