"""A receiver that pulls as soon as it is called gets what was pushed, though the registry tells of it before.

    python -m pytest tests/sources/test_tag_race.py --tag-race-pushes 300

A proxy before a real registry shows each tag half a second after it was put. skopeo pushes and pulls through it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic

import pytest
import requests

from example_app.image import build_image
from flask_hubhooks import outbox
from flask_hubhooks.worker.dispatcher import Dispatcher

from ..conftest import serving
from ..support.docker_registry import DockerRegistry
from ..support.host import Host
from ..support.marks import WITH_SOURCES, MakeHost, needs_docker_registry, on_postgresql
from ..support.processes import until
from ..support.receivers import Connection, Receiver, Request

pytestmark = [needs_docker_registry, on_postgresql]


class LateTags(ThreadingHTTPServer):
    """A proxy before a registry: whoever asks for a tag gets the image of `late_s` ago."""

    def __init__(self, registry: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.registry = f"http://127.0.0.1:{registry}"
        self.late_s = 0.5
        self.tags: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        """By the path of a tag: the digests that were put, and when each of them is shown."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def shown(self, path: str) -> str | None:
        """The path by which the registry is asked; None if the tag is not there yet."""
        if path not in self.tags:
            return path
        shown = [digest for since, digest in self.tags[path] if since <= monotonic()]
        return f"{path.rpartition('/')[0]}/{shown[-1]}" if shown else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LateTags

    def _pass_on(self) -> None:
        path = self.server.shown(self.path) if self.command in ("GET", "HEAD") else self.path
        if path is None:
            return self._answer(404, {}, b"")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PUT" and "/manifests/" in path:
            self.server.tags.setdefault(path, [])  # the registry tells of it before it answers
        answer = requests.request(
            self.command,
            self.server.registry + path,
            headers=dict(self.headers),
            data=body,
            allow_redirects=False,
            timeout=30,
        )
        if self.command == "PUT" and "/manifests/" in path and answer.ok:
            self.server.tags[path].append((monotonic() + self.server.late_s, answer.headers["Docker-Content-Digest"]))
        return self._answer(answer.status_code, dict(answer.headers), answer.content)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _pass_on

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header(
            "Content-Length", headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        )
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Puller(Receiver):
    """It pulls what it is told of before it answers, and keeps what it was told and what it got."""

    def __init__(self, registry: LateTags) -> None:
        super().__init__(self._pull)
        self.registry = registry
        self.pulled: list[tuple[str, str, str]] = []
        """Repository, the digest that was pushed, and the one that was pulled."""

    def _pull(self, request: Request, connection: Connection) -> int:
        [event] = json.loads(request.body)["events"]
        target = event["target"]
        image = f"docker://127.0.0.1:{self.registry.server_port}/{target['repository']}:{target['tag']}"
        command = ["skopeo", "inspect", "--tls-verify=false", "--no-tags", "--format", "{{.Digest}}", image]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        self.pulled.append((target["repository"], target["digest"], found.stdout.strip()))
        return 200


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def delivering(host: Host) -> Iterator[None]:
    """Have a worker deliver on a thread of its own."""

    def run() -> None:
        with host.app.app_context():
            dispatcher.run()

    dispatcher = Dispatcher(host.state, slice_s=3600, linger_s=3600)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        dispatcher.stop()
        thread.join()


@pytest.fixture
def registry(tmp_path: Path) -> DockerRegistry:
    return DockerRegistry(tmp_path, [])


@pytest.fixture
def proxy(registry: DockerRegistry) -> Iterator[LateTags]:
    server = LateTags(registry.port)
    with running(server):
        yield server


@pytest.fixture
def host(registry: DockerRegistry, proxy: LateTags, make_host: MakeHost) -> Iterator[Host]:
    """An app that gets the registry's events and looks tags up through the proxy, with a worker."""
    with serving(make_host, **WITH_SOURCES, HUBHOOKS_REGISTRY_URL=proxy.url) as host:
        registry.urls = [f"{host.state.config.external_url}/hubhooks/sources/distribution/"]
        with registry.running(), delivering(host):
            yield host


def old_images(host: Host, registry: DockerRegistry, proxy: LateTags, repositories: list[str], pushes: int) -> int:
    """Push images to each repository in turn, pull when called, and count the images that were not there yet."""
    pusher = dataclasses.replace(registry, port=proxy.server_port)
    pushed: dict[str, list[str]] = {name: [] for name in repositories}
    with Puller(proxy) as puller:
        for name in repositories:
            hook = {"hook_url": puller.url, "payload_format": "distribution", "supersede": False}
            host.create(repository=name, hooks=[hook])
        for number in range(pushes):
            name = repositories[number % len(repositories)]
            image = build_image({"number": f"{name} {number}".encode()})
            pushed[name].append(image.digest)
            pusher.push(f"{name}:latest", image)
        until(lambda: len(puller.pulled) >= pushes, seconds=90)
    told = [(name, digest) for name, digest, _ in puller.pulled]
    assert sorted(told) == sorted((name, digest) for name, digests in pushed.items() for digest in digests)
    return sum(got not in pushed[name][pushed[name].index(digest) :] for name, digest, got in puller.pulled)


def test_receivers_pull_what_was_pushed(
    host: Host,
    registry: DockerRegistry,
    proxy: LateTags,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No receiver pulls an old image; if pushes did not wait for their tags, every one would."""
    pushes = pytestconfig.getoption("--tag-race-pushes")
    repositories = [f"acme/app{number}" for number in range(max(2, pushes // 15))]
    old = old_images(host, registry, proxy, repositories, pushes)
    print(f"{old} of {pushes} pulls got an old image")
    assert old == 0
    monkeypatch.setattr(outbox, "_tag_wait", lambda *_: outbox.NO_WAIT)
    proxy.late_s = 60.0
    assert old_images(host, registry, proxy, ["acme/other"], 2) == 2
