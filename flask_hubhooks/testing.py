"""For a host's own pytest tests: webhooks are delivered in the test's thread, without Redis, to receivers in it.

With `pytest_plugins = ["flask_hubhooks.testing"]` in its `conftest.py` a test has the fixture `hubhooks`, which is a
`Deliveries` of the app that the fixture `app` gives:

    ci = hubhooks.receiver("https://ci.example.com/hook")
    ...                                 # a webhook is made for ci.url, and an image is pushed
    hubhooks.deliver_now()
    assert ci.payloads[0]["push_data"]["tag"] == "latest"

pytest is no dependency of the package: import this module in tests only.
PYTEST_DONT_REWRITE (nothing here asserts, and a conftest may have imported it before pytest would rewrite it).
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from math import inf
from queue import SimpleQueue
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from requests.structures import CaseInsensitiveDict
from sqlalchemy import update
from werkzeug.test import TestResponse

from . import transport
from .crypto.signing import signature_headers
from .dialects import utcnow
from .records import transitions
from .records.models import Delivery, Status
from .state import current_state
from .transport import MAX_STORED_BODY, Outcome, Transport
from .worker.dispatcher import Dispatcher, guarded_transport
from .worker.limits import Limits

__all__ = ["Answer", "Deliveries", "Receiver", "Request", "hubhooks"]

TOLERANCE_S = 300.0
"""How far a signature's time may be from now, as Standard Webhooks' own libraries have it."""


@pytest.fixture
def hubhooks(app: Flask) -> Iterator[Deliveries]:
    """The webhook deliveries of the fixture `app`; until the test ends the app does not touch Redis."""
    with Deliveries(app) as deliveries:
        yield deliveries


class Deliveries:
    """Delivers an app's webhooks in the calling thread, and makes receivers for them.

    As a context manager it also keeps pushes and callbacks from waking workers: then Redis is not needed at all.
    Raises `RuntimeError` where HubHooks is not registered on the app.
    """

    def __init__(self, app: Flask) -> None:
        with app.app_context():
            self._state = current_state()
        self._app = app
        self._receivers: dict[str, Receiver] = {}
        self._patches = pytest.MonkeyPatch()
        self._sent = 0
        self._faults: list[Exception] = []

    def __enter__(self) -> Deliveries:
        self._patches.setitem(vars(self._state), "redis", _AlwaysListening())
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.undo()
        if "_network" in vars(self):  # it was used
            self._network.close()

    def receiver(self, url: str, *answers: int | Answer, calls_back: str = "") -> Receiver:
        """A receiver in this process for what is sent to exactly this URL, whatever its address.

        Other URLs are reached over the network, under the app's `HUBHOOKS_ALLOWED_NETWORKS`. `answers` are given in
        turn, the last one for ever; a status alone will do, and 200 is the default. With `calls_back`, which is
        "success", "failure" or "error", it posts this to the `callback_url` each time before it answers.
        """
        self._receivers[url] = Receiver(self._app, url, answers or (200,), calls_back)
        return self._receivers[url]

    def deliver_now(self) -> int:
        """Deliver what is due, and what becomes due by that, such as the next hook of a chain.

        Returns how many requests were sent. What is to be tried again later stays: see `make_due`. A push that the
        test has not committed is not seen. Raises what the app raised when a receiver called back, and SQLAlchemy's
        `OperationalError` where the test's own open transaction has locked an SQLite file.
        """
        before = self._sent
        with self._app.app_context():  # one of its own, as a worker has: the test's `db.session` is left alone
            Dispatcher(self._state, slice_s=inf, transport=self, limits=_NoBreakers(1, 1)).run()
        faults, self._faults = self._faults, []
        if faults:
            raise faults[0]
        return self._sent - before

    def make_due(self) -> None:
        """Let the time of every retry come: the next `deliver_now` sends it."""
        retries = update(Delivery).where(Delivery.status == Status.PENDING, Delivery.lease_token.is_(None))
        with self._app.app_context(), self._state.writing() as session:
            session.execute(retries.values(transitions.retried_now()))

    @cached_property
    def _network(self) -> Transport:
        return guarded_transport(self._state.config, most=1)

    def send(self, request: transport.Request, done: Callable[[Outcome], None]) -> None:
        """Take the place of the transport: have the receiver answer at once."""
        self._sent += 1
        if request.url not in self._receivers:
            answered: SimpleQueue[Outcome] = SimpleQueue()
            self._network.send(request, answered.put)
            return done(answered.get())
        try:
            outcome = self._receivers[request.url].post(request.body, request.headers)
        except Exception as fault:
            self._faults.append(fault)  # the dispatcher takes it for a fault of ours, and would only log it
            raise
        return done(outcome)


class _NoBreakers(Limits):
    """Holds nothing back, however often a receiver has failed."""

    def _learn(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Answer:
    """What a receiver answers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request as a receiver got it; its headers are found whatever the case of their names."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def payload(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def verify(self, secret: str, tolerance_s: float = TOLERANCE_S) -> None:
        """Check the Standard Webhooks signature, which may be `tolerance_s` seconds from now.

        `secret` is the webhook's, as it was shown when it was made. Raises `AssertionError` that says what is wrong.
        """
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        message_id, timestamp, signatures = (self.headers.get(name, "") for name in names)
        if not (message_id and timestamp.isdecimal() and signatures):
            raise AssertionError(f"the request to {self.url} is not signed: it lacks one of {', '.join(names)}")
        age_s = time.time() - int(timestamp)
        if abs(age_s) > tolerance_s:
            raise AssertionError(f"the request to {self.url} was signed {age_s:.0f} s ago, not within {tolerance_s:g}")
        expected = signature_headers([secret], message_id, int(timestamp), self.body)["webhook-signature"].encode()
        if not any(hmac.compare_digest(each.encode(), expected) for each in signatures.split()):
            raise AssertionError(f"the request to {self.url} was signed with another secret, or changed since")


