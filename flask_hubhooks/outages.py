"""Servers that go away and come back: the log tells each once."""

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
    """Whether a server is away, as far as this process knows: any of its threads may have noticed, or seen it again."""

    def __init__(self, server: str, faults: Faults) -> None:
        self.server = server
        self.faults = faults
        self._began: float | None = None
        self._lock = threading.Lock()

    @property
    def lasts(self) -> bool:
        return self._began is not None

    def noticed(self, fault: BaseException) -> None:
        """Log that the server is away, unless that is known."""
        with self._lock:
            known, self._began = self.lasts, self._began or monotonic()
        if not known:
            logger.warning("%s cannot be used (%s): waiting until it can", self.server, in_one_line(fault))

    def over(self) -> None:
        """Log that the server is back, if it was away."""
        with self._lock:
            began, self._began = self._began, None
        if began is not None:
            logger.warning("%s can be used again, after %.0f s", self.server, monotonic() - began)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note whether the block could use the server; its faults end the block, and are not raised."""
        try:
            yield
        except self.faults as fault:
            self.noticed(fault)
        else:
            self.over()


def in_one_line(fault: BaseException) -> str:
    """What the driver says of it: neither the statement nor its parameters, nor hints on further lines."""
    said = str(getattr(fault, "orig", None) or fault).strip().splitlines()
    return said[0] if said else type(fault).__name__
