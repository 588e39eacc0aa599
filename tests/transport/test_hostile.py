"""The transport against hostile receivers: each answer alone and all at once, with bounds for time and memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
import trustme

from flask_hubhooks.transport import Outcome, Request, Transport

from ..support.hostile import COSTLY, DEADLINE_S, HOSTILE, OVER_TLS, TELLING, Hostile
from ..support.processes import Process, until
from ..support.receivers import Receiver, tls_context
from ..support.transports import BODY, LOOPBACK, send, transport
from .test_proxy import Proxy

GRACE_S = 0.5
"""How far past the deadline an attempt may end."""
TOGETHER = 64


@pytest.fixture(scope="module")
def guarded() -> Iterator[Transport]:
    sender = transport()
    yield sender
    sender.close()


def judge(name: str, case: Hostile, outcome: Outcome, deadline_s: float = DEADLINE_S) -> None:
    """Check an outcome against the table."""
    assert outcome.status_code == case.status, (name, outcome.error)
    assert re.match(case.cause or "$", outcome.error), (name, outcome.error)
    assert outcome.duration_ms <= (deadline_s + GRACE_S) * 1000, (name, outcome.duration_ms)


@pytest.mark.parametrize("name", HOSTILE)
def test_alone(guarded: Transport, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each hostile response has its cause, raises nothing and ends by the deadline."""
    with HOSTILE[name].receiver() as receiver:
        judge(name, HOSTILE[name], send(guarded, receiver.url, BODY, {}, deadline_s=DEADLINE_S))
    assert not caplog.records


def test_together(guarded: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """64 hostile responses at once have the same causes, and a good receiver is served beside them."""
    names = list(HOSTILE)
    with ExitStack() as stack:
        good = stack.enter_context(Receiver())
        for first in range(0, len(names), TOGETHER):
            batch = {name: SimpleQueue[Outcome]() for name in (names[first:] + names)[:TOGETHER]}
            for name, outcomes in batch.items():
                url = stack.enter_context(HOSTILE[name].receiver()).url
                guarded.send(Request(url, BODY, {}, deadline_s=DEADLINE_S), outcomes.put)
            assert send(guarded, good.url, BODY, {}).status_code == 200
            for name, outcomes in batch.items():
                judge(name, HOSTILE[name], outcomes.get(timeout=60))
    assert not caplog.records


@pytest.mark.parametrize("through_proxy", [False, True])
def test_over_tls(authority: trustme.CA, bundle: str, through_proxy: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Hostile responses over TLS, also within a proxy's tunnel, have the same causes, all at once."""
    deadline_s, name = 3.0, "ci.example.com" if through_proxy else "localhost"  # 58 handshakes take a second
    outcomes = {each: SimpleQueue[Outcome]() for each in TELLING}
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy()).through() if through_proxy else None
        sender = Transport(None if proxy else LOOPBACK, ca_bundle=bundle, proxy=proxy)
        stack.callback(sender.close)
        context = tls_context(authority, name)
        for each in TELLING:
            url = stack.enter_context(HOSTILE[each].receiver(context)).url.replace("localhost", name)
            sender.send(Request(url, BODY, {}, deadline_s=deadline_s), outcomes[each].put)
        for each in TELLING:
            cause = OVER_TLS.get(each, HOSTILE[each].cause).replace(f"{DEADLINE_S:g} s", f"{deadline_s:g} s")
            judge(each, replace(HOSTILE[each], cause=cause), outcomes[each].get(timeout=60), deadline_s)
    assert not caplog.records


FLOODS = [
    "headers-6-mb",
    "trailers-endless",
    "endless-100",
    "chunk-extension-endless",
    "chunk-bytes-endless",
    "body-endless",
    "reason-endless",
    "headers-drip",
]
SENDER = f"""
import re, sys
from pathlib import Path
from queue import SimpleQueue
from flask_hubhooks.transport import Request
from tests.support.transports import transport
outcomes = SimpleQueue()
sender = transport()
for url in sys.argv[1:] * 25:
    sender.send(Request(url, b"", {{}}, deadline_s={DEADLINE_S}), outcomes.put)
for _ in sys.argv[1:] * 25:
    assert outcomes.get(timeout=90).duration_ms <= {(DEADLINE_S + GRACE_S) * 1000}
with open("/proc/self/status") as status:  # `getrusage` would tell the parent's peak, from before the fork
    print(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory() -> None:
    """200 receivers that send endlessly at once leave a process below 200 MB, and end by the deadline."""
    with ExitStack() as stack:
        urls = [stack.enter_context(HOSTILE[name].receiver()).url for name in FLOODS]
        run = subprocess.run([sys.executable, "-c", SENDER, *urls], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 200 * 1024


def test_floods_from_another_process(tmp_path: Path) -> None:
    """64 floods at once all take too much work, and none lasts until the deadline."""
    flooding = Process(tmp_path / "log", {}, "tests.support.flooding")
    sender = transport()
    try:
        until(lambda: flooding.log.endswith("\n"))
        outcomes = SimpleQueue[Outcome]()
        for _ in range(TOGETHER):
            sender.send(Request(f"http://127.0.0.1:{flooding.log.strip()}/", BODY, {}, deadline_s=60), outcomes.put)
        for _ in range(TOGETHER):
            assert outcomes.get(timeout=90).error.startswith(COSTLY)
    finally:
        sender.close()
        flooding.stop()