class Receiver:
    """A receiver that `Deliveries.receiver` made; its `answers` and `calls_back` may be changed at any time."""

    def __init__(self, app: Flask, url: str, answers: Sequence[int | Answer], calls_back: str) -> None:
        self._app = app
        self.url = url
        self.answers = list(answers)
        self.calls_back = calls_back
        self.requests: list[Request] = []
        self.callbacks: list[TestResponse] = []
        """What was answered to its callbacks."""

    @property
    def payloads(self) -> list[dict[str, Any]]:
        return [request.payload for request in self.requests]

    @property
    def last(self) -> Request:
        """The latest request; raises `AssertionError` where none came."""
        if not self.requests:
            raise AssertionError(f"no request came to {self.url}")
        return self.requests[-1]

    def verify(self, secret: str, tolerance_s: float = TOLERANCE_S) -> None:
        """Check the latest request's signature, as `Request.verify` does; raises `AssertionError`."""
        self.last.verify(secret, tolerance_s)

    def call_back(self, state: str = "success", **details: str) -> TestResponse:
        """Post to the latest payload's `callback_url`, through the app; returns the app's answer.

        `details` are `description`, `context` and `target_url`. Raises `AssertionError` where no request came, and
        what the app raises while it is testing.
        """
        url = self.last.payload["callback_url"]
        with self._app.app_context():  # as over the network: nothing of the test's own `g` and `db.session`
            answer = self._app.test_client().post(url, json={"state": state, **details})
        self.callbacks.append(answer)
        return answer

    def post(self, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Take a request and return what came of it, as the real transport does."""
        started_at, began = utcnow(), monotonic()
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        own = {"Host": urlsplit(self.url).netloc, "Content-Length": str(len(body))}  # which a real transport adds
        self.requests.append(Request("POST", self.url, CaseInsensitiveDict(own | dict(headers)), body))
        if self.calls_back:
            self.call_back(self.calls_back)
        return _outcome(answer if isinstance(answer, Answer) else Answer(answer), started_at, began)


def _outcome(answer: Answer, started_at: datetime, began: float) -> Outcome:
    took_ms = round((monotonic() - began) * 1000)
    return Outcome(
        started_at,
        took_ms,
        answer.status,
        connect_ms=0,
        wait_ms=took_ms,
        response_headers=tuple(answer.headers.items()),
        response_body=answer.body[:MAX_STORED_BODY],
        truncated=len(answer.body) > MAX_STORED_BODY,
    )


class _AlwaysListening:
    """Stands in for the Redis client: a wake-up is heard, so none is queued, and nothing is counted."""

    def publish(self, channel: str, message: str) -> int:
        return 1

    def pipeline(self) -> _AlwaysListening:
        return self

    def incr(self, key: str) -> _AlwaysListening:
        return self

    def expire(self, key: str, seconds: int) -> _AlwaysListening:
        return self

    def execute(self) -> list[int]:
        return [1, 1]
