"""One worker compared with what a Flask developer would write: one RQ job for each delivery."""

from __future__ import annotations

from functools import partial

from ..contestants import engine, jobs, race
from ..row import Figure, Goal, Row, Run, ratios


def measure(run: Run, kind: str, full: int, quick: int) -> list[Figure]:
    bench = run.bench
    with (
        engine(bench, run.size(5_000, 500), bench.url("/ours")) as ours,
        jobs(bench, run.size(full, quick), bench.url("/jobs"), kind) as theirs,
    ):
        rates = race(run, f"vs-rq-{kind}", {"ours": ours, "theirs": theirs})
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        Figure("over theirs", ratios(rates["ours"], rates["theirs"])),
    ]


WORKER = Row(
    "vs-rq-worker",
    "deliveries/s, over one RQ job for each delivery on RQ's `Worker` with preloaded modules",
    partial(measure, kind="worker", full=100, quick=30),
    (Goal("over theirs", 25, 32),),
    limited_by="the fork that RQ makes for each job, so this says little about our worker",
)
SIMPLE = Row(
    "vs-rq-simple",
    "deliveries/s, over one RQ job for each delivery on RQ's `SimpleWorker`",
    partial(measure, kind="simple", full=500, quick=100),
    (Goal("over theirs", 7, 9),),
    limited_by="RQ's bookkeeping in Redis and a transaction for each job on their side, the interpreter lock on ours",
)
