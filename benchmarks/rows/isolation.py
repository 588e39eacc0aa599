"""Of 200 destinations some hang: what their neighbours notice of it, before and after breakers have opened."""

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
"""Percent that hang."""
PUSHES_PER_S, STEP_S = 500, 0.02
STEADY_S = 8.0
BURST = 2_000
QUICK_TIMEOUT_S = 1
"""Less than owners can set: breakers open within seconds."""


@dataclass(frozen=True)
class Crowd:
    """A worker on a site of its own, and its webhooks: one for each destination."""

    run: Run
    path: str
    site: Site
    worker: Child
    healthy: Sequence[Sample]
    hanging: Sequence[Sample]

    def open_breakers(self) -> list[float]:
        """Push steadily until all of the hanging ones' are open; returns the healthy ones' milliseconds meanwhile."""
        ends = monotonic() + LIMIT_S
        sent = self._feed(lambda: len(breakers_open(self.worker)) == len(self.hanging) or monotonic() > ends)
        if monotonic() > ends:
            raise Failed(f"only {len(breakers_open(self.worker))} breakers of {len(self.hanging)} opened")
        return self._taken(sent)

    def steady(self, hanging: bool) -> list[float]:
        """Push for some seconds, to the hanging ones too or not; returns the healthy ones' milliseconds."""
        ends = monotonic() + self.run.size(int(STEADY_S), 1)
        return self._taken(self._feed(lambda: monotonic() > ends, hanging))

    def burst(self, hanging: bool) -> list[float]:
        """Push many at once."""
        return self._taken(self._push(self.run.size(BURST, 400), hanging))

    def _taken(self, sent: dict[str, float]) -> list[float]:
        return taken_ms(self.run.bench, self.path, sent, [self.worker])

    def _feed(self, over: Callable[[], bool], hanging: bool = True) -> dict[str, float]:
        """Push in steps, to all destinations in turn; returns when each of the healthy ones' pushes was committed."""
        sent: dict[str, float] = {}
        step, pushed = monotonic(), 0
        while not over():
            sent |= self._push(round(PUSHES_PER_S * STEP_S), hanging, pushed)
            pushed += round(PUSHES_PER_S * STEP_S)
            step += STEP_S
            sleep(max(0.0, step - monotonic()))
        return sent

    def _push(self, count: int, hanging: bool, start: int = 0) -> dict[str, float]:
        """Push to so many destinations, going on where the last step ended; where they are not to, the hanging ones
        are passed over, and the healthy ones get the same all the same."""
        every = mixed(self.healthy, self.hanging)
        chosen = [every[number % len(every)] for number in range(start, start + count)]
        chosen = [(sample, hangs) for sample, hangs in chosen if hanging or not hangs]
        tags = [f"{monotonic():.6f}-{number}" for number in range(len(chosen))]
        _, committed = self.site.lay_out(tags, [sample for sample, _ in chosen])
        return {tag: committed for tag, (_, hangs) in zip(tags, chosen, strict=True) if not hangs}


def mixed(healthy: Sequence[Sample], hanging: Sequence[Sample]) -> list[tuple[Sample, bool]]:
    """All of them, evenly mixed, each with whether it hangs."""
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
    """p99 of the healthy ones while others hang, and while these get nothing at all, by turns."""
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
    "200 destinations, some of which hang: p99 from push to request of the others, over the same pushes to them while "
    "the hanging ones get none, once breakers have opened; 500 pushes/s and 2,000 at once",
    measure,
    tuple(
        Goal(f"{share} % hang, {how}, over none", 1.5, 1.1, at_most=True)
        for share in SHARES
        for how in ("steady", "burst")
    ),
    limited_by="nothing that can be told from chance: the rounds differ by more than what hangs adds",
)
