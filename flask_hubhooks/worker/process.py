"""Our RQ worker: it runs jobs in its own process, and checks every second whether deliveries are due."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic, sleep
from types import FrameType

from flask import Flask
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.exceptions import InvalidJobOperation
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED

from ..dialects import DATABASE_AWAY
from ..records.retention import prune, takes_turn
from ..redis_client import connect
from ..state import State, current_state
from ..wakeups import enqueue_delivery, newest_failed_job, wake, wake_unless_queued
from .claims import anything_due
from .dispatcher import Dispatcher
from .heartbeat import Heart
from .jobs import dispatchers
from .readiness import RETRY_DELAYS_S, CannotWork, await_redis, await_servers

logger = logging.getLogger(__name__)

BEAT_S = 1.0
LINGER_S = 5.0
"""How long a job listens for more work: a wake-up is faster than a job through RQ's queue."""
HEARTBEAT_BEATS = 30
MINUTE_BEATS = 60
"""How often a worker looks for jobs that others failed to read, and asks whether it is its turn to prune."""
PRUNE_SLICE_S = 0.25
"""How long it prunes after a beat, so that the next beat finds due deliveries in time."""
CONNECT_S = 5.0
RQ_TTL_S = 30
"""RQ waits for a job for 15 s less than this at a time, so a connection that was lost silently is noticed soon."""
GC_THRESHOLDS = (50_000, 10, 10)
"""For `gc.set_threshold`, while the worker delivers."""
STOP_S = 10.0
"""How long stopping may take beyond the longest time-out in flight: results are recorded in spite of a short outage."""

SUSPENDED = "RQ workers are suspended (`rq suspend`): deliveries wait until `rq resume`"
RESUMED = "RQ workers are resumed: deliveries are sent again"


class _Stopped(BaseException):
    """A signal stops the worker. No `Exception`, since libraries log and drop those while they clean up."""


def work(app: Flask, concurrency: int | None, burst: bool, ready: Callable[[], object]) -> None:
    """Deliver until a signal stops the worker or, with `burst`, until nothing is due.

    It calls `ready` once it has what it needs: tables, keys and Redis. The worker waits for servers that are down, and
    continues when they are back. With `burst`, and for errors that waiting does not fix, it raises `CannotWork`
    instead. If a server that hangs keeps it from stopping, the process exits. Call this in the main thread, in an app
    context.
    """
    state = current_state()
    dispatchers[state] = dispatcher = Dispatcher(state, concurrency, slice_s=inf, linger_s=0.0 if burst else LINGER_S)
    with _exit_if_stopping_hangs(dispatcher), suppress(_Stopped):
        _handle_signals(dispatcher)
        await_servers(state, patient=not burst)
        beat = _Beat(app, state, dispatcher, burst=burst)
        try:
            if dispatcher.stopping.is_set():  # a finalizer may drop any exception
                return
            ready()
            with _collecting_garbage_rarely():
                if burst:
                    _deliver_once(state, dispatcher)
                else:
                    _deliver_until_stopped(state, dispatcher, beat)
        finally:
            beat.stop()


def _handle_signals(dispatcher: Dispatcher) -> None:
    """Stop on SIGTERM and SIGINT while no RQ worker is running; a running one has handlers of its own."""

    def stop(signum: int, frame: FrameType | None) -> None:
        dispatcher.stop()
        raise _Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


