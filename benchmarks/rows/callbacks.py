"""Callbacks to gunicorn, each of which continues a chain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from sqlalchemy import func, select

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.models import Status, deliveries

from ..row import Figure, Row, Run
from ..servers import Failed, child
from ..sites import Site, site
from ..web import listening, web

CONNECTIONS = 8


def measure(run: Run) -> list[Figure]:
    rates, p99s = [], []
    with listening() as (socket, url), site(run.bench, HUBHOOKS_EXTERNAL_URL=url) as own, web(own, socket):
        own.subscribe(run.bench.url("/first"), run.bench.url("/second"))
        _posted(run, own, url, 100)
        for round_ in run.rounds:
            seconds, milliseconds = _posted(run, own, url, count := run.size(5_000, 200))
            rates.append(count / seconds)
            p99s.append(quantiles(milliseconds, n=100, method="inclusive")[98])
            run.progress(f"callbacks, round {round_} of {len(run.rounds)}: {rates[-1]:,.0f}/s, p99 {p99s[-1]:.1f} ms")
    return [Figure("callbacks/s", rates), Figure("p99 ms", p99s)]


def _posted(run: Run, own: Site, url: str, count: int) -> tuple[float, Sequence[float]]:
    """Post the callbacks of deliveries that wait for them; returns the total seconds, and the milliseconds of each."""
    awaiting: dict[str, Any] = {"status": Status.AWAITING_CALLBACK, "next_attempt_at": None, "received_at": utcnow()}
    first, _ = own.lay_out(["v1"] * count, **awaiting)
    its = (deliveries.c.push_id >= first, deliveries.c.status == Status.AWAITING_CALLBACK)
    with own.engine.connect() as connection:
        ids = connection.scalars(select(deliveries.c.id).where(*its)).all()
    with child("-m", "benchmarks.posting", str(CONNECTIONS)) as posting:
        urls = [f"{url}/u/acme/app0/hook/{own.state.tokens.make(each, 1)}/" for each in ids]
        seconds, milliseconds = json.loads(posting.ask("\n".join([*urls, ""])))
    carried_on = (deliveries.c.push_id >= first, deliveries.c.status == Status.PENDING, deliveries.c.position == 1)
    with own.engine.connect() as connection:
        if (moved := connection.scalar(select(func.count()).where(*carried_on))) != count:
            raise Failed(f"{moved} of {count} chains were continued")
    return seconds, milliseconds


ROW = Row(
    "callbacks",
    "callbacks/s to gunicorn (2 processes of 4 threads), 8 at a time, each of which continues its chain",
    measure,
    limited_by="the two cores, shared with PostgreSQL and the client; a callback takes 1.4 ms of processor time in the "
    "web process",
)
