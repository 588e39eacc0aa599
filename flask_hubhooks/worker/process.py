"""Our RQ worker: it runs jobs in its own process, and looks by itself for what is due."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic, sleep
from types import FrameType
from typing import Any

from flask import Flask
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import InvalidJobOperation, StopRequested
from rq.serializers import JSONSerializer

from ..dialects import DATABASE_AWAY
from ..records.retention import prune, takes_turn
from ..redis_client import connect
from ..state import State, current_state
from ..wakeups import enqueue_delivery, wake, wake_unless_queued
from .claims import anything_due
from .dispatcher import STOP_S, Dispatcher
from .jobs import dispatchers
from .readiness import WAITS_S, CannotWork, await_redis, await_servers

logger = logging.getLogger(__name__)

BEAT_S = 1.0
LINGER_S = 5.0
"""How long a job listens for more: hearing of a push is quicker than a way through RQ's queue."""
HEARTBEAT_BEATS = 30
PRUNE_BEATS = 60
"""How often a worker asks whether it is its turn to prune, which comes once a day."""
PRUNE_SLICE_S = 0.25
"""How long it prunes after a beat: the next is to find what is due in time."""
CONNECT_S = 5.0
RQ_TTL_S = 30
"""RQ waits 15 s less at a stretch for a job: a connection that died without a word is noticed that soon."""


def work(app: Flask, concurrency: int | None = None, burst: bool = False) -> None:
    """Deliver until a signal stops it; with `burst`, until nothing is due.

    It outlives its servers: what they interrupt is taken up when they are back. Raises `CannotWork` where waiting
    would not help, or with `burst` would be needed. Where a server that hangs would keep it from stopping it ends the
    process. Call it in the main thread, within an app context.
    """
    state = current_state()
    dispatchers[state] = dispatcher = Dispatcher(state, concurrency, slice_s=inf, linger_s=0.0 if burst else LINGER_S)

    def stop_waiting(signum: int, frame: FrameType | None) -> None:
        """On a signal before RQ's worker takes over."""
        dispatcher.stop()
        raise StopRequested

    with _stopping_in_time(dispatcher.stopping), suppress(StopRequested):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop_waiting)
        await_servers(state, patient=not burst)
        if burst:
            _deliver_once(state, dispatcher)
        else:
            _deliver_on_and_on(app, state, dispatcher)


