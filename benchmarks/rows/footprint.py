"""What a push and its delivery cost the servers; `docs/scaling.md` uses these figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import text

from flask_hubhooks.signals import image_pushed

from ..contestants import LIMIT_S
from ..row import Figure, Row, Run
from ..servers import wait_until
from ..sites import Site, site

TICKS = os.sysconf("SC_CLK_TCK")  # per second: the unit in which the kernel counts processor time


@dataclass(frozen=True)
class Used:
    """What PostgreSQL has used so far."""

    cpu_s: float
    wal_bytes: float
    disk_bytes: float

    def since(self, before: Used, count: int) -> tuple[float, float]:
        """Microseconds of processor time and bytes of WAL since `before`, for each of `count` items."""
        return (self.cpu_s - before.cpu_s) / count * 1e6, (self.wal_bytes - before.wal_bytes) / count


def measure(run: Run) -> list[Figure]:
    count = run.size(5_000, 200)
    with site(run.bench) as own:
        own.subscribe(run.bench.url("/footprint"))
        began = _used(own)
        _push(own, count)
        pushed = _used(own)
        with own.worker() as worker:
            wait_until(lambda: not own.under_way(), [worker], 0.1, LIMIT_S)
            delivered, database, valkey = _used(own), *_connections(own)
        own.settle()
        stored = (_used(own).disk_bytes - began.disk_bytes) / count
    run.progress(f"footprint: {stored:,.0f} bytes stored for each push")
    (push_us, push_wal), (delivery_us, delivery_wal) = pushed.since(began, count), delivered.since(pushed, count)
    return [
        Figure("a push, µs of PostgreSQL's processor", [push_us]),
        Figure("a push, bytes of WAL", [push_wal]),
        Figure("a delivery, µs of PostgreSQL's processor", [delivery_us]),
        Figure("a delivery, bytes of WAL", [delivery_wal]),
        Figure("both, bytes stored", [stored]),
        Figure("a worker, connections to PostgreSQL", [database]),
        Figure("a worker, connections to Valkey", [valkey]),
    ]


def _push(own: Site, count: int) -> None:
    repository = own.samples[0].push["repository"]
    with own.app.app_context():
        for number in range(count):
            image_pushed.send(own.app, repository=repository, tag=f"v{number}")


def _used(own: Site) -> Used:
    wal, disk = "pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')", "pg_database_size(current_database())"
    with own.engine.connect() as connection:
        backend, wal_bytes, disk_bytes = connection.execute(text(f"SELECT pg_backend_pid(), {wal}, {disk}")).one()
    server = _stat(backend).parent
    of_server = sum(each.own_s for each in _processes() if each.parent == server)
    return Used(of_server + _stat(server).own_s + _stat(server).ended_s, float(wal_bytes), disk_bytes)


class Process(NamedTuple):
    """A process: its parent, and the seconds of processor time of itself and of its children that have ended."""

    parent: int
    own_s: float
    ended_s: float


def _stat(pid: int) -> Process:
    """Read a process from /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, ended_user, ended_system = (int(each) / TICKS for each in fields[11:15])
    return Process(int(fields[1]), user + system, ended_user + ended_system)


def _processes() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            yield _stat(int(folder.name))


def _connections(own: Site) -> tuple[int, int]:
    """The number of connections to PostgreSQL and to Valkey, without our own."""
    own.engine.dispose()
    with own.engine.connect() as connection:
        database = connection.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"))
    return (database or 0) - 1, len(own.state.redis.client_list()) - 1


ROW = Row(
    "footprint",
    "what a push through the signal and its delivery cost PostgreSQL, and how many connections a worker has",
    measure,
)
