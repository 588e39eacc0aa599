"""Events of CNCF Distribution, as a real registry has sent them, and of its relatives."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from flask_hubhooks import BadEvent
from flask_hubhooks.sources.distribution import pushes

RECORDED = Path(__file__).parent.parent / "data" / "distribution"
"""What Debian's docker-registry sent, one file for each thing that skopeo did to it."""
APP, INDEX = (
    "sha256:d5160df500015439d682731573cb90885a3b73b2016d0a7d806ee7a63fa0a7b9",
    "sha256:141bb9c71be5e53c2ce7c58d990b058035955f29622980d5cce04456e080635b",
)


def recorded(name: str) -> list[bytes]:
    """The bodies of the requests that a registry sent."""
    return [json.dumps(each["body"]).encode() for each in json.loads((RECORDED / f"{name}.json").read_text())]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("first-push", ["acme/app:latest"]),
        ("repush-same-tag", ["acme/app:latest"]),
        ("new-tag-same-digest", ["acme/app:v1"]),
        ("cross-repository-mount", ["acme/other:latest"]),
        ("multi-arch-push", ["acme/multi:latest"]),
        ("push-as-alice", ["acme/authed:latest"]),
        ("pull", []),
        ("delete", []),
        ("delete-blob", []),
    ],
)
def test_recorded(name: str, expected: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """A tag that was put is a push; blobs, mounts, images of an index, pulls and deletions are none."""
    found = [push for body in recorded(name) for push in pushes({}, body)]
    assert [f"{push.repository}:{push.tag}" for push in found] == expected
    assert not caplog.records


def test_details() -> None:
    """A push has all that the event tells."""
    [single] = pushes({}, recorded("push-as-alice")[0])
    assert (single.digest, single.media_type) == (APP, "application/vnd.oci.image.manifest.v1+json")
    assert (single.pusher, single.event_id) == ("alice", "305abebd-bc0a-4c39-9005-05abe2494599")
    assert single.pushed_at == datetime(2026, 11, 24, 3, 0, 15, 712462, timezone.utc)
    [multi] = pushes({}, recorded("multi-arch-push")[-1])
    assert (multi.digest, multi.media_type, multi.pusher) == (INDEX, "application/vnd.oci.image.index.v1+json", "")
    assert [each[:15] for each in multi.images] == ["sha256:7a706735", "sha256:890f18b6"]
    assert single.images == pushes({}, recorded("first-push")[-1])[0].images == []


def test_without_envelope() -> None:
    """Azure's registry sends each event by itself, and one to try a webhook out."""
    event: dict[str, Any] = json.loads(recorded("push-as-alice")[0])["events"][0]
    assert pushes({}, json.dumps(event).encode()) == pushes({}, json.dumps({"events": [event]}).encode())
    assert pushes({}, b'{"id": "1", "timestamp": "2026-01-01T00:00:00Z", "action": "ping"}') == []


def test_unknown_events(caplog: pytest.LogCaptureFixture) -> None:
    """Events of unknown kinds are ignored with one warning, and those beside them are taken."""
    [body] = recorded("push-as-alice")
    known = json.loads(body)["events"]
    found = pushes({}, json.dumps({"events": [{"action": "frobnicate"}, {"action": ["x"]}, 7, *known]}).encode())
    assert [push.repository for push in found] == ["acme/authed"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'frobnicate'" in caplog.text


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"null", b"[]", b"{}", b'{"events": {}}', b'{"event": []}', b"[" * 100_000]
)
def test_no_envelope(body: bytes) -> None:
    """What is no JSON object with events is refused."""
    with pytest.raises(BadEvent, match="body"):
        pushes({}, body)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-11-24T03:00:15Z", datetime(2026, 11, 24, 3, 0, 15, tzinfo=timezone.utc)),
        ("2026-11-24T03:00:15.5+02:00", datetime(2026, 11, 24, 1, 0, 15, 500_000, timezone.utc)),
        ("2026-11-24T03:00:15.123456789Z", datetime(2026, 11, 24, 3, 0, 15, 123_456, timezone.utc)),
        *((odd, None) for odd in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "2026-13-01T00:00:00Z", "x", 7)),
    ],
)
def test_times(time: object, expected: datetime | None) -> None:
    """A push has the time of its event, or none where that is no real time."""
    event = {"action": "push", "timestamp": time, "target": {"repository": "acme/app", "tag": "v1"}}
    assert pushes({}, json.dumps(event).encode())[0].pushed_at == expected
