"""The operator's commands as processes: what they say where they cannot work, and that they leave nothing open."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from .support.host import Host
from .support.marks import MakeHost, on_postgresql, on_sqlite
from .support.processes import Process
from .support.receivers import Receiver

COMMANDS = [["worker", "--burst"], ["prune"], ["rotate-keys"], ["orphans"]]
Start = Callable[..., Process]


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """A function that starts `flask hubhooks …`, for which each warning is an error, on a host's database."""
    processes: list[Process] = []

    def run(host: Host, *command: str, **config: str) -> Process:
        environment = {
            "FLASK_APP": "tests.support.worker_app",
            "FLASK_SQLALCHEMY_DATABASE_URI": host.database_uri,
            "FLASK_HUBHOOKS_REDIS_URL": redis_url,
            "HOST_CONFIG": json.dumps(config),
            "PYTHONWARNINGS": "error",
        }
        log = tmp_path / f"{len(processes)}.log"
        processes.append(Process(log, environment, "flask", "hubhooks", *command))
        return processes[-1]

    yield run
    for process in processes:
        process.stop()


def test_nothing_stays_open(host: Host, start: Start) -> None:
    """Every command closes its connections: no warning, in the end neither, with the host's loader called."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, repository="acme/missing-not")
        host.push("acme/missing-not")
        processes = [start(host, *command) for command in COMMANDS]
        assert [each.ends(60) for each in processes] == [0] * len(COMMANDS), [each.log for each in processes]
    assert host.states(webhook, "acme/missing-not") == ["succeeded"]
    assert [each.log.splitlines() for each in processes] == [
        ["hubhooks: delivering from queue 'hubhooks'", "hubhooks: stopped"],
        ["hubhooks: deleted 0 deliveries that ended more than 90 days ago"],
        ["hubhooks: encrypted the secrets and headers of 1 webhooks with the newest key"],
        ["hubhooks: 0 of 1 webhooks have no repository or namespace"],
    ]


def test_without_tables(make_host: MakeHost, start: Start) -> None:
    """Without our tables every command ends with one line that says what to do, and nothing stays open."""
    host = make_host(creates_tables=False)
    processes = [start(host, *command) for command in COMMANDS]
    assert [each.ends(60) for each in processes] == [1] * len(COMMANDS)
    missing = "Error: The database lacks the table hubhooks_push. Run your migrations, or db.create_all().\n"
    assert [each.log for each in processes] == [missing] * len(COMMANDS)


@pytest.mark.own_host
@on_postgresql
def test_without_a_database(host: Host, start: Start) -> None:
    """If the database cannot be reached every command ends with one line."""
    host.database_uri = str(make_url("postgresql+psycopg://registry@127.0.0.1:1/registry"))
    processes = [start(host, *command) for command in COMMANDS]
    assert [each.ends(60) for each in processes] == [1] * len(COMMANDS)
    for process in processes:
        (line,) = process.log.splitlines()
        assert line.startswith("Error: Cannot use the database: connection failed:")


@pytest.mark.own_host
@on_sqlite
def test_without_the_keys(host: Host, start: Start) -> None:
    """A worker that can decrypt none of the newest secrets does not begin; if it is some, it says how many and begins.

    The line names the keys to check.
    """
    host.create("https://ci.example.com/")
    lost = start(host, "worker", "--burst", SECRET_KEY="another secret key of a test")
    assert lost.ends(60) == 1
    (line,) = lost.log.splitlines()
    assert line == (
        "Error: The webhooks' secrets cannot be decrypted. Check SECRET_KEY, SECRET_KEY_FALLBACKS and "
        "HUBHOOKS_ENCRYPTION_KEYS."
    )
    host.config = {"SECRET_KEY": "another secret key of a test"}
    host.app = host.make_app()
    host.client = host.app.test_client()
    host.create("https://ci.example.com/", repository="acme/new")
    half = start(host, "worker", "--burst", SECRET_KEY="another secret key of a test")
    assert half.ends(60) == 0
    warned, *rest = half.log.splitlines()
    assert "the secrets of 1 of the newest 2 webhooks cannot be decrypted" in warned
    assert rest == ["hubhooks: delivering from queue 'hubhooks'", "hubhooks: stopped"]
