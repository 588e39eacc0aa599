"""Sends one request over a transport and waits for what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from queue import SimpleQueue

from flask_hubhooks.transport import Outcome, Request, Transport


def post(transport: Transport, url: str, body: bytes, headers: Mapping[str, str], repository: str = "") -> Outcome:
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    transport.send(Request(url, body, headers, repository), outcomes.put)
    return outcomes.get(timeout=90)
