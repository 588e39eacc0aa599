"""Hearing a wake-up at once, without a job being queued for it."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic

from redis.client import PubSub
from redis.exceptions import NoPermissionError, RedisError

from ..broker import connect
from ..outbox import channel_is_forbidden, wake_channel
from ..state import REDIS_TIMEOUT_S, State

CONFIRMED_S = 1.0
"""How long Redis may take to confirm that a subscription has ended."""


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
