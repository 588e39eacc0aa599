"""How often an owner may have something sent: what a repository asks for must not become a scanner or a flood."""

from __future__ import annotations

import hashlib
import time

from flask import request
from redis.exceptions import RedisError

from ..state import State
from .pipeline import Call
from .problems import Problem

WINDOW_S = 60
COUNTED = "flask_hubhooks.counted"
RETRY = {"Retry-After": "5"}


def count_send(call: Call) -> None:
    """Count a test, a redelivery or a recovery; raises 429 where the repository has asked for too many of late.

    Raises 503 where it cannot be counted: while Redis is away nothing would be sent either.
    """
    if request.environ.get(COUNTED):
        return  # this request is carried out again: see `carried_out`
    if call.counted:
        return
    call.counted = True
    most = call.state.config.max_sends_per_minute
    window, passed_s = divmod(int(time.time()), WINDOW_S)
    try:
        count = _count(call.state, call.repository, window)
    except (RedisError, OSError):
        raise Problem(503, "The registry's Redis cannot be reached now: try again.", headers=RETRY) from None
    request.environ[COUNTED] = True
    if count > most:
        detail = f"This repository has asked for more than {most} tests, redeliveries and recoveries within a minute."
        raise Problem(429, detail, headers={"Retry-After": str(WINDOW_S - passed_s)})


def _count(state: State, repository: str, window: int) -> int:
    name = hashlib.sha256(repository.encode()).hexdigest()[:32]
    key = f"{state.config.queue}:sends:{name}:{window}"
    both = state.redis.pipeline()
    both.incr(key)
    both.expire(key, 2 * WINDOW_S)
    return int(both.execute()[0])
