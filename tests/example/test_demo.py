"""The demo as its users run it: what it shows, how it fails, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook

from example_app.demo.client import Client
from example_app.demo.receiver import is_signed
from example_app.image import build_image

from ..support.receivers import poll

PROJECT = Path(__file__).parent.parent.parent
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

STEPS = [
    r"1  Start everything",
    r"2  Push acme/app:1\.0",
    r"PUT   /v2/acme/app/manifests/1\.0 +201",
    r"3  Create webhooks",
    r"POST  /v2/repositories/acme/app/webhooks/ +201",
    r"pipeline: http://\S+/test -> http://\S+/release",
    r"4  Push acme/app:1\.1",
    r"PUT   /v2/acme/app/manifests/1\.1 +201",
    r"5  See the worker deliver",
    r"test +posts its callback: success",
    r"release +received the payload for acme/app:1\.1; its signature is right",
    r"release +posts its callback: success",
    r"pipeline +the chain is finished",
    r"6  Read the history",
    r"deploy +1/1 deploy +1\.1 +success +succeeded +1 +200 +none expected",
    r"pipeline +1/2 test +1\.1 +success +succeeded +1 +200 +success: 387 tests PASSED",
    r"pipeline +2/2 release +1\.1 +success +succeeded +1 +200 +success: live in production",
    r"Everything was seen\.",
]


class Demo:
    """A demo under way, the leader of a process group of its own, as under a terminal."""

    def __init__(self, folder: Path, *options: str, module: str = "example_app.demo") -> None:
        self.output = folder / "output"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=PROJECT,
                env=os.environ | {"TMPDIR": str(self.temporary)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def shown(self, pattern: str) -> str:
        """Wait until the pattern is shown, and return its first group."""
        poll(lambda: re.search(pattern, self.text) or self.process.poll() is not None, 30)
        match = re.search(pattern, self.text)
        assert match, self.text
        return match[1] if match.groups() else match[0]

    def interrupt(self) -> None:
        """Ctrl-C: a terminal sends it to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Wait for the exit code. Nothing may be left then: no process of the group, no file."""
        code = self.process.wait(20)
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        assert list(self.temporary.iterdir()) == []
        assert "Traceback" not in self.text
        return code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """A function that starts a demo with some options."""
    demos: list[Demo] = []

    def start(*options: str) -> Demo:
        demos.append(Demo(tmp_path, *options))
        return demos[-1]

    yield start
    for demo in demos:
        if demo.process.poll() is None:
            os.killpg(demo.process.pid, signal.SIGKILL)
            demo.process.wait()


def test_everything_is_shown_and_nothing_is_left(start: Callable[..., Demo]) -> None:
    """It exits 0, having shown every step in its order."""
    demo = start()
    assert demo.ended() == 0, demo.text
    assert re.search(".*?".join(STEPS), demo.text, re.DOTALL), demo.text
    assert re.search(r'deploy +received the payload.*\n +\{\n +"callback_url": "http://127', demo.text), demo.text


@pytest.mark.parametrize("moment", ["1  Start everything", "2  Push"])
def test_ctrl_c_leaves_nothing(start: Callable[..., Demo], moment: str) -> None:
    """Ctrl-C at any moment ends all processes, and is no success."""
    demo = start()
    demo.shown(moment)
    demo.interrupt()
    assert demo.ended() == 130, demo.text


def test_being_told_to_end_leaves_nothing(start: Callable[..., Demo]) -> None:
    """SIGTERM to the demo alone ends what it has started, too."""
    demo = start()
    demo.shown(r"worker +process")
    demo.process.terminate()
    assert demo.ended() == 143, demo.text


def test_a_part_that_fails_is_named(start: Callable[..., Demo]) -> None:
    """Without its worker the demo exits 1, says so and shows the logs."""
    demo = start()
    os.kill(int(demo.shown(r"worker +process (\d+)")), signal.SIGKILL)
    assert demo.ended() == 1, demo.text
    assert "It did not work: the worker ended with exit code -9" in demo.text
    assert "The last lines of the worker's log:" in demo.text
    assert "Everything was seen" not in demo.text


def test_kept_until_ctrl_c(start: Callable[..., Demo]) -> None:
    """With --keep it has a history to look at, says how to push, and shows what a push causes, until Ctrl-C.

    The history has a retry, a chain that waits, one that failed, a pause and a test.
    """
    demo = start("--keep")
    with requests.Session() as session:
        session.auth, session.trust_env = ("alice", "alice"), False
        url = demo.shown(r"To open in a browser[^\n]*\n\n +(http://\S+)/\n")
        assert session.get(demo.shown(r" (http://\S+/r/\S+)\n")).status_code == 200
        webhooks = session.get(f"{url}/v2/repositories/acme/app/webhooks/").json()["results"]
    active = {webhook["name"]: webhook["active"] for webhook in webhooks}
    ids = {webhook["name"]: webhook for webhook in webhooks}
    client = Client(url, lambda *_: None)

    def deliveries(name: str, tag: str) -> list[dict[str, Any]]:
        return [each for each in client.history("acme/app", ids[name]) if each["push"]["tag"] == tag]

    [retried] = deliveries("chat", "1.3")
    assert (retried["state"], retried["attempts"][0]["status_code"]) == ("pending", 500)
    assert [each["state"] for each in deliveries("scan", "1.3")] == ["awaiting_callback", "waiting"]
    failed, skipped = deliveries("staging", "1.3-rc1")
    assert (failed["state"], failed["callback"]["state"], skipped["state"]) == ("failed", "failure", "skipped")
    assert active == dict.fromkeys(ids, True) | {"mirror": False}
    assert [each["push"]["kind"] for each in deliveries("chat", "hubhooks-test")] == ["test"]

    for program in ("skopeo copy", "podman push", "docker push"):
        demo.shown(program)
    demo.shown("Ctrl-C ends everything")
    client.push(build_image({"a": b"b"}), "acme/app", "2.0")
    demo.shown(r"release +received the payload for acme/app:2\.0; its signature is right")
    demo.interrupt()
    assert demo.ended() == 0, demo.text


def test_the_receiver_verifies_what_it_gets() -> None:
    """A signature of the standard's own library is right, and wrong with another body, secret or an old time."""
    body, now = '{"a": 1}', datetime.now(timezone.utc)

    def headers(moment: datetime) -> dict[str, str]:
        signature = Webhook(SECRET).sign("id", moment, body)
        timestamp = str(int(moment.timestamp()))
        return {"webhook-id": "id", "webhook-timestamp": timestamp, "webhook-signature": f"v1,AAAA {signature}"}

    assert is_signed(SECRET, headers(now), body.encode())
    assert not is_signed(SECRET, headers(now), b'{"a": 2}')
    assert not is_signed(SECRET.replace("M", "N"), headers(now), body.encode())
    assert not is_signed(SECRET, headers(now - timedelta(minutes=6)), body.encode())
    assert not is_signed(SECRET, {}, body.encode())
