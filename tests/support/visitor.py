"""Somebody who looks at the pages without JavaScript: follows links, and sends forms with their token."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from .host import Host

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_TAGS = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]+>", re.DOTALL)


def text_of(answer: TestResponse) -> str:
    """What a page says, without its markup."""
    return " ".join(html.unescape(_TAGS.sub(" ", answer.text)).split())


def version_on(answer: TestResponse) -> str:
    """The version of the webhook that a form is for."""
    found = re.search(r'name="version" value="([^"]+)"', answer.text)
    assert found
    return found[1]


@dataclass
class Visitor:
    """One visitor of a host's pages, with cookies of their own; `user` signs in."""

    host: Host
    user: str | None = "alice"
    repository: str = "acme/app"

    def __post_init__(self) -> None:
        self.client: FlaskClient = self.host.app.test_client()

    def ask(self, method: str, path: str = "", **options: Any) -> TestResponse:
        headers = options.pop("headers", {}) | ({"X-User": self.user} if self.user else {})
        return self.client.open(self.url(path), method=method, headers=headers, **options)

    def url(self, path: str = "") -> str:
        return path if path.startswith("/") else f"/r/{self.repository}/webhooks/{path}"

    def get(self, path: str = "", status: int = 200) -> TestResponse:
        answer = self.ask("GET", path)
        assert answer.status_code == status, answer.text
        assert answer.content_type == "text/html; charset=utf-8"
        return answer

    def token(self) -> str:
        found = _TOKEN.search(self.get().text)
        assert found, "there is no form on the page"
        return found[1]

    def send(self, path: str = "", **fields: Any) -> TestResponse:
        """Send a form with the session's token; a list is sent as several fields."""
        return self.ask("POST", path, data={"csrf_token": self.token()} | fields)

    def create(self, *urls: str, name: str = "deploy") -> TestResponse:
        return self.send(name=name, hook_url=list(urls), hook_id=[""] * len(urls))
