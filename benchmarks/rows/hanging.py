"""One owner's requests that hang, a thousand and more at once: what a healthy hook of somebody else notices of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep

from ..contestants import LIMIT_S
from ..receiver import DESTINATIONS
from ..row import Figure, Goal, Row, Run, ratios
from ..servers import Child, wait_until
from ..sites import Sample, Site, site
from ..timing import percentiles, taken_ms

HANGING = (1_000, 3_000)
WEBHOOKS = 50
"""Of each of the owner's repositories."""
PUSH_EVERY_S, MEASURED_S = 0.02, 8.0
"""Shorter than the deadline of 15 s: all of them hang for as long as it is measured."""


@dataclass(frozen=True)
class Scene:
    """A worker on a site of its own, a healthy hook, and repositories whose hooks hang."""

    run: Run
    path: str
    site: Site
    worker: Child
    healthy: Sample
    owned: Sequence[Sample]

    def hang(self) -> None:
        """Have the owner's hooks hang, and wait until all of them do."""
        self.site.lay_out(["hang"] * len(self.owned), self.owned)
        count = sum(len(each.deliveries) for each in self.owned)
        wait_until(lambda: self.run.bench.received(f"/hang{self.path}") >= count, [self.worker], 0.05, LIMIT_S)

    def p99(self) -> float:
        """Push to the healthy hook for some seconds; returns the milliseconds."""
        sent: dict[str, float] = {}
        ends = monotonic() + self.run.size(int(MEASURED_S), 2)
        while monotonic() < ends:
            tag = f"{monotonic():.6f}"
            sent[tag] = self.site.lay_out([tag], [self.healthy])[1]
            sleep(PUSH_EVERY_S)
        return percentiles(taken_ms(self.run.bench, self.path, sent, [self.worker]))[1]


def measure(run: Run) -> list[Figure]:
    figures = []
    for count in HANGING[: run.size(2, 1)]:
        alone, beside = [], []
        for round_ in run.rounds:
            with _scene(run, run.size(count, 100), round_) as scene:
                alone.append(scene.p99())
                scene.hang()
                beside.append(scene.p99())
            run.progress(f"hanging: beside {count} p99 {beside[-1]:.1f} ms, without {alone[-1]:.1f} ms")
        figures += [
            Figure(f"beside {count:,}, p99 ms", beside),
            Figure(f"without {count:,}, p99 ms", alone),
            Figure(f"beside {count:,} over without", ratios(beside, alone)),
        ]
    return figures


@contextmanager
def _scene(run: Run, count: int, round_: int) -> Iterator[Scene]:
    path = f"/timed/hanging/{count}/{round_}"
    with site(run.bench) as own:
        own.subscribe(run.bench.url(path))
        (healthy,) = own.samples
        owned = [_owner(run, own, path, f"owner/app{number}") for number in range(count // WEBHOOKS)]
        own.settle()
        with own.worker() as worker:
            wait_until(lambda: run.bench.received(path) == 1, [worker], 0.05, LIMIT_S)
            yield Scene(run, path, own, worker, healthy, owned)


def _owner(run: Run, own: Site, path: str, repository: str) -> Sample:
    """A repository with webhooks that hang."""
    for number in range(WEBHOOKS):
        own.create(repository, run.bench.url(f"/hang{path}", number % DESTINATIONS))
    return own.sample(repository)


ROW = Row(
    "hanging",
    "p99 from push to request of a healthy hook beside 1,000 and 3,000 hanging requests of one owner (repositories of "
    "50 webhooks), over the same without",
    measure,
    tuple(Goal(f"beside {count:,} over without", 1.5, 1.1, at_most=True) for count in HANGING),
)
