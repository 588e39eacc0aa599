"""One worker and an instant receiver, compared with a loop that only POSTs."""

from __future__ import annotations

from ..contestants import bare_loop, engine, race
from ..row import Figure, Goal, Row, Run, ratios

DUE, QUICK_DUE = 30_000, 3_000


def measure(run: Run) -> list[Figure]:
    due, bench = run.size(DUE, QUICK_DUE), run.bench
    spread = [bench.url("/throughput/200", number) for number in range(run.size(200, 50))]
    with (
        engine(bench, due, bench.url("/throughput/1")) as one,
        engine(bench, due, *spread) as many,
        bare_loop(bench, due, bench.url("/bare")) as bare,
    ):
        rates = race(run, "throughput", {"one destination": one, "200 destinations": many, "bare loop": bare})
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        *(
            Figure(f"{name} over bare loop", ratios(rates[name], rates["bare loop"]))
            for name in ("one destination", "200 destinations")
        ),
    ]


ROW = Row(
    "throughput",
    "deliveries/s of one worker to an instant receiver, with 30,000 due, ramp-up included and full history, over "
    "`requests.Session().post` in a loop",
    measure,
    (Goal("one destination over bare loop", 2.8, 4), Goal("200 destinations over bare loop", 2.6, 4)),
    limited_by="Python's interpreter lock in the worker: its two threads share one core. The transport's thread takes "
    "two thirds of it, since it also builds and signs the requests",
)
