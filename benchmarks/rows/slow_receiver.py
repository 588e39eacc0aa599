"""Slow receivers compared with instant ones: waiting should cost nothing."""

from __future__ import annotations

from ..contestants import engine, race
from ..row import Figure, Goal, Row, Run, ratios

HOOKS = 16


def measure(run: Run) -> list[Figure]:
    due = run.size(30_000, 3_000)
    slow_urls, instant_urls = (
        [run.bench.url(f"/{kind}/receiver", number) for number in range(HOOKS)] for kind in ("slow", "instant")
    )
    with engine(run.bench, due, *slow_urls) as slow, engine(run.bench, due, *instant_urls) as instant:
        rates = race(run, "slow-receiver", {"slow": slow, "instant": instant})
    return [
        Figure("answers after 100 ms, /s", rates["slow"]),
        Figure("answers at once, /s", rates["instant"]),
        Figure("over answers at once", ratios(rates["slow"], rates["instant"])),
    ]


ROW = Row(
    "slow-receiver",
    "deliveries/s to 16 hooks whose receiver takes 100 ms, over 16 that answer at once, ramp-up included",
    measure,
    (Goal("over answers at once", 0.8, 0.95),),
)
