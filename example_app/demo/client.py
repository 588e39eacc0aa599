"""A client of the registry that is signed in as alice: it pushes images, makes webhooks and reads their history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests

from example_app.demo.waiting import Failed
from example_app.image import Image, digest_of

LIMIT_S = 10


class Client:
    """`tell` is called with the method, the path and the status of each request that changes something."""

    def __init__(self, url: str, tell: Callable[[str, str, int], None]) -> None:
        self._url = url
        self._tell = tell
        self._session = requests.Session()
        self._session.auth = ("alice", "alice")
        self._session.trust_env = False  # no proxy lies between us and loopback

    def is_up(self) -> bool:
        """Whether the registry answers."""
        try:
            return self._session.get(f"{self._url}/v2/", timeout=LIMIT_S).status_code == 200
        except requests.ConnectionError:
            return False

    def push(self, image: Image, repository: str, tag: str) -> None:
        """Push an image by the OCI distribution protocol: its blobs, then the manifest that makes them an image."""
        for blob in image.blobs:
            upload = self._send("POST", f"/v2/{repository}/blobs/uploads/", 202)
            self._send("PUT", upload.headers["Location"], 201, params={"digest": digest_of(blob)}, data=blob)
        headers = {"Content-Type": image.media_type}
        self._send("PUT", f"/v2/{repository}/manifests/{tag}", 201, data=image.manifest, headers=headers)

    def create_webhook(self, repository: str, name: str, *hook_urls: str) -> dict[str, Any]:
        """Make a webhook of a repository, or of a namespace such as `acme/*`; return it with its secret.

        It has one URL, or a chain.
        """
        scope = f"namespaces/{repository[:-2]}" if repository.endswith("/*") else f"repositories/{repository}"
        hooks = [{"hook_url": url} for url in hook_urls]
        wanted = {"name": name} | (hooks[0] if len(hooks) == 1 else {"hooks": hooks})
        answer = self._send("POST", f"/v2/{scope}/webhooks/", 201, json=wanted)
        return dict(answer.json())

    def pause(self, repository: str, webhook: dict[str, Any]) -> None:
        """Have a webhook called no more."""
        self._send("PATCH", f"/v2/repositories/{repository}/webhooks/{webhook['id']}/", 200, json={"active": False})

    def send_test(self, repository: str, webhook: dict[str, Any]) -> None:
        """Have a webhook called as if something was pushed."""
        self._send("POST", f"/v2/repositories/{repository}/webhooks/{webhook['id']}/test/", 202, json={})

    def deliveries(self, repository: str, webhook: dict[str, Any], tag: str) -> list[dict[str, Any]]:
        """The deliveries of a webhook for a tag, without their attempts, the first hook of a chain first."""
        history = self._get(f"/v2/repositories/{repository}/webhooks/{webhook['id']}/history/?tag={tag}")
        return sorted(history["results"], key=lambda delivery: int(delivery["position"]))

    def history(self, repository: str, webhook: dict[str, Any]) -> list[dict[str, Any]]:
        """The deliveries of a webhook with their attempts, the first hook of a chain first."""
        history = f"/v2/repositories/{repository}/webhooks/{webhook['id']}/history/"
        deliveries = [self._get(f"{history}{each['id']}/") for each in self._get(history)["results"]]
        return sorted(deliveries, key=lambda delivery: int(delivery["position"]))

    def _get(self, path: str) -> dict[str, Any]:
        return dict(self._checked(self._session.get(self._url + path, timeout=LIMIT_S), 200).json())

    def _send(self, method: str, path: str, status: int, **content: Any) -> requests.Response:
        answer = self._session.request(method, self._url + path, timeout=LIMIT_S, **content)
        self._tell(method, path, answer.status_code)
        return self._checked(answer, status)

    def _checked(self, answer: requests.Response, status: int) -> requests.Response:
        if answer.status_code != status:
            path = urlsplit(answer.url).path
            raise Failed(f"{answer.request.method} {path} answered {answer.status_code}: {answer.text[:500]}")
        return answer
