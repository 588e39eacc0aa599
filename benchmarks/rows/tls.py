"""One worker over https with connections kept alive, compared with a loop that only POSTs over https."""

from __future__ import annotations

from ..contestants import bare_loop, engine, race
from ..row import Figure, Goal, Row, Run, ratios


def measure(run: Run) -> list[Figure]:
    due, bench = run.size(10_000, 1_500), run.bench
    with (
        engine(bench, due, bench.tls_url("/tls"), HUBHOOKS_CA_BUNDLE=bench.authority) as ours,
        bare_loop(bench, due, bench.tls_url("/bare")) as bare,
    ):
        rates = race(run, "tls", {"https": ours, "bare loop": bare})
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        Figure("over bare loop", ratios(rates["https"], rates["bare loop"])),
    ]


ROW = Row(
    "tls",
    "deliveries/s of one worker with https and connections kept alive, over the loop of `throughput` with https",
    measure,
    (Goal("over bare loop", 2.5, 3.5),),
    limited_by="the interpreter lock; TLS adds 6 % to a worker's processor time",
)
