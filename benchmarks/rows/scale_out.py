"""Several workers on one PostgreSQL and one Valkey, with a slow receiver."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from ..contestants import Engine, engine, race
from ..row import Figure, Goal, Row, Run, ratios

CONCURRENCY = 16
DESTINATIONS = 16
WORKERS = (1, 2, 4)


class Scaled:
    """Workers that are all busy when the measurement begins: idle ones would begin up to a second later."""

    def __init__(self, engine: Engine) -> None:
        self._warm_up = replace(engine, due=engine.due // 4)
        self._engine = engine

    def warm(self) -> None:
        self._warm_up.warm()

    def rate(self) -> float:
        self._warm_up.rate()
        return self._engine.rate()


def measure(run: Run) -> list[Figure]:
    bench, each = run.bench, run.size(1_600, 160)
    urls = [bench.url("/slow/scale-out", number) for number in range(DESTINATIONS)]
    with ExitStack() as stack:
        contestants = {}
        for count in WORKERS if not run.quick else (1, 4):
            ours = engine(bench, each * count, *urls, workers=count, HUBHOOKS_CONCURRENCY=CONCURRENCY)
            contestants[str(count)] = Scaled(stack.enter_context(ours))
        rates = race(run, "scale-out", contestants)
    return [
        *(Figure(f"{count} workers, /s", values) for count, values in rates.items()),
        *(Figure(f"{count} over 1", ratios(rates[count], rates["1"])) for count in rates if count != "1"),
    ]


ROW = Row(
    "scale-out",
    "deliveries/s of 1, 2 and 4 workers on one PostgreSQL and Valkey, each with 16 requests in flight, to a receiver "
    "that takes 100 ms",
    measure,
    (Goal("4 over 1", 3.8, 3.97),),
    limited_by="the 16 requests in flight of each worker: at 100 ms each, these are 160 deliveries/s",
)
