"""Wakes workers: over a Redis channel that busy workers listen on, or else by a job on the RQ queue."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from weakref import WeakSet

from redis.client import PubSub
from redis.exceptions import NoPermissionError, RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from .redis_client import connect
from .state import REDIS_TIMEOUT_S, State

logger = logging.getLogger(__name__)

DueHook = tuple[int, int]
"""The key of a repository, and the id of a hook that has a delivery due there."""

DELIVER_DUE = "flask_hubhooks.worker.jobs.deliver_due"
WAKE_TTL_S = 60
"""A wake-up whose job was lost is forgotten after this; the worker's beat repairs it within about a second."""
MAX_NAMED = 16
"""How many hooks a wake-up names at most."""
LISTEN_S = 60.0
"""How long the listening thread waits at a stretch."""
CONFIRMED_S = 1.0
"""How long Redis may take to confirm that a subscription has begun or ended."""


def wake(state: State, due: Iterable[DueHook] = ()) -> None:
    """Have a worker look for due deliveries. Call it after the commit only.

    A worker that is idle claims those of the named hooks at once, without looking for whose turn it is. If no worker
    listens, one job is queued, for any number of pushes. If Redis is away, this takes at most a second and loses
    nothing: the worker's beat finds what is due.
    """
    try:
        if not _publish(state, sorted(set(due))) and state.redis.set(_wake_key(state), 1, nx=True, ex=WAKE_TTL_S):
            enqueue_delivery(state)
    except (RedisError, OSError) as error:
        logger.warning("no worker was woken, Redis cannot be reached (%s): the next beat finds what is due", error)
    except Exception:
        logger.exception("no worker was woken: the next beat finds what is due")


def _publish(state: State, due: list[DueHook]) -> int:
    """Wake the workers that listen; returns how many, which is none if our Redis user may not use the channel."""
    try:
        return int(state.redis.publish(wake_channel(state), json.dumps(due) if len(due) <= MAX_NAMED else "[]"))
    except NoPermissionError as fault:
        channel_is_forbidden(state, fault)
        return 0


_forbidden: WeakSet[State] = WeakSet()


def channel_is_forbidden(state: State, fault: NoPermissionError) -> None:
    """Log once that our Redis user may not use the channel. A job wakes a worker instead, somewhat later."""
    if state not in _forbidden:
        _forbidden.add(state)
        logger.warning(
            "the Redis user may not use the channel %s (%s): workers are woken by jobs alone",
            wake_channel(state),
            fault,
        )


def wake_unless_queued(state: State) -> None:
    """Put a job on the queue if there is none, whatever the wake key says: its job may have been lost.

    Raises redis-py's errors if Redis cannot be reached.
    """
    if _queue(state).count == 0:
        enqueue_delivery(state)


def forget_wake(state: State) -> None:
    """Let the next push wake a worker again. Raises redis-py's errors if Redis cannot be reached."""
    state.redis.delete(_wake_key(state))


def wake_channel(state: State) -> str:
    """The Redis channel that busy workers listen on."""
    return f"{state.config.queue}:wakes"


def _wake_key(state: State) -> str:
    return f"{state.config.queue}:wake"


def _queue(state: State) -> Queue:
    return Queue(state.config.queue, connection=state.redis, serializer=JSONSerializer)


def enqueue_delivery(state: State) -> None:
    """Put a `deliver_due` job on the queue, without arguments, time limit and result."""
    _queue(state).enqueue_call(DELIVER_DUE, timeout=-1, result_ttl=0, failure_ttl=24 * 3600)


def newest_failed_job(state: State) -> Job | None:
    """The job of our queue that failed last, if one did within a day. Raises redis-py's errors."""
    queue = _queue(state)
    for job_id in FailedJobRegistry(queue=queue).get_job_ids(-1, -1, cleanup=False):
        with suppress(NoSuchJobError):
            return Job.fetch(job_id, connection=state.redis, serializer=JSONSerializer)
    return None


def _named(message: bytes) -> list[DueHook]:
    """The hooks that a wake-up names; none if another version sent it."""
    try:
        named = [(int(key), int(hook_id)) for key, hook_id in json.loads(message)[:MAX_NAMED]]
    except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError):
        return []
    return [pair for pair in named if all(-(2**63) <= number < 2**63 for number in pair)]


class Listener:
    """Listens on the channel of `wake`, on a thread of its own: `wake` queues no job while a worker listens.

    `on_wake` is called on that thread, with the hooks that the wake-up names. Listening ends if Redis goes away, which
    is no error: workers look for due deliveries every second anyway.
    """

    def __init__(self, state: State, on_wake: Callable[[list[DueHook]], object]) -> None:
        self._state = state
        self._on_wake = on_wake
        self._channel = wake_channel(state)
        self._redis = connect(state.config, connect_timeout_s=REDIS_TIMEOUT_S, timeout_s=CONFIRMED_S)
        self._pubsub: PubSub | None = None
        self._thread = threading.Thread()

    @property
    def listening(self) -> bool:
        return self._pubsub is not None

    def start(self) -> None:
        """Subscribe. Look for due deliveries after this, not before."""
        try:
            self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
            self._pubsub.subscribe(self._channel)
            self._pubsub.get_message(timeout=CONFIRMED_S)
        except (RedisError, OSError) as error:
            return self._lost(error)
        self._thread = threading.Thread(target=self._listen, args=(self._pubsub,), daemon=True, name="hubhooks-wakes")
        try:
            self._thread.start()
        except RuntimeError:  # the machine has no more threads: jobs wake the worker
            self._close()

    def _listen(self, pubsub: PubSub) -> None:
        try:
            while pubsub.subscribed:
                if message := pubsub.get_message(timeout=LISTEN_S):
                    self._on_wake(_named(message["data"]))
        except Exception as error:
            if self._pubsub is pubsub:  # else it was closed by `stop`
                self._lost(error)
                self._on_wake([])  # so that nobody waits for wake-ups any more

    def stop(self) -> None:
        """Unsubscribe: from now on `wake` queues jobs. Look for due deliveries once more after this."""
        if pubsub := self._pubsub:
            with suppress(Exception):  # the thread reads on the same connection, which may break just now
                pubsub.unsubscribe()
                self._thread.join(CONFIRMED_S)
            self._close()

    def _lost(self, error: Exception) -> None:
        if isinstance(error, NoPermissionError):
            channel_is_forbidden(self._state, error)
        else:
            self._state.redis_outage.noticed(error)
        self._close()

    def _close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub:
            with suppress(Exception):
                pubsub.close()
