"""The circuit breaker of a destination: after failures in a row nothing is sent there for a while, then one probe."""

from __future__ import annotations

import logging
import random
from enum import Enum
from math import inf
from time import monotonic

from .transport import Outcome

logger = logging.getLogger(__name__)

FAILURES = 3
"""In a row, before it opens: with as many, the receivers that answered never noticed those that hung (measured)."""
OPEN_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""How long it stays open, first after it was closed, then after each probe that failed; the last is repeated.

A receiver that is back is noticed within about a minute; one that hangs takes a thread for 15 of 75 seconds.
"""
FORGET_S = 3600.0
"""A destination to which nothing was sent for this long since it failed begins anew: else each that ever failed would
be remembered for as long as the process lives."""
JITTER = 0.2
"""Destinations that failed together are not all probed together."""


class Sign(Enum):
    """What an attempt says about its destination."""

    GOOD = "good"
    BUSY = "busy"
    """It answers, but wants less."""
    DOWN = "down"


def sign(outcome: Outcome) -> Sign | None:
    """What came of a POST, for its destination; None where nothing was sent.

    Only what a whole destination fails by counts as down: no answer, or a proxy that says nobody is behind it (502,
    503, 504). Any other answer is a living receiver's: a path that is refused must not hold up its neighbours.
    """
    if outcome.blocked:
        return None
    if outcome.status_code in (None, 502, 503, 504):
        return Sign.DOWN
    return Sign.BUSY if outcome.status_code == 429 or outcome.status_code >= 500 else Sign.GOOD


class Breaker:
    """Closed until `FAILURES` in a row, then open for a while, then half-open until the first answer.

    While it is half-open its owner sends one request at a time. Not thread-safe: it is used under its owner's lock.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._failures = 0
        self._opened = 0
        self._open_until = -inf
        self._failed_at = -inf
        self._probing = False

    @property
    def open_for_s(self) -> float:
        """For how many seconds nothing is sent; 0 where it is closed or half-open."""
        return max(0.0, self._open_until - monotonic())

    @property
    def untroubled(self) -> bool:
        """Whether it knows of no failure, or only of some that were long ago."""
        return self._failures == 0 or monotonic() > self._failed_at + FORGET_S

    def sending(self) -> None:
        """Note that a request is about to be sent; the first one after it was open is a probe."""
        if self._opened and not self._probing:
            self._probing = True
            logger.info("destination %s is probed with one delivery (breaker half-open)", self._destination)

    def answered(self) -> None:
        """Close it."""
        if self._opened:
            logger.warning("destination %s answers again (breaker closed)", self._destination)
        self._failures = self._opened = 0
        self._open_until = -inf
        self._probing = False

    def failed(self) -> None:
        """Count a failure, unless it is of a request that was on the wire before the breaker opened."""
        if self.open_for_s:
            return
        self._failures += 1
        self._failed_at = monotonic()
        if self._failures >= FAILURES:
            self._open()

    def _open(self) -> None:
        seconds = OPEN_S[min(self._opened, len(OPEN_S) - 1)] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # nosec B311
        self._opened += 1
        self._open_until = monotonic() + seconds
        self._probing = False
        logger.warning(
            "destination %s has not answered %d times in a row: its deliveries wait %.0f s (breaker open)",
            self._destination,
            self._failures,
            seconds,
        )
