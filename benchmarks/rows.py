"""The rows of the table: what is measured for each, in rounds in which the contestants take turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from . import history
from .contestants import contestants
from .latency import latencies
from .report import ROUNDS, Figure, Progress, ratios
from .servers import Bench

OURS = "hubhooks"
RIVALS = {"throughput": "bare loop", "vs-rq-simple": "RQ SimpleWorker", "vs-rq-worker": "RQ Worker"}
"""The rows that set our deliveries/s against another's rate, with that other's name."""
LATENCY = "idle-latency"
NAMES = (*RIVALS, LATENCY, history.ROW)
CONNECTIONS = 16


def measured(bench: Bench, wanted: Collection[str], quick: bool, progress: Progress) -> list[Figure]:
    """Measure the wanted rows, and before them the receiver's own ceiling."""
    figures = [_ceiling(bench, progress)]
    rivals = {row: rival for row, rival in RIVALS.items() if row in wanted}
    if rivals:
        figures += _races(bench, rivals, quick, progress)
    if LATENCY in wanted:
        figures += _latency(bench, 40 if quick else 150, progress)
    if history.ROW in wanted:
        figures += history.measured(bench, quick, progress).figures
    return figures


def _ceiling(bench: Bench, progress: Progress) -> Figure:
    values = []
    for _ in range(ROUNDS):
        with bench.child("-m", "benchmarks.load", str(bench.port), str(CONNECTIONS), "1") as load:
            values.append(float(load.ask()))
    progress(f"receiver alone: {max(values):,.0f} requests/s")
    return Figure("receiver", "requests/s", values)


def _races(bench: Bench, rivals: dict[str, str], quick: bool, progress: Progress) -> list[Figure]:
    """Every contestant has one turn in each round; ratios are made within a round."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for round_ in range(1, ROUNDS + 1):
        for name, contestant in contestants(quick).items():
            if name == OURS or name in rivals.values():
                rates[name].append(contestant.rate(bench))
                progress(f"round {round_} of {ROUNDS}: {name} {rates[name][-1]:,.0f}/s")
    figures = []
    for row, rival in rivals.items():
        if row == "throughput":
            figures.append(Figure(row, "deliveries/s", rates[OURS]))
        figures.append(Figure(row, f"{rival}, /s", rates[rival]))
        figures.append(Figure(row, f"over {rival}", ratios(rates[OURS], rates[rival])))
    return figures


def _latency(bench: Bench, count: int, progress: Progress) -> list[Figure]:
    ours, theirs = [], []
    for round_ in range(1, ROUNDS + 1):
        times = latencies(bench, count)
        ours.append(times["/timed/hubhooks"])
        theirs.append(times["/timed/simple"])
        progress(
            f"round {round_} of {ROUNDS}: latency p50 {ours[-1][0]:.1f} ms, p99 {ours[-1][1]:.1f} ms; "
            f"a bare job's {theirs[-1][0]:.1f} ms, {theirs[-1][1]:.1f} ms"
        )
    figures = []
    for index, percentile in enumerate(("p50", "p99")):
        mine, others = [each[index] for each in ours], [each[index] for each in theirs]
        figures += [
            Figure(LATENCY, f"{percentile} ms", mine),
            Figure(LATENCY, f"bare job {percentile} ms", others),
            Figure(LATENCY, f"{percentile} over bare job", ratios(mine, others)),
        ]
    return figures
