"""What a row of the table is: what it measures, and what its figures must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .servers import Bench

ROUNDS = 3


@dataclass(frozen=True)
class Figure:
    """One metric, a value for each round."""

    metric: str
    values: Sequence[float]


@dataclass(frozen=True)
class Goal:
    """What a metric must be, and what we aim at; at least that much, unless `at_most`."""

    metric: str
    must: float
    aim: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is as it must be."""
        return value <= self.must if self.at_most else value >= self.must


@dataclass(frozen=True)
class Run:
    """The servers, how much of everything, and where to tell how far it is."""

    bench: Bench
    quick: bool
    progress: Callable[[str], None]

    @property
    def rounds(self) -> range:
        """The rounds, in each of which every contestant has its turn."""
        return range(1, 2 if self.quick else ROUNDS + 1)

    def size(self, full: int, quick: int) -> int:
        """How much of something there is: less in a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    what: str
    measure: Callable[[Run], list[Figure]]
    goals: tuple[Goal, ...] = ()
    limited_by: str = ""
    """What limits it now, as a profile or a plan showed; empty where none was made."""


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """How one compares with the other in each round."""
    return [mine / other for mine, other in zip(ours, others, strict=True)]
