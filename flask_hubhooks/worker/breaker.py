"""Circuit breakers: after several failures in a row nothing is sent for a while, and then one probe at a time.

Each hook has a breaker that counts the failures of its own path, and each host one that counts what fails for all hooks
of the host: resolving its name, connecting, TLS. Waiting is cheap, so breakers do not protect the worker. They save the
attempts of deliveries during a long outage, and spare receivers that are coming back.
"""

from __future__ import annotations

import logging
import random
from math import inf
from time import monotonic

logger = logging.getLogger(__name__)

FAILURES = 3
"""Failures in a row that open a breaker."""
OPEN_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""How long a breaker stays open: the first time, and after each failed probe. The last one repeats, so a receiver that
is back is noticed within about a minute."""
FORGET_S = 3600.0
"""Older failures are forgotten; otherwise every hook and host that ever failed would be remembered for the lifetime of
the process."""
JITTER = 0.2
"""Spreads the probes of breakers that opened together."""


class Breaker:
    """Closed until `FAILURES` in a row, then open for a while, then half-open until a probe succeeds or fails.

    While it is half-open, its owner sends one request at a time. Not thread-safe: use it under the owner's lock.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._openings = 0  # since it was closed
        self.open_until = -inf
        """When it was or will be half-open, in `monotonic` seconds, if it is tripped."""
        self._failed_at = -inf
        self._probing = False

    @property
    def open_for_s(self) -> float:
        """The seconds for which nothing is sent; 0 if it is closed or half-open."""
        return max(0.0, self.open_until - monotonic()) if self._openings else 0.0

    @property
    def tripped(self) -> bool:
        """Whether it is open or half-open."""
        return self._openings > 0

    @property
    def untroubled(self) -> bool:
        """Whether there are no failures, or only old ones."""
        return self._failures == 0 or monotonic() > self._failed_at + FORGET_S

    def before_sending(self) -> None:
        """Note that a request is about to be sent; the first one after the breaker was open is a probe."""
        if self._openings and not self._probing:
            self._probing = True
            logger.info("%s is probed with one delivery (breaker half-open)", self._name)

    def succeeded(self) -> None:
        """Close the breaker."""
        if self._openings:
            logger.warning("%s answers again (breaker closed)", self._name)
        self._failures = self._openings = 0
        self.open_until = -inf
        self._probing = False

    def failed(self) -> None:
        """Count a failure, unless its request was sent before the breaker opened."""
        if self.open_for_s:
            return
        if self.untroubled:
            self._failures = self._openings = 0
        self._failures += 1
        self._failed_at = monotonic()
        if self._failures >= FAILURES:
            self._open()

    def _open(self) -> None:
        seconds = OPEN_S[min(self._openings, len(OPEN_S) - 1)] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # nosec B311
        self._openings += 1
        self.open_until = monotonic() + seconds
        self._probing = False
        logger.warning(
            "%s has failed %d times in a row: its deliveries wait %.0f s (breaker open)",
            self._name,
            self._failures,
            seconds,
        )
