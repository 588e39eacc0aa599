"""A worker's heartbeat: a row that shows web processes that it runs, and which receivers it does not call now."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from dataclasses import replace
from math import inf
from time import monotonic

from sqlalchemy.exc import SQLAlchemyError

from ..dialects import DATABASE_AWAY, limit_statements
from ..outages import in_one_line
from ..records import workers
from ..records.workers import HEARTBEAT_S
from ..state import State
from ..version import VERSION
from .dispatcher import Dispatcher

logger = logging.getLogger(__name__)

CHANGED_S = 2.0
"""The shortest time between two heartbeats, if a breaker has opened or closed, if RQ was suspended or resumed, if Redis
has gone or come back, or if the first could not be written."""
FORGET_S = 60.0
"""How often it deletes the rows of workers that are gone."""
STATEMENT_S = 0.5
"""How long a statement may take on PostgreSQL: a host's migration may have locked the table."""


class Heart:
    """Writes the row of this worker. Not thread-safe; call it in an app context."""

    def __init__(self, state: State, dispatcher: Dispatcher) -> None:
        self._state = state
        self._dispatcher = dispatcher
        self._host = socket.gethostname()[:200]
        self._name = f"{self._host}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        self._written: workers.Heartbeat | None = None
        self._written_at = self._forgot_at = -inf
        self._is_refused = False

    def beat(self, *, suspended: bool = False, stopped: bool = False) -> None:
        """Write the row if it is time to, or if the worker has stopped. After an error it is time again soon."""
        now = workers.Heartbeat(
            self._name,
            self._host,
            VERSION,
            stopped=stopped,
            suspended=suspended,
            redis_away=self._state.redis_outage.ongoing,
            in_flight=self._dispatcher.in_flight,
            open_breakers=self._dispatcher.open_breakers(),
        )
        old = self._written
        changed = old is None or replace(old, in_flight=now.in_flight, stopped=stopped) != now
        if not stopped and monotonic() < self._written_at + (CHANGED_S if changed else HEARTBEAT_S):
            return
        self._written, self._written_at = None, monotonic()
        try:
            with self._state.writing() as session:
                limit_statements(session, STATEMENT_S)
                workers.write(session, now)
                if monotonic() >= self._forgot_at + FORGET_S:
                    self._forgot_at = monotonic()
                    workers.forget_others(session, self._name)
            self._written = now
        except DATABASE_AWAY:  # the worker's beat notices an outage and logs it
            pass
        except SQLAlchemyError as fault:
            if not self._is_refused:
                self._is_refused = True
                logger.error("no heartbeat can be written, so users see no worker: %s", in_one_line(fault))
