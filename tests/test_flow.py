"""The whole way, each part a process of its own: skopeo, registry, PostgreSQL, Valkey, worker, receivers, history."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from example_app.image import build_image, build_index, build_layout

from .receivers import Connection, Receiver, Request, http, poll

PROJECT = Path(__file__).parent.parent
ALICE = ("alice", "alice")
Skopeo = Callable[..., None]


@pytest.fixture
def registry(postgresql_uri: str, redis_url: str, tmp_path: Path) -> Iterator[str]:
    """The example registry and a worker on PostgreSQL and Valkey; yields the registry's URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "FLASK_SECRET_KEY": "a test's secret key",
        "FLASK_SQLALCHEMY_DATABASE_URI": postgresql_uri,
        "FLASK_HUBHOOKS_REDIS_URL": redis_url,
        "FLASK_HUBHOOKS_EXTERNAL_URL": url,
        "FLASK_HUBHOOKS_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
        "FLASK_REGISTRY_ROOT": str(tmp_path / "registry"),
    }
    with flask(environment, "run", "--port", str(port)), flask(environment, "hubhooks", "worker"):
        poll(lambda: answers(url), 30)
        yield url


@contextmanager
def flask(environment: dict[str, str], *command: str) -> Iterator[None]:
    """A command of the example app's, beside the test; it must end well when it is told to."""
    program = [sys.executable, "-m", "flask", "--app", "example_app", *command]
    process = subprocess.Popen(program, cwd=PROJECT, env=environment)
    try:
        yield
        assert process.poll() is None, f"flask {command[0]} ended by itself"
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == (0 if "worker" in command else -15)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/v2/", timeout=5).status_code == 401
    except requests.ConnectionError:
        return False


@pytest.fixture
def skopeo(registry: str) -> Skopeo:
    """A function that copies from or to the registry."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("skopeo is not installed")
    options = ["--insecure-policy", "copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"]

    def copy(source: str, target: str) -> None:
        subprocess.run([program, *options, "--dest-creds=alice:alice", source, target], check=True, timeout=60)

    return copy


def in_registry(registry: str, reference: str) -> str:
    return f"{registry.replace('http', 'docker', 1)}/{reference}"


def create(registry: str, name: str, *receivers: Receiver) -> str:
    """Make a webhook; the URL of its history."""
    wanted = {"name": name, "hooks": [{"hook_url": receiver.url} for receiver in receivers]}
    answer = requests.post(f"{registry}/v2/repositories/acme/app/webhooks/", json=wanted, auth=ALICE, timeout=10)
    assert answer.status_code == 201, answer.text
    return f"{answer.headers['Location']}history/"


def history(url: str) -> list[dict[str, Any]]:
    answer = requests.get(url, auth=ALICE, timeout=10)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"])


def call_back(request: Request, connection: Connection) -> bytes:
    """Post the callback before answering, as real receivers do."""
    callback = {"state": "success", "description": "387 tests PASSED"}
    answer = requests.post(json.loads(request.body)["callback_url"], json=callback, timeout=10)
    return http(200 if answer.status_code == 200 else 500)


def test_a_push_becomes_a_finished_chain(registry: str, skopeo: Skopeo, tmp_path: Path) -> None:
    """What skopeo pushes is delivered, called back, passed on along the chain, and shown in the history."""
    layout = tmp_path / "image"
    build_layout(layout, build_image({"app": b"1"}))
    skopeo(f"oci:{layout}:latest", in_registry(registry, "acme/app:first"))  # a repository exists from its first push on
    with Receiver() as single, Receiver(call_back) as first, Receiver(call_back) as second:
        deployed, chained = create(registry, "deploy", single), create(registry, "chain", first, second)
        skopeo(f"oci:{layout}:latest", in_registry(registry, "acme/app:v1"))
        poll(lambda: {each["state"] for each in history(deployed) + history(chained)} == {"succeeded"}, 20)
        assert [len(each.requests) for each in (single, first, second)] == [1, 1, 1]
        assert first.requests[0].time < second.requests[0].time
        payload = json.loads(second.requests[0].body)
    assert payload["push_data"]["tag"] == "v1"
    assert payload["push_data"]["pusher"] == "alice"
    assert payload["repository"]["repo_name"] == "acme/app"
    assert [each["callback"]["description"] for each in history(chained)] == ["387 tests PASSED"] * 2
    assert [each["attempts"] for each in history(chained)] == [1, 1]


def test_one_tag_put_is_one_push(registry: str, skopeo: Skopeo, tmp_path: Path) -> None:
    """An index of two images, pushed again and under a second tag, is three pushes; and it comes back as it was."""
    index = build_index([build_image({"app": b"1"}, each) for each in ("amd64", "arm64")])
    layout = tmp_path / "index"
    build_layout(layout, index)
    skopeo(f"oci:{layout}:latest", in_registry(registry, "acme/app:first"))
    with Receiver() as receiver:
        deployed = create(registry, "deploy", receiver)
        for tag in ("v1", "v1", "v2"):
            skopeo(f"oci:{layout}:latest", in_registry(registry, f"acme/app:{tag}"))
        poll(lambda: [each["state"] for each in history(deployed)] == ["succeeded"] * 3, 20)
        assert sorted(json.loads(each.body)["push_data"]["tag"] for each in receiver.requests) == ["v1", "v1", "v2"]
    assert {each["push"]["digest"] for each in history(deployed)} == {index.digest}
    skopeo(in_registry(registry, "acme/app:v2"), f"oci:{tmp_path / 'back'}:v2")
    assert json.loads((tmp_path / "back" / "index.json").read_bytes())["manifests"][0]["digest"] == index.digest
