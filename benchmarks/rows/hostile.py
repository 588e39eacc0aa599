"""What 200 hostile receivers of one owner cost a worker, and how much they delay the deliveries of others."""

from __future__ import annotations

import json
from time import monotonic, sleep

from sqlalchemy import func, select

from flask_hubhooks.records.models import attempts

from ..contestants import LIMIT_S
from ..row import Figure, Goal, Row, Run
from ..servers import child, wait_until
from ..sites import Site, site
from ..timing import taken_ms

REPOSITORIES, WEBHOOKS = 4, 50
MEASURED_S = 40
PUSH_EVERY_S, HOSTILE_EVERY = 0.05, 10
"""How often the good hook gets a push, and after how many of these each hostile one gets one."""
PATH = "/timed/hostile"


def measure(run: Run) -> list[Figure]:
    webhooks = run.size(WEBHOOKS, 10)
    with child("-m", "benchmarks.hostile", str(REPOSITORIES * webhooks)) as receivers, site(run.bench) as own:
        ports = json.loads(receivers.ask())
        own.subscribe(run.bench.url(PATH))
        (good,) = own.samples
        hostile = []
        for start in range(0, len(ports), webhooks):
            for port in ports[start : start + webhooks]:
                own.create(f"hostile/app{start}", f"http://127.0.0.1:{port}/", name=f"deploy {port}")
            hostile.append(own.sample(f"hostile/app{start}"))
        own.settle()
        with own.worker() as worker:
            wait_until(lambda: run.bench.received(PATH) == 1, [worker], 0.05, LIMIT_S)
            began_s, ends = worker.processor_s, monotonic() + run.size(MEASURED_S, 5)
            sent: dict[str, float] = {}
            while monotonic() < ends:
                if len(sent) % HOSTILE_EVERY == 0:
                    own.lay_out(["hostile"] * REPOSITORIES, hostile)
                tag = f"{monotonic():.6f}"
                sent[tag] = own.lay_out([tag], [good])[1]
                sleep(PUSH_EVERY_S)
            processor_s = worker.processor_s - began_s
            taken = taken_ms(run.bench, PATH, sent, [worker])
            run.progress(f"hostile: {worker.peak_mb:.0f} MB, {processor_s:.1f} s, slowest {max(taken):.0f} ms")
            return [
                Figure("MB at most", [worker.peak_mb]),
                Figure("s of processor", [processor_s]),
                Figure("slowest good delivery, s", [max(taken) / 1000]),
                Figure("good deliveries, p99 ms", [sorted(taken)[len(taken) * 99 // 100]]),
                Figure("hostile attempts", [_attempts(own) - len(sent)]),
            ]


def _attempts(own: Site) -> int:
    with own.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(attempts)) or 0


ROW = Row(
    "hostile",
    "200 hostile receivers of one owner (4 repositories of 50 webhooks) and one worker for 40 s: they flood it with "
    "headers, 1xx responses, trailers, chunks and bodies, drip, hang or reset, and each get up to two pushes a second; "
    "memory and processor time of the worker, and the time from push to request for a good hook beside them",
    measure,
    (
        Goal("MB at most", 200, 150, at_most=True),
        Goal("s of processor", 20, 10, at_most=True),
        Goal("slowest good delivery, s", 2, 1, at_most=True),
    ),
)