@contextmanager
def _stopping_in_time(stopping: threading.Event) -> Iterator[None]:
    """End the process where the block lasts for `STOP_S` after `stopping` was set: a call to a server that hangs is
    not interrupted by a signal. Leases bring back what was on the wire."""
    ended = threading.Event()

    def watch() -> None:
        stopping.wait()
        if not ended.wait(STOP_S):
            logger.error("a server has not answered for %.0f s: stopped without it", STOP_S)
            os._exit(1)

    threading.Thread(target=watch, name="hubhooks-stop", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _deliver_once(state: State, dispatcher: Dispatcher) -> None:
    with state.redis_outage.watched():
        enqueue_delivery(state)
        _DeliveryWorker(state, dispatcher).work(burst=True, logging_level="WARNING")
    for outage in (state.database_outage, state.redis_outage):
        if outage.lasts:
            raise CannotWork(f"{outage.server} went away: not everything was delivered")


def _deliver_on_and_on(app: Flask, state: State, dispatcher: Dispatcher) -> None:
    """RQ's worker ends where Redis is away at the end of a job; another takes its place when Redis is back."""
    beat = _Beat(app, state)
    try:
        while True:
            try:
                beat.worker = _DeliveryWorker(state, dispatcher)
                beat.worker.work(logging_level="WARNING")
            except state.redis_outage.faults as fault:
                state.redis_outage.noticed(fault)
            if dispatcher.stopping.is_set():
                return
            sleep(WAITS_S[0])
            await_redis(state)
    finally:
        beat.stop()


class _Log(logging.Logger):
    """Where RQ's worker says what it has to say from warnings on. That a server is away its outage says, once.

    That a job has vanished while it ran, since Redis was emptied, harms nothing: what is due stands in the database.
    """

    def __init__(self, state: State) -> None:
        super().__init__(logger.name, logging.WARNING)
        self.parent = logger
        self._told = {state.redis_outage: (RedisError, ConnectionError), state.database_outage: DATABASE_AWAY}

    def handle(self, record: logging.LogRecord) -> None:
        fault = sys.exc_info()[1]  # RQ says it where it catches it
        for outage, faults in self._told.items():
            if isinstance(fault, faults):
                return outage.noticed(fault)
        if not isinstance(fault, InvalidJobOperation):
            super().handle(record)


class _DeliveryWorker(SimpleWorker):
    """An RQ worker that tells the dispatcher when it is to stop. RQ's own commands to workers it does not take."""

    log_result_lifespan = False
    max_connection_wait_time = 2.0  # between RQ's own tries to reach Redis; its 60 s would hold up what is due

    def __init__(self, state: State, dispatcher: Dispatcher) -> None:
        # A client of its own: RQ lengthens its time-outs, while those that wake workers must stay short.
        super().__init__(
            [state.config.queue],
            connection=connect(state.config, connect_timeout_s=CONNECT_S, timeout_s=None),
            serializer=JSONSerializer,
            log_job_description=False,
            worker_ttl=RQ_TTL_S,
        )
        self.log = _Log(state)
        self._hubhooks_state = state
        self._dispatcher = dispatcher
        self._ended = False

    def work(self, *args: Any, **kwargs: Any) -> bool:
        try:
            return bool(super().work(*args, **kwargs))
        finally:
            self._ended = True

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On the first SIGTERM or SIGINT: what is on the wire is finished and written, nothing more is claimed."""
        self._dispatcher.stop()
        if self._ended:  # no other worker has taken this one's place yet
            raise StopRequested
        super().request_stop(signum, frame)

    def set_shutdown_requested_date(self) -> None:
        """Write nothing to Redis: within a signal handler it would break off what is being recorded."""

    def subscribe(self) -> None:
        """Have no thread that listens for RQ's commands: it would die, with a traceback, of a Redis that is away."""

    def teardown(self) -> None:
        """Leave RQ's list of workers, if Redis answers soon."""
        self.connection = self._hubhooks_state.redis
        super().teardown()

    def keep_job_alive(self) -> None:
        """A job of ours lasts for as long as there is work: keep RQ from taking it for abandoned."""
        for execution in list(self.executions.values()):
            self.maintain_heartbeats(execution.job, execution)


class _Beat:
    """Every second, on a thread of its own: is a server away or back, is something due that no job stands for?"""

    worker: _DeliveryWorker | None = None
    """The one that is at work."""

    def __init__(self, app: Flask, state: State) -> None:
        self._app = app
        self._state = state
        self._pruning: Iterator[int] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hubhooks-beat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; what hangs in a server is left to the end of the process."""
        self._stopped.set()
        self._thread.join(BEAT_S)

    def _run(self) -> None:
        beats = 0
        while not self._stopped.wait(BEAT_S):
            try:
                with self._app.app_context():
                    self._beat(beats)
            except Exception:
                logger.exception("the beat is skipped")
            beats += 1

    def _beat(self, beats: int) -> None:
        due = False
        if self._state.database_outage.lasts:
            self._state.engine.dispose()  # each of the old connections would look like another outage
        with self._state.database_outage.watched(), self._state.reading() as session:
            due = anything_due(session)
        with self._state.redis_outage.watched():
            self._state.redis.ping()
            if due:
                self._wake()
            if beats % HEARTBEAT_BEATS == 0 and self.worker:
                self.worker.keep_job_alive()
            if beats % PRUNE_BEATS == 0 and self._state.config.retention_days and takes_turn(self._state):
                self._pruning = prune(self._state)
        if self._pruning:
            with self._state.database_outage.watched():
                self._prune(self._pruning)

    def _wake(self) -> None:
        """Wake for what has come due. It needs no trust in Redis: jobs and keys may have been lost there."""
        wake(self._state)
        if not (self.worker and self.worker.executions):  # the others have too much to do, or a job was lost
            wake_unless_queued(self._state)

    def _prune(self, batches: Iterator[int]) -> None:
        """A slice; where the worker stops or the database goes away, the rest is for another day."""
        ends = monotonic() + PRUNE_SLICE_S
        while monotonic() < ends and not self._stopped.is_set():
            if next(batches, None) is None:
                self._pruning = None
                return
