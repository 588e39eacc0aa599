"""A worker's heartbeat: a row that tells web processes that it is there, and what it holds back."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from ..dialects import limit_statements
from ..records.workers import HEARTBEAT_S, Heartbeat, beat
from ..state import State
from ..version import VERSION
from .dispatcher import Dispatcher

LOOK_S = 1.0
"""How often it looks for what has changed."""
CHANGED_S = 2.0
"""The shortest time between two heartbeats: the second one because a breaker has opened or closed, or RQ was suspended
or resumed."""
STATEMENT_S = 0.5
"""How long a statement may take on PostgreSQL: a host's migration may have locked the table."""
STOP_S = 1.0


@contextmanager
def heart_beating(app: Flask, state: State, dispatcher: Dispatcher) -> Iterator[None]:
    """Write the worker's row while the block runs, on a thread of its own, so that nothing waits for it.

    If the row cannot be written, the next heartbeat tries again. That says nothing about the worker, so it is no error.
    """
    stopped = threading.Event()
    host = socket.gethostname()[:200]
    name = f"{host}.{os.getpid()}.{uuid.uuid4().hex[:8]}"

    def told() -> Heartbeat:
        return Heartbeat(
            name,
            host,
            VERSION,
            stopped=stopped.is_set(),
            suspended=state.suspension.ongoing,
            in_flight=dispatcher.in_flight,
            open_breakers=dispatcher.open_breakers(),
        )

    def run() -> None:
        written, written_at = None, -inf
        while not (written and written.stopped):
            now = told()
            changed = written is None or (written.suspended, written.stopped, written.open_breakers) != (
                now.suspended,
                now.stopped,
                now.open_breakers,
            )
            if now.stopped or monotonic() >= written_at + (CHANGED_S if changed else HEARTBEAT_S):
                with suppress(SQLAlchemyError), app.app_context(), state.writing() as session:
                    limit_statements(session, STATEMENT_S)
                    beat(session, now)
                written, written_at = now, monotonic()
            stopped.wait(LOOK_S)

    thread = threading.Thread(target=run, name="hubhooks-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(STOP_S)
