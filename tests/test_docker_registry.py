"""A real registry tells a live app of what skopeo does to it: exactly the tags that were put are pushes, once each."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import requests
from sqlalchemy import text

from example_app.image import build_image, build_index
from flask_hubhooks.records.models import Push

from .support.docker_registry import DockerRegistry
from .support.host import Host
from .support.marks import URL, WITH_SOURCES, MakeHost, needs_docker_registry, on_postgresql
from .support.processes import Process, free_port, until

pytestmark = [needs_docker_registry, on_postgresql]


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """The app's database, with a webhook on each repository."""
    host = make_host(config=WITH_SOURCES)
    for repository in ("acme/app", "acme/other", "acme/multi"):
        host.create(URL, repository=repository)
    return host


class App:
    """The app as a process of its own on one port, which may end and begin again."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/hubhooks/sources/distribution/"
        self._environment = {
            "FLASK_SQLALCHEMY_DATABASE_URI": host.database_uri,
            "FLASK_HUBHOOKS_REDIS_URL": host.redis_url,
            "HOST_CONFIG": json.dumps(WITH_SOURCES),
        }
        self._log = folder / "app.log"

    @contextmanager
    def running(self) -> Iterator[Process]:
        command = ("flask", "--app", "tests.support.worker_app", "run", "--port", str(self.port))
        process = Process(self._log, self._environment, *command)
        try:
            until(self._answers, seconds=60)
            yield process
        finally:
            process.stop()
            print(process.log)

    def _answers(self) -> bool:
        try:
            return requests.get(self.url, timeout=5).status_code == 405
        except requests.ConnectionError:
            return False


def recorded(host: Host) -> list[tuple[str, str, str]]:
    """Repository, tag and digest of all pushes, in order."""
    with host.writing() as session:
        found = session.query(Push).order_by(Push.id).all()
        return [(each.repository, each.tag, each.digest) for each in found]


def test_what_skopeo_does(host: Host, tmp_path: Path) -> None:
    """Each tag that is put is one push, though each event comes three times; nothing else is a push."""
    app = App(host, tmp_path)
    with app.running(), DockerRegistry(tmp_path, [app.url] * 3).running() as registry:
        image, index = build_image({"a": b"a"}), build_index([build_image({}, "amd64"), build_image({}, "arm64")])
        expected: list[tuple[str, str, str]] = []

        def told(*pushes: tuple[str, str, str]) -> None:
            """Wait for these pushes, then compare all that were recorded so far."""
            expected.extend(pushes)
            until(lambda: len(recorded(host)) >= len(expected))
            assert recorded(host) == expected

        registry.push("acme/app:latest", image)
        told(("acme/app", "latest", image.digest))
        registry.push("acme/app:latest", image)
        told(("acme/app", "latest", image.digest))
        registry.copy("acme/app:latest", "acme/app:v1")
        told(("acme/app", "v1", image.digest))
        registry.copy("acme/app:latest", "acme/other:latest")
        told(("acme/other", "latest", image.digest))
        registry.push("acme/multi:latest", index)
        told(("acme/multi", "latest", index.digest))
        registry.pull("acme/app:v1")
        registry.delete("acme/app:v1")
        last = registry.push("acme/app:last")  # events come in order, so those before it have been answered
        told(("acme/app", "last", last))
    with host.writing() as session:
        [multi] = session.query(Push).where(Push.repository == "acme/multi")
        assert multi.images == [each.digest for each in index.children]
        assert (multi.media_type, multi.source) == (index.media_type, "distribution")


def test_an_app_in_trouble(host: Host, tmp_path: Path) -> None:
    """An app that is slow, killed, started again, and answers 503 for a while, gets every push, once each."""
    app, pushed = App(host, tmp_path), []
    # The registry waits 500 ms for an answer: what comes while the app stands still is sent again.
    with (
        DockerRegistry(tmp_path, [app.url] * 3, timeout="500ms", ignoring=True).running() as registry,
        ExitStack() as running,
    ):

        def push(tag: str) -> None:
            pushed.append(("acme/app", tag, registry.push(f"acme/app:{tag}")))

        push("before-the-app")
        process = running.enter_context(app.running())
        push("slow-1")
        process.send(signal.SIGSTOP)  # it takes connections and answers nothing
        push("slow-2")
        sleep(0.8)
        process.send(signal.SIGCONT)
        push("killed-1")
        running.close()
        push("killed-2")
        running.enter_context(app.running())
        push("again")
        rename(host, "hubhooks_delivery", "away")
        push("503-1")
        push("503-2")
        rename(host, "away", "hubhooks_delivery")
        push("last")
        until(lambda: {each[1] for each in recorded(host)} >= {each[1] for each in pushed}, seconds=60)
    found: list[Any] = recorded(host)
    assert sorted(found) == sorted(pushed)


def rename(host: Host, table: str, to: str) -> None:
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {to}"))