@contextmanager
def _exit_if_stopping_hangs(dispatcher: Dispatcher) -> Iterator[None]:
    """Exit the process if the block takes too long after the dispatcher was stopped.

    That is `STOP_S` beyond the longest time-out of the requests that are then in flight.

    A signal does not interrupt a call to a server that hangs. Leases bring back the deliveries in flight.
    """
    ended = threading.Event()

    def watch() -> None:
        dispatcher.stopping.wait()
        stopped_at, limit_s, left_s = monotonic(), STOP_S, STOP_S
        while left_s > 0:
            # Looked up again and again, since another thread may just be sending a request.
            limit_s = max(limit_s, dispatcher.longest_timeout_s + STOP_S)
            left_s = stopped_at + limit_s - monotonic()
            if ended.wait(min(BEAT_S, max(0.0, left_s))):
                return
        logger.error("a server has not answered for %.0f s, exiting without it", limit_s)
        os._exit(1)

    threading.Thread(target=watch, name="hubhooks-stop", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _collecting_garbage_rarely() -> Iterator[None]:
    """Keep Python's garbage collector from taking a fifth of a busy worker's time.

    By default it looks at everything that was imported, and at thousands of claims, again and again. If the host has
    frozen objects or turned automatic collection off, its settings stay.
    """
    usual = gc.get_threshold()
    if gc.get_freeze_count() or not usual[0]:
        yield
        return
    try:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


def _deliver_once(state: State, dispatcher: Dispatcher) -> None:
    with state.redis_outage.watched():
        if state.redis.exists(WORKERS_SUSPENDED):
            raise CannotWork("RQ workers are suspended, so nothing was delivered. Resume them with `rq resume`.")
        enqueue_delivery(state)
        _DeliveryWorker(state, dispatcher).work(burst=True, logging_level="WARNING")
    for outage in (state.database_outage, state.redis_outage):
        if outage.ongoing:
            raise CannotWork(f"Not everything was delivered, because {outage.server} went down.")


def _deliver_until_stopped(state: State, dispatcher: Dispatcher, beat: _Beat) -> None:
    """Run RQ workers one after the other: a worker ends if Redis is down at the end of a job."""
    while True:
        try:
            beat.worker = _DeliveryWorker(state, dispatcher)
            beat.worker.work(logging_level="WARNING")
        except state.redis_outage.faults as fault:
            state.redis_outage.noticed(fault)
        _handle_signals(dispatcher)  # before the next line, so that no signal goes unnoticed
        if dispatcher.stopping.is_set():
            return
        sleep(RETRY_DELAYS_S[0])
        await_redis(state)


class _DeliveryWorker(SimpleWorker):
    """An RQ worker that delivers in its own process until the dispatcher has stopped.

    It overrides those parts of RQ 3 for which RQ has no setting; each override says why.
    """

    max_connection_wait_time = 2.0  # RQ's 60 s between its tries to reach Redis would delay due deliveries

    def __init__(self, state: State, dispatcher: Dispatcher) -> None:
        super().__init__(
            [state.config.queue],
            # A client of its own: RQ lengthens the time-outs, while those for wake-ups must stay short.
            connection=connect(state.config, connect_timeout_s=CONNECT_S, timeout_s=None),
            serializer=JSONSerializer,
            worker_ttl=RQ_TTL_S,
        )
        self.log = _Log(state)  # RQ always logs to "rq.worker", and an outage of Redis once for each try
        self._short_connection = state.redis
        self._dispatcher = dispatcher

    def handle_warm_shutdown_request(self) -> None:
        """Tell the dispatcher to stop: RQ only stops after the job, and ours lasts as long as there is work."""
        self._dispatcher.stop()

    def set_shutdown_requested_date(self) -> None:
        """Do not write to Redis, as RQ does: in a signal handler, an error would interrupt the recording of results."""

    def subscribe(self) -> None:
        """Do not listen for RQ's commands: the listening thread would die with a traceback when Redis goes down."""

    def teardown(self) -> None:
        """Unregister with short time-outs: RQ's own connection would wait for a Redis that hangs."""
        self.connection = self._short_connection
        super().teardown()

    def keep_job_alive(self) -> None:
        """Refresh the job, or RQ takes it for abandoned: its `SimpleWorker` sends no heartbeat during a job."""
        for execution in list(self.executions.values()):
            self.maintain_heartbeats(execution.job, execution)


class _Log(logging.Logger):
    """RQ's log from warnings on, as part of ours, but without outages, which `Outage` logs once.

    Also without the error that a job has vanished while it ran because Redis was emptied. That does no harm, since due
    deliveries are in the database.
    """

    def __init__(self, state: State) -> None:
        super().__init__(logger.name, logging.WARNING)
        self.parent = logger
        self._outages = {state.redis_outage: (RedisError, ConnectionError), state.database_outage: DATABASE_AWAY}

    def handle(self, record: logging.LogRecord) -> None:
        fault = sys.exc_info()[1]  # RQ logs an exception where it catches it
        for outage, faults in self._outages.items():
            if isinstance(fault, faults):
                return outage.noticed(fault)
        if not isinstance(fault, InvalidJobOperation):
            super().handle(record)


class _Beat:
    """Checks every second, on its own thread, which servers are up, and whether due deliveries are left unsent.

    It also writes the worker's heartbeat; with `burst` nothing else. It takes one connection at a time, for which the
    pool has room beside the main thread's.
    """

    worker: _DeliveryWorker | None = None
    """The one that is running."""

    def __init__(self, app: Flask, state: State, dispatcher: Dispatcher, *, burst: bool) -> None:
        self._app = app
        self._state = state
        self._dispatcher = dispatcher
        self._heart = Heart(state, dispatcher)
        self._burst = burst
        self._pruning: Iterator[int] | None = None
        self._failed_job = ""
        self._suspended = False
        self._stopped = threading.Event()
        self._heart.beat()  # before the worker says that it is ready
        self._thread = threading.Thread(target=self._run, name="hubhooks-beat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, without waiting for a server that hangs: the thread is a daemon."""
        self._stopped.set()
        self._thread.join(BEAT_S)

    def _run(self) -> None:
        beats = 0
        while not self._stopped.wait(BEAT_S):
            try:
                with self._app.app_context():
                    if not self._burst:
                        self._beat(beats)
                    if not self._state.database_outage.ongoing:
                        self._heart.beat(suspended=self._suspended)
            except Exception:
                logger.exception("the beat is skipped")
            beats += 1
        with self._app.app_context():
            self._heart.beat(stopped=True)

    def _beat(self, beats: int) -> None:
        state, worker, due = self._state, self.worker, False
        if state.database_outage.ongoing:
            state.engine.dispose()  # each old connection would look like another outage
        with state.database_outage.watched(), state.reading() as session:
            due = anything_due(session)
        with state.redis_outage.watched():
            suspended = bool(state.redis.exists(WORKERS_SUSPENDED))
            if suspended != self._suspended:
                self._suspended = suspended
                logger.warning(SUSPENDED if suspended else RESUMED)
            if suspended:
                self._dispatcher.end_run()  # RQ waits for the end of the job, which lasts as long as there is work
            if due:
                wake(state)
                # All workers are busy, or a job was lost: Redis is not trusted to keep jobs and keys.
                if not (worker and worker.executions):
                    wake_unless_queued(state)
            if beats % HEARTBEAT_BEATS == 0 and worker:
                worker.keep_job_alive()
            if beats % MINUTE_BEATS == 0:
                self._look_at_failed_jobs()
                if state.config.retention_days and takes_turn(state):
                    self._pruning = prune(state)
        if self._pruning and not state.database_outage.ongoing:  # it does not ask the database again after a fault
            with state.database_outage.watched():
                self._prune(self._pruning)

    def _look_at_failed_jobs(self) -> None:
        """Say why a plain `rq worker` fails: it cannot read a job, before any code of ours runs."""
        failed = newest_failed_job(self._state)
        if failed is None or failed.id == self._failed_job:
            return
        self._failed_job = failed.id
        result = failed.latest_result()
        if result and "UnpicklingError" in (result.exc_string or ""):
            logger.error(
                "an RQ worker could not read a job of the queue %s at %s: start it with `rq worker --serializer json`",
                self._state.config.queue,
                result.created_at.isoformat(timespec="seconds"),
            )

    def _prune(self, batches: Iterator[int]) -> None:
        """Prune for a moment. If the worker stops or the database goes down, the rest is left for another day."""
        ends = monotonic() + PRUNE_SLICE_S
        while monotonic() < ends and not self._stopped.is_set():
            if next(batches, None) is None:
                self._pruning = None
                return
