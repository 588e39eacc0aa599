"""How much memory a worker takes, and whether it grows with the number of deliveries."""

from __future__ import annotations

from ..contestants import engine
from ..row import Figure, Goal, Row, Run

BATCH, BATCHES = 10_000, 10


def measure(run: Run) -> list[Figure]:
    resident = []
    with engine(run.bench, run.size(BATCH, BATCH // 20), run.bench.url("/memory")) as ours:
        ours.warm()
        for number in range(run.size(BATCHES, 3)):
            ours.rate()
            resident.append(ours.workers[0].resident_mb)
            run.progress(f"memory: {resident[-1]:.1f} MB after {(number + 1) * ours.due:,} deliveries")
    return [
        Figure("MB after 10,000", resident[:1]),
        Figure("MB after 100,000", resident[-1:]),
        Figure("MB grown", [resident[-1] - resident[0]]),
    ]


ROW = Row(
    "memory",
    "the resident set of a worker after 100,000 deliveries, and how much it grew after the first 10,000",
    measure,
    (Goal("MB after 100,000", 110, 90, at_most=True), Goal("MB grown", 3, 0, at_most=True)),
    limited_by="imports: Flask, SQLAlchemy, psycopg, requests, redis, cryptography, RQ and pycurl take 95 MB "
    "with the interpreter, the extension 13 MB",
)
