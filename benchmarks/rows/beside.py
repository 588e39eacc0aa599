"""How much somebody else's broken receivers delay the deliveries of a healthy hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep

from ..contestants import LIMIT_S
from ..receiver import BROKEN, DESTINATIONS
from ..row import Figure, Goal, Row, Run, ratios
from ..servers import Child, wait_until
from ..sites import WORKER, Sample, Site, site
from ..timing import percentiles, taken_ms

PUSH_EVERY_S, BROKEN_EVERY, MEASURED_S = 0.02, 25, 8.0
"""How often the healthy hook gets a push, after how many of these each broken one gets one, and for how long."""
NEVER = "never.example.net"
DEAF_WORKER = (
    "-c",
    "import socket, time; look_up = socket.getaddrinfo; "
    f"socket.getaddrinfo = lambda host, *a, **k: time.sleep(60 if host.endswith('{NEVER}') else 0) or "
    "look_up(host, *a, **k); "
    "from flask.cli import cli; cli.main(['--app', 'benchmarks.host:create_app', 'hubhooks', 'worker'])",
)
"""A worker whose look-ups of names in one zone take 60 s, longer than any request."""


@dataclass(frozen=True)
class Scene:
    """A worker on its own site, a healthy hook, and two other owners' hooks: broken ones and as many healthy ones."""

    run: Run
    path: str
    site: Site
    worker: Child
    healthy: Sample
    broken: Sequence[Sample]
    company: Sequence[Sample]

    def hang(self) -> None:
        """Push to the broken hooks, and wait until all of them hang."""
        self.site.lay_out(["hang"] * len(self.broken), self.broken)
        count = sum(len(each.deliveries) for each in self.broken)
        wait_until(lambda: self.run.bench.received(f"/hang{self.path}") >= count, [self.worker], 0.05, LIMIT_S)

    def p99(self, beside: Sequence[Sample] = ()) -> float:
        """Push to the healthy hook, and to others at the same time, for some seconds; returns the p99 in ms."""
        sent: dict[str, float] = {}
        ends = monotonic() + self.run.size(int(MEASURED_S), 2)
        while monotonic() < ends:
            if turn := beside[len(sent) % BROKEN_EVERY :: BROKEN_EVERY]:
                self.site.lay_out(["beside"] * len(turn), turn)
            tag = f"{monotonic():.6f}"
            sent[tag] = self.site.lay_out([tag], [self.healthy])[1]
            sleep(PUSH_EVERY_S)
        return percentiles(taken_ms(self.run.bench, self.path, sent, [self.worker]))[1]


Urls = Callable[[Run, str], list[str]]
"""Returns the URLs of broken hooks, given the path of the healthy one."""


def _hanging(count: int, run: Run, path: str) -> list[str]:
    return [run.bench.url(f"/hang{path}", number % DESTINATIONS) for number in range(count)]


def _same_host(count: int, run: Run, path: str) -> list[str]:
    return [run.bench.url(f"/{BROKEN[number % len(BROKEN)]}/{number}{path}") for number in range(count)]


def _names(count: int, _: Run, path: str) -> list[str]:
    return [f"http://{number}.{NEVER}{path}" for number in range(count)]


def _hangs(run: Run, count: int) -> list[Figure]:
    """Compare a healthy hook beside `count` hanging requests with one that is alone."""
    alone, beside = [], []
    for round_ in run.rounds:
        path = f"/timed/hanging/{count}/{round_}"
        with _scene(run, path, partial(_hanging, run.size(count, 100)), webhooks=50) as scene:
            alone.append(scene.p99())
            scene.hang()
            beside.append(scene.p99())
        run.progress(f"hanging: beside {count:,} p99 {beside[-1]:.1f} ms, alone {alone[-1]:.1f} ms")
    return [
        Figure(f"beside {count:,}, p99 ms", beside),
        Figure(f"alone, before {count:,}, p99 ms", alone),
        Figure(f"beside {count:,} over alone", ratios(beside, alone)),
    ]


def _breaks(run: Run, name: str, urls: Urls, what: str, worker: Sequence[str] = WORKER) -> list[Figure]:
    """Compare a healthy hook beside broken ones with one beside as many healthy ones, and with one that is alone."""
    alone, healthy, broken = [], [], []
    for round_ in run.rounds:
        with _scene(run, f"/timed/{name}/{what.replace(' ', '-')}/{round_}", urls, worker) as scene:
            alone.append(scene.p99())
            healthy.append(scene.p99(scene.company))
            scene.p99(scene.broken)
            broken.append(scene.p99(scene.broken))
        run.progress(f"{name}: p99 beside {what} {broken[-1]:.1f}, healthy {healthy[-1]:.1f}, alone {alone[-1]:.1f} ms")
    return [
        Figure(f"beside {what}, p99 ms", broken),
        Figure(f"beside {what} over healthy ones", ratios(broken, healthy)),
        Figure(f"beside {what} over alone", ratios(broken, alone)),
    ]


@contextmanager
def _scene(run: Run, path: str, urls: Urls, worker: Sequence[str] = WORKER, *, webhooks: int = 1) -> Iterator[Scene]:
    broken = urls(run, path)
    with site(run.bench) as own:
        own.subscribe(run.bench.url(path))
        (healthy,) = own.samples
        samples = [
            [
                _owned(own, f"{owner}/app{start}", hooks[start : start + webhooks])
                for start in range(0, len(hooks), webhooks)
            ]
            for owner, hooks in (("broken", broken), ("healthy", [run.bench.url(f"/ok{path}")] * len(broken)))
        ]
        own.settle()
        with own.child(*worker) as running:
            wait_until(lambda: run.bench.received(path) == 1, [running], 0.05, LIMIT_S)
            yield Scene(run, path, own, running, healthy, *samples)


def _owned(own: Site, repository: str, urls: Sequence[str]) -> Sample:
    for number, url in enumerate(urls):
        own.create(repository, url, name=f"deploy {number}")
    return own.sample(repository)


def measure_hanging(run: Run) -> list[Figure]:
    return [figure for count in (1_000, 3_000)[: run.size(2, 1)] for figure in _hangs(run, count)]


def measure_same_host(run: Run) -> list[Figure]:
    each = [_breaks(run, "same-host", partial(_same_host, n), f"{n} broken") for n in (len(BROKEN), 50)]
    return [figure for figures in each for figure in figures]


def measure_names(run: Run) -> list[Figure]:
    return _breaks(run, "names", partial(_names, 200), "200 names", DEAF_WORKER)


def _goals(*beside: str) -> tuple[Goal, ...]:
    return tuple(Goal(f"beside {each}", 1.5, 1.1, at_most=True) for each in beside)


HANGING = Row(
    "hanging",
    "p99 of the time from push to request for a healthy hook, while 1,000 or 3,000 requests to another owner's "
    "receivers hang (repositories of 50 webhooks), over the same without them",
    measure_hanging,
    _goals("1,000 over alone", "3,000 over alone"),
)
SAME_HOST = Row(
    "same-host",
    "p99 of the time from push to request for a healthy hook beside broken ones on other paths of its host, which "
    "answer 503 or 429, hang, reset or trickle, and each get up to two pushes a second, over the same beside as many "
    "healthy ones",
    measure_same_host,
    _goals(f"{len(BROKEN)} broken over healthy ones", "50 broken over healthy ones"),
)
NAMES = Row(
    "names",
    "p99 of the time from push to request for a healthy hook beside 200 names of a zone that never answers, which each "
    "get up to two pushes a second, over the same beside as many healthy ones",
    measure_names,
    _goals("200 names over healthy ones"),
)
