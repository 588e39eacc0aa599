"""SQLite compared with PostgreSQL."""

from __future__ import annotations

from ..contestants import engine, race
from ..row import Figure, Goal, Row, Run, ratios


def measure(run: Run) -> list[Figure]:
    due, bench = run.size(10_000, 1_500), run.bench
    with (
        engine(bench, due, bench.url("/sqlite"), sqlite=True) as sqlite,
        engine(bench, due, bench.url("/postgresql")) as postgresql,
    ):
        rates = race(run, "sqlite", {"SQLite": sqlite, "PostgreSQL": postgresql})
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        Figure("over PostgreSQL", ratios(rates["SQLite"], rates["PostgreSQL"])),
    ]


ROW = Row(
    "sqlite",
    "deliveries/s of one worker on SQLite, over PostgreSQL",
    measure,
    (Goal("over PostgreSQL", 0.9, 1.1),),
    limited_by="the interpreter lock, as in `throughput`: SQLite runs inside the worker",
)
