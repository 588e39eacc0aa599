"""The whole path, each part a process: skopeo, registry, PostgreSQL, Valkey, worker, receivers, callbacks, history."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook

from example_app.image import MANIFEST, build_image, build_index, build_layout

from .support.processes import Process, free_port
from .support.receivers import Answer, Connection, Receiver, Request, poll

ALICE = ("alice", "alice")


@pytest.fixture
def skopeo() -> str:
    """The program's path."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("skopeo is not installed")
    return program


@pytest.fixture
def registry(skopeo: str, postgresql_uri: str, redis_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of an example registry with a worker beside it."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "FLASK_APP": "example_app",
        "FLASK_HUBHOOKS_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
        "FLASK_HUBHOOKS_EXTERNAL_URL": url,
        "FLASK_HUBHOOKS_REDIS_URL": redis_url,
        "FLASK_REGISTRY_ROOT": str(tmp_path / "registry"),
        "FLASK_SECRET_KEY": "the flow's secret key",
        "FLASK_SQLALCHEMY_DATABASE_URI": postgresql_uri,
    }
    commands = [("flask", "run", "--port", url.rsplit(":", 1)[1]), ("flask", "hubhooks", "worker")]
    processes = [Process(tmp_path / f"{command[1]}.log", environment, *command) for command in commands]
    poll(lambda: answers(url), seconds=20)
    yield url
    for process in processes:
        process.stop()
        print(process.log)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/v2/", timeout=5).status_code in (200, 401)
    except requests.ConnectionError:
        return False


@pytest.fixture
def push(skopeo: str, registry: str, tmp_path: Path) -> Callable[..., str]:
    """A function that pushes an image, by default a small one, with skopeo; it returns the digest."""

    def copy(tag: str, image: Any = None, repository: str = "acme/app") -> str:
        folder = tmp_path / f"layout-{tag}"
        digest = build_layout(folder, image or build_image({"tag": tag.encode()}))
        target = f"docker://{registry.removeprefix('http://')}/{repository}:{tag}"
        options = ["--all", "--dest-tls-verify=false", "--dest-creds=alice:alice"]
        subprocess.run(
            [skopeo, "--insecure-policy", "copy", *options, f"oci:{folder}:latest", target],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return digest

    return copy


def calls_back(**callback: str) -> Answer:
    """Post this callback to the payload's `callback_url`, then answer 200."""

    def answer(request: Request, _: Connection) -> int:
        return requests.post(json.loads(request.body)["callback_url"], json=callback, timeout=10).status_code

    return answer


class API:
    """The webhooks of acme/app, as Alice sees them."""

    def __init__(self, registry: str) -> None:
        self._url = f"{registry}/v2/repositories/acme/app/webhooks/"

    def create(self, name: str, *urls: str) -> dict[str, Any]:
        content = {"name": name, "hooks": [{"hook_url": url} for url in urls]}
        answer = requests.post(self._url, json=content, auth=ALICE, timeout=10)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def read(self, *path: object) -> Any:
        answer = requests.get(self._url + "".join(f"{part}/" for part in path), auth=ALICE, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def states(self, webhook: dict[str, Any]) -> list[str]:
        return [each["state"] for each in self.read(webhook["id"], "history")["results"]]


def test_from_push_to_history(registry: str, push: Callable[..., str]) -> None:
    """A pushed tag reaches a single hook and both hooks of a chain, in order; the history tells all of it."""
    push("first")
    api = API(registry)
    tested = {"state": "success", "description": "387 tests PASSED", "context": "CI", "target_url": "https://ci/7"}
    with Receiver() as single, Receiver(calls_back(**tested)) as test, Receiver(calls_back(state="success")) as release:
        notify = api.create("notify", single.url)
        pipeline = api.create("pipeline", test.url, release.url)
        digest = push("v1")
        poll(lambda: api.states(pipeline) == ["succeeded"] * 2 and api.states(notify) == ["succeeded"], seconds=20)
    requests_ = [receiver.requests for receiver in (single, test, release)]
    assert [len(each) for each in requests_] == [1, 1, 1]
    assert test.requests[0].time <= release.requests[0].time
    for [request], webhook in zip(requests_, (notify, pipeline, pipeline), strict=True):
        payload = Webhook(webhook["secret"]).verify(request.body, dict(request.headers))
        assert (payload["push_data"]["tag"], payload["push_data"]["pusher"]) == ("v1", "alice")
        assert (payload["repository"]["repo_name"], payload["repository"]["owner"]) == ("acme/app", "alice")
        assert payload["callback_url"].startswith(f"{registry}/u/acme/app/hook/")
    first, second = (
        api.read(pipeline["id"], "history", each["id"]) for each in api.read(pipeline["id"], "history")["results"]
    )
    assert tested.items() <= first["callback"].items()
    assert first["id"] == test.requests[0].headers["webhook-id"]
    assert (first["push"]["digest"], first["push"]["media_type"]) == (digest, MANIFEST)
    assert [each["attempts"][0]["trigger"] for each in (first, second)] == ["push", "chain"]
    assert [each["attempts"][0]["status_code"] for each in (first, second)] == [200, 200]


def test_many_platforms_and_a_failed_chain(registry: str, push: Callable[..., str]) -> None:
    """An image for two platforms is one push; where the first hook calls back a failure the second is not called."""
    push("first")
    api = API(registry)
    with Receiver(calls_back(state="failure")) as test, Receiver() as release:
        pipeline = api.create("pipeline", test.url, release.url)
        platforms = [build_image({"a": b"a"}, architecture) for architecture in ("amd64", "arm64")]
        digest = push("multi", build_index(platforms))
        poll(lambda: api.states(pipeline) == ["failed", "skipped"], seconds=20)
        assert (len(test.requests), len(release.requests)) == (1, 0)
    failed = api.read(pipeline["id"], "history")["results"][0]
    assert (failed["push"]["tag"], failed["push"]["digest"]) == ("multi", digest)
    assert failed["push"]["images"] == [each.digest for each in platforms]
    assert failed["callback"]["state"] == "failure"
