"""A registry's events to gunicorn, at a fixed rate."""

from __future__ import annotations

import json
from typing import Any

import requests
from sqlalchemy import func, select

from flask_hubhooks.records.models import pushes

from ..events import REPOSITORIES
from ..row import Figure, Goal, Row, Run
from ..servers import child, wait_until
from ..sites import site
from ..timing import LIMIT_S, percentiles
from ..web import listening, web

RATE = 200
TOKEN = "a-benchmark-s-source-token"


def measure(run: Run) -> list[Figure]:
    settings: dict[str, Any] = {
        "HUBHOOKS_SOURCE_TOKENS": {"distribution": TOKEN},
        "HUBHOOKS_REGISTRY_HOST": "registry.example.com",
    }
    seconds, path = run.size(60, 5), "/sources"
    with listening() as (socket, url), site(run.bench, HUBHOOKS_EXTERNAL_URL=url, **settings) as own:
        for repository in REPOSITORIES:
            own.create(repository, run.bench.url(path))
        target = f"{url}/hubhooks/sources/distribution/"
        with web(own, socket) as gunicorn, own.worker() as worker:
            requests.post(target, json={"events": []}, headers={"Authorization": TOKEN}, timeout=30).raise_for_status()
            with child("-m", "benchmarks.events", target, TOKEN, str(RATE), str(seconds)) as registry:
                milliseconds = json.loads(registry.ask())
            with own.engine.connect() as connection:
                recorded = connection.scalar(select(func.count()).select_from(pushes)) or 0
            wait_until(lambda: not own.under_way(), [gunicorn, worker], 0.1, LIMIT_S)
    p50, p99 = percentiles(milliseconds)
    sent = round(RATE * seconds)
    run.progress(f"sources: {sent:,} events, p50 {p50:.1f} ms, p99 {p99:.1f} ms, slowest {max(milliseconds):.0f} ms")
    return [
        Figure("p50 ms", [p50]),
        Figure("p99 ms", [p99]),
        Figure("slowest ms", [max(milliseconds)]),
        Figure("not recorded when answered", [sent - recorded]),
        Figure("not delivered", [sent - run.bench.received(path)]),
    ]


ROW = Row(
    "sources",
    f"{RATE} events a second for a minute, each the push of a tag, to gunicorn (2 processes of 4 threads), while a "
    "worker delivers them",
    measure,
    (
        Goal("slowest ms", 1000, 250, at_most=True),
        Goal("not recorded when answered", 0, 0, at_most=True),
        Goal("not delivered", 0, 0, at_most=True),
    ),
    limited_by="the two cores, shared with PostgreSQL, the worker and the client",
)
