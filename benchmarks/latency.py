"""Idle latency: from a push signal to its request at the receiver, beside a bare RQ job that POSTs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import quantiles
from time import monotonic

from redis import Redis
from rq import Queue

from flask_hubhooks.signals import image_pushed

from .contestants import WORKER, webhook
from .host import example_body
from .servers import Bench, Child, Failed, wait_until

REPOSITORY = "acme/timed"
PAUSE_S = 0.05
"""Between two sends on average: the two take turns, so each has one about every 0.1 s and is idle in between."""
WARM_UP = 20


def latencies(bench: Bench, count: int) -> dict[str, tuple[float, float]]:
    """(p50, p99) in ms of each of the two, whose workers stand idle at the same time."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.child(*WORKER))
        theirs = stack.enter_context(bench.child("-m", "benchmarks.rivals", "simple", "timed"))
        queue = Queue("timed", connection=stack.enter_context(Redis.from_url(bench.redis_url)))
        webhook(bench, REPOSITORY, bench.url("/timed/hubhooks"))
        senders = {
            "/timed/hubhooks": lambda tag: image_pushed.send(bench.app, repository=REPOSITORY, tag=tag),
            "/timed/simple": lambda tag: queue.enqueue(
                "benchmarks.jobs.post", bench.url("/timed/simple"), example_body(REPOSITORY, tag).decode()
            ),
        }
        _sent(bench, (ours, theirs), senders, WARM_UP)
        sent = _sent(bench, (ours, theirs), senders, count)
    return {path: _percentiles(bench, path, times) for path, times in sent.items()}


def _sent(
    bench: Bench, children: tuple[Child, ...], senders: dict[str, Callable[[str], object]], count: int
) -> dict[str, dict[str, float]]:
    """Send by turns and wait until all have arrived; returns when each tag was sent."""
    due = {path: bench.received(path) + count for path in senders}
    sent: dict[str, dict[str, float]] = {path: {} for path in senders}
    for number in range(count):
        for path, send in senders.items():
            tag = f"{monotonic():.6f}-{number}"
            sent[path][tag] = monotonic()
            send(tag)
            time.sleep(random.uniform(0.5, 1.5) * PAUSE_S)  # noqa: S311 - keeps out of step with any beat
    for child in children:
        wait_until(lambda: all(bench.received(path) >= due[path] for path in due), child, 0.05)
    return sent


def _percentiles(bench: Bench, path: str, sent: dict[str, float]) -> tuple[float, float]:
    arrived = {tag: at for at, tag in bench.report()["timed"][path]}
    missing = sent.keys() - arrived.keys()
    if missing:
        raise Failed(f"{path}: {len(missing)} of {len(sent)} sends did not arrive")
    hundredths = quantiles(((arrived[tag] - at) * 1000 for tag, at in sent.items()), n=100, method="inclusive")
    return hundredths[49], hundredths[98]
