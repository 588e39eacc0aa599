"""Receivers of webhooks, as a user would write them: check the signature, answer, do the work, call back."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any, Literal

import requests

TOLERANCE_S = 300
"""How old a signed message may be, as the libraries of Standard Webhooks have it."""
CALLBACK_LIMIT_S = 10


@dataclass(frozen=True)
class Event:
    """What a receiver did or saw."""

    receiver: str
    kind: Literal["received", "refused", "calls back", "answered"]
    payload: dict[str, Any] = field(default_factory=dict)
    callback: dict[str, str] = field(default_factory=dict)
    answer: str = ""
    time: float = field(default_factory=time.monotonic)


def is_signed(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the request was signed with the webhook's secret, and lately: Standard Webhooks 1.0.

    <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
    """
    sent_at = headers.get("webhook-timestamp", "")
    if not (sent_at.isdecimal() and abs(time.time() - int(sent_at)) <= TOLERANCE_S):
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers.get('webhook-id')}.{sent_at}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(expected, each) for each in given)


class Receiver:
    """A server on a free port of loopback; what happens to it goes into `events`.

    `callback` is what it posts to the payload's `callback_url`; without one it does not call back. `secret` is the
    webhook's: until it is set, every request is refused. `status` is what it answers to requests that are signed.
    """

    def __init__(self, name: str, events: SimpleQueue[Event], callback: dict[str, str] | None = None) -> None:
        self.name = name
        self.secret = ""
        self.status = 200
        self.callback = callback
        self._events = events
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))

    @property
    def url(self) -> str:
        """The URL to make a webhook with."""
        return f"http://127.0.0.1:{self._server.server_port}/{self.name}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def tell(self, kind: Literal["received", "refused", "calls back", "answered"], **details: Any) -> None:
        """Put what happened into `events`."""
        self._events.put(Event(self.name, kind, **details))

    def call_back(self, callback_url: str) -> None:
        """Post the callback, as the chain's next hook waits for it."""
        self.tell("calls back", callback=self.callback)
        try:
            with requests.Session() as session:
                session.trust_env = False
                answer = str(session.post(callback_url, json=self.callback, timeout=CALLBACK_LIMIT_S).status_code)
        except requests.RequestException as error:
            answer = type(error).__name__
        self.tell("answered", answer=answer)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, receiver: Receiver, *arguments: Any) -> None:
        self.receiver = receiver
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not (self.receiver.secret and is_signed(self.receiver.secret, dict(self._lower_headers()), body)):
            self.receiver.tell("refused")
            self._answer(401)
            return
        payload = json.loads(body)
        self.receiver.tell("received", payload=payload)
        self._answer(self.receiver.status)
        if self.receiver.callback:
            self.receiver.call_back(payload["callback_url"])

    def _lower_headers(self) -> list[tuple[str, str]]:
        return [(name.lower(), value) for name, value in self.headers.items()]

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """The story is told by the events."""
