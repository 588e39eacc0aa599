"""For a host's own pytest tests: delivers webhooks in the test's thread, without Redis, to receivers in the test.

With `pytest_plugins = ["flask_hubhooks.testing"]` in `conftest.py`, tests have the fixture `hubhooks`, which is the
`Deliveries` of the app in the fixture `app`:

    ci = hubhooks.receiver("https://ci.example.com/hook")
    ...                                 # create a webhook for ci.url, and push an image
    hubhooks.deliver_now()
    assert ci.payloads[0]["push_data"]["tag"] == "latest"

pytest is not a dependency of the package. Import this module in tests only.
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
from .records.models import Delivery
from .state import current_state
from .transport import MAX_STORED_BODY, Outcome, Transport
from .worker.dispatcher import Dispatcher, guarded_transport
from .worker.limits import Limits

__all__ = ["Answer", "Deliveries", "Receiver", "Request", "hubhooks"]

TOLERANCE_S = 300.0
"""How far the time of a signature may be from now; the libraries of Standard Webhooks allow the same."""


@pytest.fixture
def hubhooks(app: Flask) -> Iterator[Deliveries]:
    """The webhook deliveries of the fixture `app`. Until the test ends, the app does not use Redis."""
    with Deliveries(app) as deliveries:
        yield deliveries


class Deliveries:
    """Delivers an app's webhooks in the calling thread, and makes receivers for them.

    As a context manager it also keeps pushes and callbacks from waking workers, so that Redis is not needed at all.
    Raises `RuntimeError` if HubHooks is not registered on the app.
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
        """Make a receiver in this process for requests to exactly this URL, whatever its address.

        Requests to other URLs go over the network, subject to the app's `HUBHOOKS_ALLOWED_NETWORKS`. The receiver
        gives its `answers` in turn, and repeats the last one. An answer may be a status; the default is 200. With
        `calls_back` ("success", "failure" or "error") it posts this state to the `callback_url` before each answer.
        """
        self._receivers[url] = Receiver(self._app, url, answers or (200,), calls_back)
        return self._receivers[url]

    def deliver_now(self) -> int:
        """Deliver everything that is due, and what becomes due by that, such as the next hook of a chain.

        Returns the number of requests. Retries stay for later: see `make_due`. Pushes that the test has not committed
        are not delivered. Raises what the app raised when a receiver called back, and SQLAlchemy's `OperationalError`
        if an open transaction of the test has locked an SQLite file.
        """
        before = self._sent
        with self._app.app_context():  # one of its own, as a worker has: the test's `db.session` is left alone
            Dispatcher(self._state, slice_s=inf, transport=self, limits=_NoBreakers(1, 1)).run()
        faults, self._faults = self._faults, []
        if faults:
            raise faults[0]
        return self._sent - before

    def make_due(self) -> None:
        """Make every retry due, so that the next `deliver_now` sends it."""
        retries = update(Delivery).where(Delivery.next_attempt_at.is_not(None), Delivery.lease_token.is_(None))
        with self._app.app_context(), self._state.writing() as session:
            session.execute(retries.values(transitions.retried_now()))

    @cached_property
    def _network(self) -> Transport:
        return guarded_transport(self._state.config, most=1)

    def send(self, request: transport.Request, done: Callable[[Outcome], None]) -> None:
        """Stand in for the transport: the receiver answers at once."""
        self._sent += request.method == "POST"  # others ask the registry for a tag
        if request.url not in self._receivers:
            answered: SimpleQueue[Outcome] = SimpleQueue()
            self._network.send(request, answered.put)
            return done(answered.get())
        try:
            outcome = self._receivers[request.url].answer(request)
        except Exception as fault:
            self._faults.append(fault)  # the dispatcher would only log it
            raise
        return done(outcome)


class _NoBreakers(Limits):
    """Holds back no request, however often a receiver has failed."""

    def _learn(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Answer:
    """A receiver's response."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request as a receiver got it. The names of its headers are case-insensitive."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def payload(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def verify(self, secret: str, tolerance_s: float = TOLERANCE_S) -> None:
        """Check the Standard Webhooks signature, whose time may be up to `tolerance_s` seconds from now.

        `secret` is the webhook's secret, as it was shown. Raises an `AssertionError` that says what is wrong.
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
    """A receiver made by `Deliveries.receiver`. Its `answers` and `calls_back` may be changed at any time."""

    def __init__(self, app: Flask, url: str, answers: Sequence[int | Answer], calls_back: str) -> None:
        self._app = app
        self.url = url
        self.answers = list(answers)
        self.calls_back = calls_back
        self.requests: list[Request] = []
        self.callbacks: list[TestResponse] = []
        """The app's responses to its callbacks."""

    @property
    def payloads(self) -> list[dict[str, Any]]:
        return [request.payload for request in self.requests]

    @property
    def last(self) -> Request:
        """The latest request; raises `AssertionError` if there was none."""
        if not self.requests:
            raise AssertionError(f"no request came to {self.url}")
        return self.requests[-1]

    def verify(self, secret: str, tolerance_s: float = TOLERANCE_S) -> None:
        """Check the latest request's signature, as `Request.verify` does; raises `AssertionError`."""
        self.last.verify(secret, tolerance_s)

    def call_back(self, state: str = "success", **details: str) -> TestResponse:
        """Post to the latest payload's `callback_url`, through the app, and return the app's response.

        `details` are `description`, `context` and `target_url`. Raises `AssertionError` if there was no request, and
        what the app raises in testing mode.
        """
        url = self.last.payload["callback_url"]
        with self._app.app_context():  # as over the network, without the test's own `g` and `db.session`
            answer = self._app.test_client().post(url, json={"state": state, **details})
        self.callbacks.append(answer)
        return answer

    def answer(self, request: transport.Request) -> Outcome:
        """Take a request and return its outcome, as the real transport does."""
        started_at, began = utcnow(), monotonic()
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        own = {"Host": urlsplit(self.url).netloc, "Content-Length": str(len(request.body))}  # as a real transport adds
        headers = CaseInsensitiveDict(own | dict(request.headers))
        self.requests.append(Request(request.method, self.url, headers, request.body))
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
    """Stands in for the Redis client: wake-ups are received, so none is queued, and nothing is counted."""

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
