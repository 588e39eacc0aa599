"""Some of 200 destinations hang: how much they delay the others, before and after their breakers have opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic, sleep

from sqlalchemy import update

from flask_hubhooks.records.models import hooks

from ..contestants import LIMIT_S
from ..receiver import DESTINATIONS
from ..row import Figure, Goal, Row, Run, ratios
from ..servers import Child, Failed, wait_until
from ..sites import Sample, Site, breakers_open, site
from ..timing import percentiles, taken_ms

SHARES = (10, 50)
"""The percentages that hang."""
PUSHES_PER_S, STEP_S = 500, 0.02
STEADY_S = 8.0
BURST = 2_000
QUICK_TIMEOUT_S = 1
"""Shorter than owners can set, so that breakers open within seconds."""


@dataclass(frozen=True)
class Crowd:
    """A worker on its own site, with a webhook for each destination."""

    run: Run
    path: str
    site: Site
    worker: Child
    healthy: Sequence[Sample]
    hanging: Sequence[Sample]

    def open_breakers(self) -> list[float]:
        """Push steadily until the breakers of all hanging ones are open; returns the healthy ones' milliseconds."""
        ends = monotonic() + LIMIT_S
        sent = self._feed(lambda: len(breakers_open(self.worker)) == len(self.hanging) or monotonic() > ends)
        if monotonic() > ends:
            raise Failed(f"only {len(breakers_open(self.worker))} breakers of {len(self.hanging)} opened")
        return self._taken(sent)

    def steady(self, hanging: bool) -> list[float]:
        """Push for some seconds, with or without the hanging ones; returns the milliseconds of the healthy ones."""
        ends = monotonic() + self.run.size(int(STEADY_S), 1)
        return self._taken(self._feed(lambda: monotonic() > ends, hanging))

    def burst(self, hanging: bool) -> list[float]:
        """Push many at once, with or without the hanging ones; returns the milliseconds of the healthy ones."""
        return self._taken(self._push(self.run.size(BURST, 400), hanging))

    def _taken(self, sent: dict[str, float]) -> list[float]:
        return taken_ms(self.run.bench, self.path, sent, [self.worker])

    def _feed(self, over: Callable[[], bool], hanging: bool = True) -> dict[str, float]:
        """Push in steps, to all destinations in turn; returns when each push to a healthy one was committed."""
        sent: dict[str, float] = {}
        step, pushed = monotonic(), 0
        while not over():
            sent |= self._push(round(PUSHES_PER_S * STEP_S), hanging, pushed)
            pushed += round(PUSHES_PER_S * STEP_S)
            step += STEP_S
            sleep(max(0.0, step - monotonic()))
        return sent

    def _push(self, count: int, hanging: bool, start: int = 0) -> dict[str, float]:
        """Push `count` times, to the destinations in turn from number `start` on, to hanging ones only if `hanging`."""
        every = mixed(self.healthy, self.hanging)
        chosen = [every[number % len(every)] for number in range(start, start + count)]
        chosen = [(sample, hangs) for sample, hangs in chosen if hanging or not hangs]
        tags = [f"{monotonic():.6f}-{number}" for number in range(len(chosen))]
        _, committed = self.site.lay_out(tags, [sample for sample, _ in chosen])
        return {tag: committed for tag, (_, hangs) in zip(tags, chosen, strict=True) if not hangs}


def mixed(healthy: Sequence[Sample], hanging: Sequence[Sample]) -> list[tuple[Sample, bool]]:
    """Mix them evenly, each with whether it hangs."""
    places = [((number + 0.5) / len(healthy), False, sample) for number, sample in enumerate(healthy)]
    places += [((number + 0.5) / len(hanging), True, sample) for number, sample in enumerate(hanging)]
    return [(sample, hangs) for _, hangs, sample in sorted(places, key=lambda place: place[0])]


def measure(run: Run) -> list[Figure]:
    with ExitStack() as stack:
        crowds = {share: stack.enter_context(_crowd(run, share)) for share in SHARES[-run.size(2, 1) :]}
        figures = []
        for share, crowd in crowds.items():
            _, opening = percentiles(crowd.open_breakers())
            figures.append(Figure(f"{share} % hang, opening, p99 ms", [opening]))
            run.progress(f"isolation: {share} % hang, p99 {opening:.0f} ms until all breakers were open")
        for share, crowd in crowds.items():
            figures += _compared(run, share, "steady", crowd.steady)
            figures += _compared(run, share, "burst", crowd.burst)
    return figures


def _compared(run: Run, share: int, how: str, push: Callable[[bool], list[float]]) -> list[Figure]:
    """The p99 of the healthy ones, in turn without and with pushes to the hanging ones."""
    beside, alone = [], []
    for round_ in run.rounds:
        alone.append(percentiles(push(False))[1])
        beside.append(percentiles(push(True))[1])
        run.progress(
            f"isolation, round {round_} of {len(run.rounds)}: {share} % hang, {how}, p99 {beside[-1]:.1f} ms, "
            f"none {alone[-1]:.1f} ms"
        )
    name = f"{share} % hang, {how}"
    return [Figure(f"{name}, p99 ms", beside), Figure(f"{name}, over none", ratios(beside, alone))]


@contextmanager
def _crowd(run: Run, share: int) -> Iterator[Crowd]:
    destinations = run.size(DESTINATIONS, 20)
    hang = destinations * share // 100
    path = f"/timed/isolation/{share}"
    with site(run.bench) as own:
        for number in range(destinations):
            own.subscribe(run.bench.url(f"/hang/{share}" if number < hang else path, number))
        own.settle()
        if run.quick:
            with own.engine.begin() as connection:
                connection.execute(update(hooks).values(timeout_s=QUICK_TIMEOUT_S))
        with own.worker() as worker:
            wait_until(lambda: run.bench.received(path) == destinations - hang, [worker], 0.05, LIMIT_S)
            yield Crowd(run, path, own, worker, own.samples[hang:], own.samples[:hang])


ROW = Row(
    "isolation",
    "p99 of the time from push to request for healthy hooks, while some of 200 destinations hang and their breakers "
    "have opened, over the same pushes without those to hanging ones; steadily 500 pushes/s, and a burst of 2,000",
    measure,
    tuple(
        Goal(f"{share} % hang, {how}, over none", 1.5, 1.1, at_most=True)
        for share in SHARES
        for how in ("steady", "burst")
    ),
    limited_by="nothing that we can measure: the rounds differ by more than the hanging ones add",
)
