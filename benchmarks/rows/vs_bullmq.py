"""One worker compared with BullMQ and undici, the fastest queue and HTTP client of Node.js."""

from __future__ import annotations

import shutil

from ..contestants import bullmq, engine, race
from ..row import Figure, Goal, Row, Run, ratios


def measure(run: Run) -> list[Figure]:
    if not shutil.which("npm"):
        run.progress("vs-bullmq: left out, there is no npm")
        return []
    due, bench = run.size(30_000, 3_000), run.bench
    with engine(bench, due, bench.url("/ours")) as ours, bullmq(bench, due, bench.url("/bullmq")) as theirs:
        rates = race(run, "vs-bullmq", {"ours": ours, "theirs": theirs})
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        Figure("over theirs", ratios(rates["ours"], rates["theirs"])),
    ]


ROW = Row(
    "vs-bullmq",
    "deliveries/s, with history, over BullMQ 6 and undici 7 on Node.js, which sign as we do but keep no history",
    measure,
    (Goal("over theirs", 1.2, 1.6),),
)
