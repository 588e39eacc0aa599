"""Wakes workers: over a Redis channel that a running worker listens on, or by a job on the RQ queue."""

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
"""A wake whose job was lost is forgotten after this; the worker's beat repairs it within about a second."""
CONFIRMED_S = 1.0
"""How long Redis may take to confirm that a subscription has ended."""


def wake(state: State) -> None:
    """Have a worker look for what is due. Call it after the commit only.

    A worker that is at work hears of it; else one job is queued, for any number of pushes. Redis being away costs
    at most a second and loses nothing: the worker's beat finds what is due.
    """
    try:
        heard = _publish(state)
        if not heard and state.redis.set(_wake_key(state), 1, nx=True, ex=WAKE_TTL_S):
            enqueue_delivery(state)
    except (RedisError, OSError) as error:
        logger.warning("no worker was woken, Redis cannot be reached (%s): the next beat will", error)
    except Exception:
        logger.exception("no worker was woken: the next beat will")


def _publish(state: State) -> int:
    """How many workers that are at work were woken; none where our Redis user may not do this."""
    try:
        return int(state.redis.publish(wake_channel(state), ""))
    except NoPermissionError as fault:
        channel_is_forbidden(state, fault)
        return 0


_forbidden: WeakSet[State] = WeakSet()


def channel_is_forbidden(state: State, fault: NoPermissionError) -> None:
    """Log once that our Redis user lacks the rights to the channel: then a job wakes a worker, somewhat later."""
    if state not in _forbidden:
        _forbidden.add(state)
        logger.warning(
            "the Redis user may not use the channel %s (%s): workers are woken by jobs alone",
            wake_channel(state),
            fault,
        )


def wake_unless_queued(state: State) -> None:
    """Put a job on the queue where there is none, whatever the wake key says: its job may have been lost.

    Raises what redis-py raises where Redis cannot be reached.
    """
    if _queue(state).count == 0:
        enqueue_delivery(state)


def forget_wake(state: State) -> None:
    """From now on a push wakes a worker again. Raises what redis-py raises where Redis cannot be reached."""
    state.redis.delete(_wake_key(state))


def wake_channel(state: State) -> str:
    """The Redis channel on which workers that are at work listen."""
    return f"{state.config.queue}:wakes"


def _wake_key(state: State) -> str:
    return f"{state.config.queue}:wake"


def _queue(state: State) -> Queue:
    return Queue(state.config.queue, connection=state.redis, serializer=JSONSerializer)


def enqueue_delivery(state: State) -> None:
    """Put a `deliver_due` job on the queue. It has no arguments, no time limit of RQ's, and leaves no result."""
    _queue(state).enqueue_call(DELIVER_DUE, timeout=-1, result_ttl=0, failure_ttl=24 * 3600)


class Listener:
    """A subscription to `outbox.wake`, which queues no job while somebody listens.

    Redis going away ends it, and is no fault: due rows are looked for every second anyway.
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
        """From now on `wait` returns when `wake` is called. Look for due rows after this, not before."""
        try:
            self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
            self._pubsub.subscribe(self._channel)
            self._pubsub.get_message(timeout=CONFIRMED_S)
        except (RedisError, OSError) as error:
            self._lost(error)

    def wait(self, seconds: float) -> bool:
        """Return whether `wake` was called since the last time: when it is, after `seconds` at the latest."""
        heard = False
        if self._pubsub:
            try:
                while self._pubsub.get_message(timeout=seconds):
                    seconds, heard = 0.0, True  # what was called meanwhile is one and the same call
            except (RedisError, OSError) as error:
                self._lost(error)
        return heard

    def stop(self) -> None:
        """Stop listening; when this returns, `wake` queues jobs again. Look for due rows once more after it."""
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
