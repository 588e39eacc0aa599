"""Events of Gitea and Forgejo, made from what their code sends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_hubhooks import BadEvent, ImagePush
from flask_hubhooks.sources.gitea import pushes

DELIVERY = "f6266f16-1bf3-46a5-9ea4-602e06ead473"
PACKAGE = {
    "id": 7,
    "owner": {"id": 1, "login": "Acme"},
    "repository": None,
    "creator": {"id": 2, "login": "alice"},
    "type": "container",
    "name": "App",
    "version": "latest",
    "html_url": "https://git.example.com/Acme/-/packages/container/app/latest",
    "created_at": "2026-11-24T03:00:15Z",
}
EVENT = {
    "action": "created",
    "repository": None,
    "package": PACKAGE,
    "organization": None,
    "sender": {"login": "alice"},
}


def read(content: dict[str, Any], event: str = "package", forge: str = "gitea") -> list[ImagePush]:
    headers = {f"x-{forge}-event": event, f"x-{forge}-delivery": DELIVERY}
    return pushes(headers, json.dumps(content).encode())


@pytest.mark.parametrize("forge", ["gitea", "forgejo"])
def test_pushed(forge: str) -> None:
    """A tag that was put is a push; the repository is the owner's, in lower case."""
    assert read(EVENT, forge=forge) == [ImagePush("acme/app", "latest", pusher="alice", event_id=DELIVERY)]


def test_no_pushes(caplog: pytest.LogCaptureFixture) -> None:
    """Images of an index, deletions, other packages and all else that a forge tells are no pushes."""
    child = PACKAGE | {"version": "sha256:8a9e9863dbb6e10edb5adfe917c00da84e1700fa76e7ed02476aa6e6fb8ee0d8"}
    assert read(EVENT | {"package": child}) == []
    assert read(EVENT | {"action": "deleted"}) == []
    assert read(EVENT | {"package": PACKAGE | {"type": "npm"}}) == []
    assert read({"ref": "refs/heads/main", "commits": []}, "push") == read({}, "issues") == []
    assert not caplog.records
    assert read(EVENT | {"action": "frobnicated"}) == []
    assert len(caplog.records) == 1


def test_no_event() -> None:
    """What is no webhook call of a forge is refused."""
    for headers, body in (({}, json.dumps(EVENT).encode()), ({"x-gitea-event": "package"}, b"payload=%7B%7D")):
        with pytest.raises(BadEvent):
            pushes(headers, body)


@pytest.mark.parametrize("missing", ["owner", "name"])
def test_no_repository(missing: str) -> None:
    """A package without an owner or a name is refused."""
    with pytest.raises(BadEvent, match="has no name, or no owner"):
        read(EVENT | {"package": {key: value for key, value in PACKAGE.items() if key != missing}})
