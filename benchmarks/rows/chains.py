"""Chains of three hooks whose receivers post their callbacks immediately, to gunicorn."""

from __future__ import annotations

from ..contestants import Engine, engine, race
from ..row import Figure, Goal, Row, Run, ratios
from ..sites import site
from ..web import listening, web

HOOKS = 3


def measure(run: Run) -> list[Figure]:
    due, bench = run.size(3_000, 150), run.bench
    urls = [bench.url(f"/chain/{position}", position) for position in range(HOOKS)]
    with (
        listening() as (socket, url),
        site(bench, HUBHOOKS_EXTERNAL_URL=url) as own,
        web(own, socket) as gunicorn,
        engine(bench, due * HOOKS, bench.url("/unchained")) as single,
    ):
        own.subscribe(*urls)
        with own.worker() as worker:
            chains = Engine(own, [worker, gunicorn], due)
            rates = race(run, "chains", {"in chains": chains, "without chains": single})
    return [
        Figure("chain requests/s", [rate / HOOKS for rate in rates["in chains"]]),
        *(Figure(f"{name}, deliveries/s", values) for name, values in rates.items()),
        Figure("over without chains", ratios(rates["in chains"], rates["without chains"])),
    ]


ROW = Row(
    "chains",
    "deliveries/s in chains of three whose receivers post callbacks immediately, to gunicorn (2 processes), over the "
    "same without chains",
    measure,
    (Goal("over without chains", 0.0, 0.7),),
    limited_by="the two cores; a callback takes 1.4 ms of processor time in the web process",
)
