"""A row of the table: what it measures, and the goals of its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .servers import Bench

ROUNDS = 3


@dataclass(frozen=True)
class Figure:
    """One metric and its values, usually one for each round."""

    metric: str
    values: Sequence[float]


@dataclass(frozen=True)
class Goal:
    """What a metric must reach, and what we aim at; these are lower bounds unless `at_most` is set."""

    metric: str
    must: float
    aim: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value <= self.must if self.at_most else value >= self.must


@dataclass(frozen=True)
class Run:
    """The servers of a run, how much it measures, and how it reports progress."""

    bench: Bench
    quick: bool
    progress: Callable[[str], None]

    @property
    def rounds(self) -> range:
        """The numbers of the rounds; each contestant has one turn in each."""
        return range(1, 2 if self.quick else ROUNDS + 1)

    def size(self, full: int, quick: int) -> int:
        """Return the size of something, which is smaller in a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    what: str
    measure: Callable[[Run], list[Figure]]
    goals: tuple[Goal, ...] = ()
    limited_by: str = ""
    """What limits it now, according to a profile or a query plan; empty if we made none."""


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratios of the two, pair by pair."""
    return [mine / other for mine, other in zip(ours, others, strict=True)]
