"""A receiver that takes its time: 64 requests at once can make 640/s of it."""

from __future__ import annotations

from ..contestants import engine, race
from ..receiver import SLOW_S
from ..row import Figure, Goal, Row, Run, ratios

CONCURRENCY = 64
DESTINATIONS = 16
LIMIT = CONCURRENCY / SLOW_S


def measure(run: Run) -> list[Figure]:
    urls = [run.bench.url("/slow/receiver", number) for number in range(DESTINATIONS)]
    with engine(run.bench, run.size(10_000, 1_000), *urls, HUBHOOKS_CONCURRENCY=CONCURRENCY) as ours:
        rates = race(run, "slow-receiver", {"slow": ours})["slow"]
    return [Figure("deliveries/s", rates), Figure("over the limit", ratios(rates, [LIMIT] * len(rates)))]


ROW = Row(
    "slow-receiver",
    "receiver that takes 100 ms, on 16 destinations, 64 requests at once: over the limit of 640/s",
    measure,
    (Goal("over the limit", 0.93, 0.98),),
    limited_by="the first fifth of a second, in which each destination's cap grows from 1, and gaps between claims",
)
