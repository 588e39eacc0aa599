"""Outages of the database and of Redis, each logged once when it begins and once when it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

logger = logging.getLogger(__name__)

Faults = tuple[type[Exception], ...]
REDIS_FAULTS: Faults = (RedisError, OSError)
DATABASE_FAULTS: Faults = (SQLAlchemyError,)


class Outage:
    """Knows whether a server is down, as last seen by any thread of this process."""

    def __init__(self, server: str, faults: Faults) -> None:
        self.server = server
        self.faults = faults
        self._began: float | None = None
        self._lock = threading.Lock()

    @property
    def ongoing(self) -> bool:
        return self._began is not None

    def noticed(self, fault: BaseException) -> None:
        """Log that the server is down, unless that is known."""
        with self._lock:
            known, self._began = self.ongoing, self._began or monotonic()
        if not known:
            logger.warning("%s cannot be used (%s), waiting until it can", self.server, in_one_line(fault))

    def over(self) -> None:
        """Log that the server is back, if it was down."""
        with self._lock:
            began, self._began = self._began, None
        if began is not None:
            logger.warning("%s can be used again, after %.0f s", self.server, monotonic() - began)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note whether the block could use the server. The server's faults end the block but are not raised."""
        try:
            yield
        except self.faults as fault:
            self.noticed(fault)
        else:
            self.over()


def in_one_line(fault: BaseException) -> str:
    """Return the first line of the driver's message, without the statement and its parameters."""
    lines = str(getattr(fault, "orig", None) or fault).strip().splitlines()
    return lines[0] if lines else type(fault).__name__


_HINTS = (
    (
        "database is locked",
        "Another transaction holds the write lock of the SQLite file, most likely the caller's own. Commit before you "
        "send the signal, or use HubHooks(db, join_session=True).",
    ),
    (
        "no further SQL can be emitted",
        "db.session takes no statements while it commits, as in SQLAlchemy's after_commit and Flask-SQLAlchemy's "
        "models_committed. Send the signal before your commit, or use HubHooks(db) without join_session.",
    ),
    (
        "closed transaction inside context manager",
        "The repository_loader ended the transaction of db.session. It must not commit, roll it back or close it; or "
        "use HubHooks(db) without join_session.",
    ),
    (
        "hubhooks_push_pkey",
        "The sequence of hubhooks_push.id lags behind its rows, as after a restore. Run "
        "SELECT setval(pg_get_serial_sequence('hubhooks_push', 'id'), (SELECT max(id) FROM hubhooks_push)).",
    ),
)


def explained(fault: BaseException) -> str:
    """Return what went wrong in one line and, for faults that a host can fix, what to do about it."""
    text = in_one_line(fault)
    hint = next((hint for part, hint in _HINTS if part in str(fault)), "")
    return f"{text.rstrip('.')}. {hint}" if hint else text
