"""How much the receiver can take: far more than any other row sends, since otherwise it would be the limit."""

from __future__ import annotations

from ..row import Figure, Row, Run
from ..servers import child

CONNECTIONS = 16
SECONDS = 1


def measure(run: Run) -> list[Figure]:
    figures = []
    for metric, port, authority in (
        ("requests/s", run.bench.ports[0], ""),
        ("requests/s over TLS", run.bench.tls_port, run.bench.authority),
    ):
        rates = []
        for _ in run.rounds:
            load = ("-m", "benchmarks.load", str(port), authority, str(CONNECTIONS), str(SECONDS))
            with child(*load) as process:
                rates.append(float(process.ask()))
        run.progress(f"receiver alone: {max(rates):,.0f} {metric}")
        figures.append(Figure(metric, rates))
    return figures


ROW = Row(
    "receiver",
    "requests/s that the receiver answers on 16 raw connections",
    measure,
    limited_by="Python's event loop in one process",
)
