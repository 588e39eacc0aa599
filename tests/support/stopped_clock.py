"""Clocks that stand still until they are set: the database's, and the one of the processes that use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any
from unittest.mock import Mock, patch

from sqlalchemy import Engine, event

from flask_hubhooks import dialects as database

BEGINNING = datetime(2030, 1, 1, tzinfo=timezone.utc)
_DATABASES_CLOCK = re.compile(r"statement_timestamp\(\)|'now'")


@dataclass
class StoppedClock:
    """Seconds since `BEGINNING`: `now_s` is what the database's clock says, the processes' is `skew_s` ahead."""

    now_s: float = 0.0
    skew_s: float = 0.0

    def at_database(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.now_s)

    def at_process(self) -> datetime:
        return self.at_database() + timedelta(seconds=self.skew_s)

    def told_to(self, statement: str, dialect: str) -> str:
        """The statement with the time instead of the database's own clock."""
        literal = f"'{self.at_database():%Y-%m-%d %H:%M:%S.%f}'"
        clock = literal if dialect == "sqlite" else f"timestamptz {literal[:-1]}+00'"
        return _DATABASES_CLOCK.sub(clock, statement)


def seconds(moment: datetime | None) -> float | None:
    """When that is, in seconds since `BEGINNING`, to the microsecond."""
    return None if moment is None else round((moment - BEGINNING).total_seconds(), 6)


@contextmanager
def stopped_clock(engine: Engine) -> Iterator[StoppedClock]:
    """Have all that uses `engine`, and the package in this process, read this clock."""
    clock = StoppedClock()

    def tell(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return clock.told_to(statement, connection.dialect.name), parameters

    numbers = count(1)  # ids in the order in which rows are made, though no time passes
    system = Mock(urandom=lambda size: next(numbers).to_bytes(size, "big"))
    processes = Mock(time_ns=lambda: int(clock.at_process().timestamp() * 1e9), now=lambda _: clock.at_process())
    event.listen(engine, "before_cursor_execute", tell, retval=True)
    with patch.multiple(database, datetime=processes, time=processes, os=system):
        yield clock
    event.remove(engine, "before_cursor_execute", tell)
