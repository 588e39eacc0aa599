"""The short form of `python -m tests.chaos.rollback`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.processes import Process

PATIENCE_S = 300
"""Ten times what it takes on a machine that has nothing else to do."""


@pytest.mark.timeout(PATIENCE_S + 60)
def test_never_on_the_older_digest(tmp_path: Path) -> None:
    """A receiver that fails at times ends on the newer push of each tag, through retries, a kill and a pause."""
    short = ("--pairs", "12", "--gap", "1", "--kills", "1")
    process = Process(tmp_path / "log", {}, "tests.chaos.rollback", *short)
    try:
        assert process.ends(PATIENCE_S) == 0, process.log
    finally:
        if process.running:
            process.send(signal.SIGTERM)
            process.ends(60)
