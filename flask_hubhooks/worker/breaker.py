"""Circuit breakers: after failures in a row nothing is sent for a while, then one probe at a time.

A hook has one, which counts what its own path fails by, and so has a host, which counts what all hooks of the host fail
by: the look-up, the connection, TLS. Waiting is cheap, so neither protects the worker. They save the attempts of
deliveries in a long outage, and spare receivers that are coming back.
"""

from __future__ import annotations

import logging
import random
from math import inf
from time import monotonic

logger = logging.getLogger(__name__)

FAILURES = 3
"""In a row, before it opens."""
OPEN_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""How long it stays open: first after it was closed, then after each probe that failed. The last is repeated, so a
receiver that is back is noticed within about a minute."""
FORGET_S = 3600.0
"""Failures that are older than this are forgotten, or else each hook and host that ever failed would be remembered for
as long as the process lives."""
JITTER = 0.2
"""What failed together is not probed together."""


class Breaker:
    """Closed until `FAILURES` in a row, then open for a while, then half-open until a probe succeeds or fails.

    While it is half-open its owner sends one request at a time. Not thread-safe: it is used under its owner's lock.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._opened = 0
        self._open_until = -inf
        self._failed_at = -inf
        self._probing = False

    @property
    def open_for_s(self) -> float:
        """For how many seconds nothing is sent; 0 where it is closed or half-open."""
        return max(0.0, self._open_until - monotonic()) if self._opened else 0.0

    @property
    def half_open(self) -> bool:
        return self._opened > 0

    @property
    def untroubled(self) -> bool:
        """Whether there were no failures, or only some that are forgotten."""
        return self._failures == 0 or monotonic() > self._failed_at + FORGET_S

    def sending(self) -> None:
        """Note that a request is about to be sent; the first one after it was open is a probe."""
        if self._opened and not self._probing:
            self._probing = True
            logger.info("%s is probed with one delivery (breaker half-open)", self._name)

    def succeeded(self) -> None:
        """Close it."""
        if self._opened:
            logger.warning("%s answers again (breaker closed)", self._name)
        self._failures = self._opened = 0
        self._open_until = -inf
        self._probing = False

    def failed(self) -> None:
        """Count a failure, unless its request was sent before the breaker opened."""
        if self.open_for_s:
            return
        if self.untroubled:
            self._failures = self._opened = 0
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
            "%s has failed %d times in a row: its deliveries wait %.0f s (breaker open)",
            self._name,
            self._failures,
            seconds,
        )
