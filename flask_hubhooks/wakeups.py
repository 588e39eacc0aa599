"""Wakes workers: over a Redis channel that busy workers listen on, or else by a job on the RQ queue."""

from __future__ import annotations

import logging
from contextlib import suppress
from time import monotonic
from weakref import WeakSet

from redis.client import PubSub
from redis.exceptions import NoPermissionError, RedisError
from rq import Queue
from rq.serializers import JSONSerializer

from .redis_client import connect
from .state import REDIS_TIMEOUT_S, State

logger = logging.getLogger(__name__)

DELIVER_DUE = "flask_hubhooks.worker.jobs.deliver_due"
WAKE_TTL_S = 60
"""A wake-up whose job was lost is forgotten after this; the worker's beat repairs it within about a second."""
CONFIRMED_S = 1.0
"""How long Redis may take to confirm that a subscription has begun or ended."""


def wake(state: State) -> None:
    """Have a worker look for due deliveries. Call it after the commit only.

    If no worker listens, one job is queued, for any number of pushes. If Redis is away, this takes at most a second and
    loses nothing: the worker's beat finds what is due.
    """
    try:
        if not _publish(state) and state.redis.set(_wake_key(state), 1, nx=True, ex=WAKE_TTL_S):
            enqueue_delivery(state)
    except (RedisError, OSError) as error:
        logger.warning("no worker was woken, Redis cannot be reached (%s): the next beat finds what is due", error)
    except Exception:
        logger.exception("no worker was woken: the next beat finds what is due")


def _publish(state: State) -> int:
    """Wake the workers that listen; returns how many, which is none if our Redis user may not use the channel."""
    try:
        return int(state.redis.publish(wake_channel(state), ""))
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


class Listener:
    """A subscription to the channel of `wake`, which queues no job while a worker listens.

    It ends if Redis goes away. That is no error: workers look for due deliveries every second anyway.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._channel = wake_channel(state)
        self._redis = connect(state.config, connect_timeout_s=REDIS_TIMEOUT_S, timeout_s=CONFIRMED_S)
        self._pubsub: PubSub | None = None

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
            self._lost(error)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for a wake-up; returns whether one has come since the last time."""
        heard = False
        if self._pubsub:
            try:
                while self._pubsub.get_message(timeout=seconds):
                    seconds, heard = 0.0, True  # several wake-ups count as one
            except (RedisError, OSError) as error:
                self._lost(error)
        return heard

    def stop(self) -> None:
        """Unsubscribe: from now on `wake` queues jobs. Look for due deliveries once more after this."""
        if not self._pubsub:
            return
        try:
            self._pubsub.unsubscribe()
            deadline = monotonic() + CONFIRMED_S
            while self._pubsub.subscribed and monotonic() < deadline:
                self._pubsub.get_message(timeout=CONFIRMED_S)
        except (RedisError, OSError) as error:
            self._lost(error)
        else:
            self._close()

    def _lost(self, error: Exception) -> None:
        if isinstance(error, NoPermissionError):
            channel_is_forbidden(self._state, error)
        else:
            self._state.redis_outage.noticed(error)
        self._close()

    def _close(self) -> None:
        if self._pubsub:
            with suppress(RedisError, OSError):
                self._pubsub.close()
        self._pubsub = None
