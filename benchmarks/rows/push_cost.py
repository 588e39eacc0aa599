"""What a push costs in the host's signal, by the number of webhooks that it concerns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from unittest.mock import patch

from redis.connection import Connection
from sqlalchemy import event

from flask_hubhooks.signals import image_pushed

from ..contestants import LIMIT_S
from ..row import Figure, Goal, Row, Run
from ..servers import wait_until
from ..sites import Site, site

WEBHOOKS = (1, 10, 1_000)
PUSHES = 30
REPOSITORY = "acme/app"


def measure(run: Run) -> list[Figure]:
    figures = []
    for count in WEBHOOKS[: run.size(3, 2)]:
        with site(run.bench, HUBHOOKS_MAX_WEBHOOKS=max(WEBHOOKS)) as own:
            for number in range(count):
                own.create(REPOSITORY, run.bench.url(f"/push-cost/{number}"))
            with own.worker() as worker:
                _push(own, "v0")
                wait_until(lambda: not own.under_way(), [worker], 0.05, LIMIT_S)
                statements, round_trips, milliseconds = _cost(own, run.size(PUSHES if count < 1_000 else 5, 3))
        run.progress(f"push-cost: {count:,} webhooks, {milliseconds:.2f} ms")
        figures += [
            Figure(f"statements, {count:,} webhooks", [statements]),
            Figure(f"Redis round trips, {count:,} webhooks", [round_trips]),
            Figure(f"ms, {count:,} webhooks", [milliseconds]),
        ]
    return figures


def _cost(own: Site, pushes: int) -> tuple[float, float, float]:
    """The highest numbers of statements and of round trips of a push, and its median milliseconds."""
    taken = []
    for number in range(pushes):
        with _counted(own) as counts:
            began = perf_counter()
            _push(own, f"v{number}")
            taken.append((*counts, (perf_counter() - began) * 1000))
    statements, round_trips, milliseconds = zip(*taken, strict=True)
    return max(statements), max(round_trips), median(milliseconds)


def _push(own: Site, tag: str) -> None:
    with own.app.app_context():
        image_pushed.send(own.app, repository=REPOSITORY, tag=tag)


@contextmanager
def _counted(own: Site) -> Iterator[list[int]]:
    """Count the statements to the database, and the packets to Redis, in the block."""
    counts = [0, 0]
    send = Connection.send_packed_command

    def count_statement(*_: object) -> None:
        counts[0] += 1

    def count_packet(self: Connection, *arguments: object, **options: object) -> object:
        counts[1] += 1
        return send(self, *arguments, **options)

    event.listen(own.engine, "before_cursor_execute", count_statement)
    with patch.object(Connection, "send_packed_command", count_packet):
        yield counts
    event.remove(own.engine, "before_cursor_execute", count_statement)


ROW = Row(
    "push-cost",
    "what a push costs in the signal, with a worker that is busy or has been idle for less than 5 s: statements, "
    "Redis round trips, milliseconds",
    measure,
    tuple(
        Goal(f"{metric}, {count:,} webhooks", must, aim, at_most=True)
        for count in WEBHOOKS
        for metric, must, aim in (("statements", 3, 2), ("Redis round trips", 1, 1))
    ),
    limited_by="round trips: half of the time of a push is spent waiting for PostgreSQL",
)
