"""Our RQ worker: it runs jobs in its own process, and looks by itself for what is due."""

from __future__ import annotations

import logging
import threading
import time
from math import inf
from types import FrameType

from flask import Flask
from redis import Redis
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from sqlalchemy.exc import SQLAlchemyError

from ..outbox import enqueue_delivery, wake, wake_unless_queued
from ..state import State, current_state
from .claims import anything_due
from .dispatcher import Dispatcher
from .jobs import dispatchers

logger = logging.getLogger(__name__)

BEAT_S = 1.0
LINGER_S = 5.0
"""How long a job listens for more: hearing of a push is quicker than a way through RQ's queue."""
HEARTBEAT_S = 30.0
RECONNECT_S = (0.5, 1.0, 2.0, 5.0)
"""Waits before the worker is started again after Redis went away; the last is repeated."""


def work(app: Flask, concurrency: int | None = None, burst: bool = False) -> None:
    """Deliver until a signal stops it; with `burst`, until nothing is due.

    It outlives Redis: RQ's worker ends when Redis is away at the end of a job, and is then started anew.
    Call it in the main thread, within an app context.
    """
    state = current_state()
    dispatchers[state] = dispatcher = Dispatcher(state, concurrency, slice_s=inf, linger_s=0.0 if burst else LINGER_S)
    failures = 0
    while not dispatcher.stopping:
        try:
            worker = _DeliveryWorker(state, dispatcher)
            if burst:
                enqueue_delivery(state)
            else:
                worker.start_beat(app)
            try:
                worker.work(burst=burst, logging_level="WARNING")
            finally:
                worker.ended.set()
            if burst or dispatcher.stopping:
                return
            failures = 0
        except StopRequested:
            return
        except (RedisError, OSError) as error:
            logger.warning("Redis cannot be reached (%s)", error)
            if burst:
                raise
        if _wait_stopped(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]):
            return
        failures += 1


def _wait_stopped(seconds_: float) -> bool:
    """Wait; True where the signal handler that RQ's worker has left behind asks us to stop meanwhile."""
    try:
        time.sleep(seconds_)
    except StopRequested:
        return True
    return False


class _DeliveryWorker(SimpleWorker):
    """An RQ worker that tells the dispatcher when it is to stop, and beats."""

    log_result_lifespan = False

    def __init__(self, state: State, dispatcher: Dispatcher) -> None:
        # A client of its own: RQ lengthens its time-outs, while those that wake workers must stay short.
        connection = Redis.from_url(state.config.redis_url)
        super().__init__(
            [state.config.queue], connection=connection, serializer=JSONSerializer, log_job_description=False
        )
        self._hubhooks_state = state
        self._dispatcher = dispatcher
        self.ended = threading.Event()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On the first SIGTERM or SIGINT: what is on the wire is finished and written, nothing more is claimed."""
        self._dispatcher.stop()
        if self.ended.is_set():  # Redis went away, and no other worker has taken this one's place yet
            raise StopRequested
        super().request_stop(signum, frame)

    def set_shutdown_requested_date(self) -> None:
        """Write nothing to Redis: within a signal handler it would break off what is being recorded."""

    def start_beat(self, app: Flask) -> None:
        threading.Thread(target=self._beat, args=(app,), name="hubhooks-beat", daemon=True).start()

    def _beat(self, app: Flask) -> None:
        """Wake for what has come due. It needs no trust in Redis: jobs and keys may have been lost there."""
        beats = 0
        while not self.ended.wait(BEAT_S):
            beats += 1
            try:
                with app.app_context():
                    self._wake_for_what_is_due()
                if beats * BEAT_S % HEARTBEAT_S < BEAT_S:
                    self._keep_job_alive()
            except (SQLAlchemyError, RedisError, OSError) as error:
                logger.warning("the beat is skipped: %s", error)
            except Exception:
                logger.exception("the beat is skipped")

    def _wake_for_what_is_due(self) -> None:
        with self._hubhooks_state.reading() as session:
            due = anything_due(session)
        if due:
            wake(self._hubhooks_state)
        if due and not self.executions:  # the others have too much to do, or a job was lost
            wake_unless_queued(self._hubhooks_state)

    def _keep_job_alive(self) -> None:
        """A job of ours lasts for as long as there is work: keep RQ from taking it for abandoned."""
        for execution in list(self.executions.values()):
            self.maintain_heartbeats(execution.job, execution)
