"""The short form of `make chaos`."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import Process
from tests.support.receivers import poll

SEED = 1
PATIENCE_S = 400
"""Ten times what it takes on a machine that has nothing else to do."""
Start = Callable[..., Process]


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Start]:
    """A function that starts `python -m tests.chaos`, with its temporary files in a folder of its own."""
    started: list[Process] = []
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # not below tmp_path: a socket's path must be short
    folder.chmod(0o755)

    def start(*arguments: str) -> Process:
        command = ("tests.chaos", "--seed", str(SEED), *arguments)
        started.append(Process(tmp_path / "log", {"TMPDIR": str(folder)}, *command))
        return started[-1]

    yield start
    for process in started:
        if process.running:
            process.send(signal.SIGTERM)
            process.ends(60)
        print(process.log)
    left = list(folder.glob("hubhooks-*")) + list(folder.glob("valkey-*"))
    shutil.rmtree(folder)
    assert not left


@pytest.mark.timeout(PATIENCE_S + 60)
def test_promises_hold(chaos: Start) -> None:
    """Killed workers and servers that come and go lose nothing, repeat no more than they must, and keep the order."""
    assert chaos("--deliveries", "600", "--kills", "3").ends(PATIENCE_S) == 0


def test_ends_what_it_started(chaos: Start) -> None:
    """SIGTERM ends a run and all that it has started."""
    process = chaos()
    poll(lambda: "delivered" in process.log, seconds=60)
    process.send(signal.SIGTERM)
    assert process.ends(60) == 130
