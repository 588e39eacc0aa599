"""Waiting for what must come to pass, and no longer than until somebody stops the demo."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

INTERVAL_S = 0.02

Found = TypeVar("Found")


class Failed(Exception):
    """Something that must be seen was not."""


class Stopped(Exception):
    """Ctrl-C was pressed, or the process was told to end."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignal:
    """Remembers that the demo is to stop.

    The handler only takes a note, and `check` raises: so a signal never strikes between the start of a process
    and the note of whom to end later.
    """

    def __init__(self) -> None:
        self._number = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._take_note)

    def check(self) -> None:
        """Raise `Stopped` once a signal came."""
        if self._number:
            raise Stopped(self._number)

    def _take_note(self, number: int, _frame: FrameType | None) -> None:
        self._number = self._number or number


def until(what: str, look: Callable[[], Found | None], check: Callable[[], None], limit_s: float) -> Found:
    """Return what `look` finds, as soon as it finds something.

    `check` is called each time before it looks, and raises where waiting has become pointless. Raises `Failed` after
    `limit_s` seconds, with `what` there was to be seen.
    """
    deadline = time.monotonic() + limit_s
    while True:
        check()
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"not seen within {limit_s:g} s: {what}")
        time.sleep(INTERVAL_S)
