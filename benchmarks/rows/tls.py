"""One worker over https, its connections kept alive, beside a loop that does nothing but POST over https."""

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
    "the same over https with connections kept alive, over the same loop on https",
    measure,
    (Goal("over bare loop", 2.5, 3.5),),
    limited_by="the same lock: TLS adds 6 % to a worker's processor time",
)
