"""The contestants: our workers, and the alternatives that rows compare them with."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

from redis import Redis
from rq import Queue
from sqlalchemy import exists, select

from flask_hubhooks.formats import DEFAULT_FORMAT

from .host import Notification, db, example_body
from .row import Run
from .servers import ROOT, Bench, Child, Failed, child, wait_until
from .sites import Site, site

LIMIT_S = 300.0
"""The time limit of a turn."""
WARM_UP = 300


class Contestant(Protocol):
    def warm(self) -> None:
        """Do a part of the work first, so that modules are imported, connections open and statements planned."""

    def rate(self) -> float:
        """Take a turn; returns deliveries or requests per second."""


@dataclass(frozen=True)
class Engine:
    """Our workers, each in its own process. One turn delivers `due` pushes, spread evenly over the webhooks.

    The time is measured from the commit of the pushes until the last delivery is recorded.
    """

    site: Site
    workers: Sequence[Child]
    due: int

    def warm(self) -> None:
        wait_until(lambda: not self.site.under_way(), self.workers, 0.05, LIMIT_S)
        self.deliver(min(WARM_UP, self.due))
        self.site.settle()

    def rate(self) -> float:
        """Deliveries per second."""
        return self.deliver(self.due)

    def deliver(self, count: int) -> float:
        """Deliver `count` pushes; returns deliveries per second."""
        first, began = self.site.lay_out([f"v{number}" for number in range(count)])
        wait_until(lambda: not self.site.under_way(first), self.workers, 0.01, LIMIT_S)
        seconds = perf_counter() - began
        deliveries = sum(len(self.site.samples[n % len(self.site.samples)].deliveries) for n in range(count))
        if (delivered := self.site.delivered(first)) != deliveries:
            raise Failed(f"{delivered} of {deliveries} deliveries were delivered and recorded")
        return deliveries / seconds


@contextmanager
def engine(
    bench: Bench,
    due: int,
    *urls: str | Sequence[str],
    workers: int = 1,
    sqlite: bool = False,
    payload_format: str = DEFAULT_FORMAT,
    **settings: Any,
) -> Iterator[Engine]:
    """Workers on their own site, with a webhook for each URL or chain of URLs."""
    with ExitStack() as stack:
        own = stack.enter_context(site(bench, sqlite=sqlite, **settings))
        for chain in urls:
            own.subscribe(*([chain] if isinstance(chain, str) else chain), payload_format=payload_format)
        processes = [stack.enter_context(own.worker()) for _ in range(workers)]
        yield Engine(own, processes, due)
        for each in processes:
            each.terminate()  # all at once: each is then waited for


@dataclass(frozen=True)
class Program:
    """A process that reads how many requests to send, and prints how many seconds they took."""

    process: Child
    due: int

    def warm(self) -> None:
        self.process.ask(str(WARM_UP))

    def rate(self) -> float:
        """Requests per second."""
        return self.due / float(self.process.ask(str(self.due)))


@contextmanager
def bare_loop(bench: Bench, due: int, url: str) -> Iterator[Program]:
    """`requests.Session().post` in a loop, in its own process with one thread: nothing is queued or recorded."""
    with child("-m", "benchmarks.rivals", "bare", url, environment={"REQUESTS_CA_BUNDLE": bench.authority}) as process:
        yield Program(process, due)


@contextmanager
def bullmq(bench: Bench, due: int, url: str) -> Iterator[Program]:
    """BullMQ 6 and undici in a Node.js process, one job for each delivery; raises `Failed` if `npm install` fails."""
    folder = bench.folder / "node"
    if not folder.exists():
        shutil.copytree(ROOT / "benchmarks" / "node", folder)
        installed = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False
        )
        if installed.returncode:
            raise Failed(f"npm install: {installed.stderr[-1000:]}")
    arguments = [str(folder / "bullmq.mjs"), bench.redis_url, url, example_body().decode()]
    with child(*arguments, program="node") as process:
        yield Program(process, due)


@dataclass(frozen=True)
class Jobs:
    """An RQ worker in its own process, with one job for each delivery."""

    site: Site
    worker: Child
    url: str
    due: int

    def warm(self) -> None:
        replace(self, due=20).rate()

    def rate(self) -> float:
        """Deliveries per second, from when all jobs are queued until the last one has written its row."""
        with self.site.app.app_context():
            self._enqueue()
            began = perf_counter()
            wait_until(lambda: not self._pending(), [self.worker], 0.01, LIMIT_S)
            return self.due / (perf_counter() - began)

    def _enqueue(self) -> None:
        rows = [Notification(url=self.url, body=example_body().decode()) for _ in range(self.due)]
        db.session.add_all(rows)
        db.session.flush()
        jobs = [Queue.prepare_data("benchmarks.jobs.deliver", (row.id,)) for row in rows]
        db.session.commit()
        with Redis.from_url(self.site.state.config.redis_url) as connection, connection.pipeline() as pipeline:
            Queue("jobs", connection=connection).enqueue_many(jobs, pipeline=pipeline)
            pipeline.execute()

    def _pending(self) -> bool:
        """Whether any notification is not delivered yet; it looks at the newest first, as `Site.under_way` does."""
        newest = select(Notification.status != "delivered").order_by(Notification.id.desc()).limit(1)
        any_of_all = select(exists().where(Notification.status != "delivered"))
        pending = any(db.session.scalar(each) for each in (newest, any_of_all))
        db.session.rollback()
        return pending


@contextmanager
def jobs(bench: Bench, due: int, url: str, kind: str) -> Iterator[Jobs]:
    """An RQ worker on its own site: a `SimpleWorker` if `kind` is "simple", or a `Worker`, which forks for each job."""
    with site(bench) as own, own.child("-m", "benchmarks.rivals", kind, "jobs") as worker:
        yield Jobs(own, worker, url, due)


def race(run: Run, row: str, contestants: Mapping[str, Contestant]) -> Mapping[str, Sequence[float]]:
    """Warm up all contestants, then give each one turn in each round; returns their rates."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for contestant in contestants.values():
        contestant.warm()
    for round_ in run.rounds:
        for name, contestant in contestants.items():
            rates[name].append(contestant.rate())
            run.progress(f"{row}, round {round_} of {len(run.rounds)}: {name} {rates[name][-1]:,.0f}/s")
    return rates
