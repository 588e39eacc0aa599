"""Events of zot, made from what it documents and what its code sends."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from flask_hubhooks import BadEvent, ImagePush
from flask_hubhooks.sources.zot import pushes

INDEX = {
    "schemaVersion": 2,
    "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:aa", "size": 1},
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:bb", "size": 1},
    ],
}
DATA = {
    "name": "acme/app",
    "reference": "latest",
    "digest": "sha256:141bb9c71be5e53c2ce7c58d990b058035955f29622980d5cce04456e080635b",
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifest": json.dumps(INDEX),
    "actor": {"name": "alice"},
    "request": {"addr": "10.0.0.7:5000", "method": "PUT", "useragent": "skopeo/1.9.3"},
}
ATTRIBUTES = {
    "specversion": "1.0",
    "type": "zotregistry.image.updated",
    "source": "zotregistry.dev",
    "id": "b2f1b3f8-44f5-4b0c-8a53-5b9a3c5f7a10",
    "time": "2026-11-24T03:00:15.712462555Z",
}
PUSH = ImagePush(
    "acme/app",
    "latest",
    DATA["digest"],  # type: ignore[arg-type]
    "application/vnd.oci.image.index.v1+json",
    "alice",
    datetime(2026, 11, 24, 3, 0, 15, 712462, timezone.utc),
    ATTRIBUTES["id"],
    ["sha256:aa", "sha256:bb"],
)


def binary(data: dict[str, Any], **attributes: str) -> tuple[dict[str, str], bytes]:
    """A request as zot sends it."""
    given = ATTRIBUTES | attributes
    return {f"ce-{name}": value for name, value in given.items()}, json.dumps(data).encode()


def structured(data: dict[str, Any], **attributes: str) -> tuple[dict[str, str], bytes]:
    """A request as a NATS bridge sends it."""
    content = ATTRIBUTES | attributes | {"datacontenttype": "application/json", "data": data}
    return {"content-type": "application/cloudevents+json"}, json.dumps(content).encode()


@pytest.mark.parametrize("mode", [binary, structured])
def test_pushed(mode: Any) -> None:
    """A tag that was put is a push, with all that the event tells."""
    assert pushes(*mode(DATA)) == pushes(*mode(DATA, type="com.example.registry.image.updated")) == [PUSH]
    assert pushes(*mode({"name": "acme/app", "reference": "v1"}))[0].images == []


@pytest.mark.parametrize("mode", [binary, structured])
def test_no_pushes(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The images of an index, deletions, scans and new repositories are no pushes; unknown events are warned of."""
    assert pushes(*mode(DATA | {"reference": DATA["digest"]})) == []
    for kind in ("image.deleted", "image.lint_failed", "image.scanned", "repository.created"):
        assert pushes(*mode(DATA, type=f"zotregistry.{kind}")) == []
    assert not caplog.records
    assert pushes(*mode(DATA, type="zotregistry.image.frobnicated")) == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("body", [b"", b"[]", json.dumps(DATA).encode(), b'{"specversion": "1.0"}'])
def test_no_cloudevent(body: bytes) -> None:
    """What is no CloudEvent is refused."""
    with pytest.raises(BadEvent):
        pushes({}, body)
