"""Measures how long pushes take until they arrive at the receiver."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import quantiles

from .servers import Bench, Child, Failed, wait_until

LIMIT_S = 120.0


def percentiles(milliseconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99."""
    hundredths = quantiles(milliseconds, n=100, method="inclusive")
    return hundredths[49], hundredths[98]


def taken_ms(bench: Bench, path: str, sent: Mapping[str, float], workers: Collection[Child]) -> list[float]:
    """Wait until all tags have arrived at a path; returns how many milliseconds each took."""
    arrived: dict[str, float] = {}

    def all_there() -> bool:
        arrived.update(bench.arrivals(path))
        return sent.keys() <= arrived.keys()

    wait_until(all_there, list(workers), 0.1, LIMIT_S)
    taken = [(arrived[tag] - at) * 1000 for tag, at in sent.items()]
    if min(taken) < 0:
        raise Failed(f"{path}: something arrived before it was sent")
    return taken
