"""The time from a push signal to its request at the receiver, with an idle worker, compared with a bare RQ job."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from time import monotonic

from redis import Redis
from rq import Queue

from flask_hubhooks.signals import image_pushed

from ..contestants import engine
from ..host import example_body
from ..row import Figure, Goal, Row, Run, ratios
from ..timing import percentiles, taken_ms

POST = "benchmarks.jobs.post"
OURS, THEIRS = "/timed/ours", "/timed/theirs"
APART = {"0.1 s": (0.1, 150, 12), "2 s": (2.0, 25, 2)}
"""The seconds between pushes, and their number in a round of a full and of a quick run."""


def measure(run: Run) -> list[Figure]:
    """The two take turns, so that each is idle while the other works."""
    bench = run.bench
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(engine(bench, 20, bench.url(OURS)))
        ours.warm()
        theirs = stack.enter_context(ours.site.child("-m", "benchmarks.rivals", "simple", "timed"))
        queue = Queue("timed", connection=stack.enter_context(Redis.from_url(bench.redis_url)))
        stack.enter_context(ours.site.app.app_context())
        send: Mapping[str, Callable[[str], object]] = {
            OURS: lambda tag: image_pushed.send(ours.site.app, repository="acme/app0", tag=tag),
            THEIRS: lambda tag: queue.enqueue(POST, bench.url(THEIRS), example_body(tag=tag).decode()),
        }
        _sent(send, 0.1, run.size(20, 5))
        for round_ in run.rounds:
            for name, (apart_s, full, quick) in APART.items():
                sent = _sent(send, apart_s, run.size(full, quick))
                for path, tags in sent.items():
                    taken = percentiles(taken_ms(bench, path, tags, [*ours.workers, theirs]))
                    times.setdefault((name, path), []).append(taken)
                (p50, p99), (bare50, bare99) = times[name, OURS][-1], times[name, THEIRS][-1]
                run.progress(
                    f"idle-latency, round {round_} of {len(run.rounds)}, {name} apart: p50 {p50:.1f} ms, "
                    f"p99 {p99:.1f} ms; a bare job's {bare50:.1f} and {bare99:.1f} ms"
                )
    return [figure for name in APART for figure in _figures(name, times[name, OURS], times[name, THEIRS])]


def _sent(send: Mapping[str, Callable[[str], object]], apart_s: float, count: int) -> dict[str, dict[str, float]]:
    """Let both send in turn; returns when each tag was sent."""
    sent: dict[str, dict[str, float]] = {path: {} for path in send}
    for _ in range(count):
        for path, one in send.items():
            now = monotonic()
            tag = f"{now:.6f}"
            sent[path][tag] = now
            one(tag)
            time.sleep(random.uniform(0.5, 1.5) * apart_s / len(send))  # noqa: S311 - keeps out of step with periodic work
    return sent


def _figures(name: str, ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> list[Figure]:
    figures = []
    for index, percentile in enumerate(("p50", "p99")):
        mine, others = [each[index] for each in ours], [each[index] for each in theirs]
        figures += [
            Figure(f"{name} apart, {percentile}, ms", mine),
            Figure(f"{name} apart, {percentile} of a bare job, ms", others),
            Figure(f"{name} apart, {percentile} over a bare job's", ratios(mine, others)),
        ]
    return figures


ROW = Row(
    "idle-latency",
    "time from push signal to request at the receiver, with an idle worker, over that of a job on `SimpleWorker` that "
    "only POSTs",
    measure,
    tuple(
        Goal(f"{name} apart, {percentile} over a bare job's", must, aim, at_most=True)
        for name in APART
        for percentile, must, aim in (("p50", 1.7, 1.4), ("p99", 3.0, 1.5))
    ),
    limited_by="round trips to PostgreSQL and two commits: three fifths until the push is stored and its signal "
    "returns, a third to lease the delivery, the rest to send it",
)
