"""Events of Harbor, made from its documentation, in both of its formats."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from flask_hubhooks import BadEvent
from flask_hubhooks.sources.harbor import pushes

DIGEST = "sha256:8a9e9863dbb6e10edb5adfe917c00da84e1700fa76e7ed02476aa6e6fb8ee0d8"
DATA: dict[str, Any] = {
    "resources": [{"digest": DIGEST, "tag": "latest", "resource_url": "harbor.example.com/acme/app:latest"}],
    "repository": {
        "date_created": 1586922308,
        "name": "app",
        "namespace": "acme",
        "repo_full_name": "acme/app",
        "repo_type": "private",
    },
}
DEFAULT = {"type": "PUSH_ARTIFACT", "occur_at": 1586922308, "operator": "robot$acme+ci", "event_data": DATA}
CLOUD_EVENT = {
    "specversion": "1.0",
    "requestid": "2eedfab8-61d3-4f3c-8ec3-8f82d1ec4c84",
    "id": "4b2f89a6-548d-4c12-9993-a1f5790b97d2",
    "source": "/projects/1/webhook/policies/15",
    "type": "harbor.artifact.pushed",
    "datacontenttype": "application/json",
    "time": "2020-04-15T03:45:08Z",
    "data": DATA,
    "operator": "robot$acme+ci",
}
IGNORED = [
    "PULL_ARTIFACT",
    "DELETE_ARTIFACT",
    "SCANNING_COMPLETED",
    "SCANNING_FAILED",
    "SCANNING_STOPPED",
    "QUOTA_EXCEED",
    "QUOTA_WARNING",
    "REPLICATION",
    "TAG_RETENTION",
    "pullImage",
    "deleteImage",
    "scanningCompleted",
    "harbor.artifact.pulled",
    "harbor.artifact.deleted",
    "harbor.scan.completed",
    "harbor.quota.exceeded",
    "harbor.replication.status.changed",
    "harbor.tag_retention.finished",
]


def read(event: dict[str, Any]) -> list[Any]:
    return pushes({"content-type": "application/json"}, json.dumps(event).encode())


@pytest.mark.parametrize("event", [DEFAULT, DEFAULT | {"type": "pushImage"}, CLOUD_EVENT])
def test_pushed(event: dict[str, Any]) -> None:
    """A pushed tag is a push, with all that the event tells."""
    [push] = read(event)
    assert (push.repository, push.tag, push.digest, push.pusher) == ("acme/app", "latest", DIGEST, "robot$acme+ci")
    assert push.pushed_at == datetime(2020, 4, 15, 3, 45, 8, tzinfo=timezone.utc)
    assert (push.media_type, push.images) == ("", ())


def test_event_ids() -> None:
    """A repeat has the same event id; a push at another time, or of another image, has another one."""
    for event, other in ((DEFAULT, {"occur_at": 1586922309}), (CLOUD_EVENT, {"id": "another"})):
        assert read(event) == read(event)
        assert read(event)[0].event_id != read(event | other)[0].event_id
    resources = [{"digest": "sha256:0", "tag": "latest"}]
    assert read(DEFAULT)[0].event_id != read(DEFAULT | {"event_data": DATA | {"resources": resources}})[0].event_id
    assert read(DEFAULT | {"occur_at": "now"})[0].event_id is None


def test_no_pushes(caplog: pytest.LogCaptureFixture) -> None:
    """Artifacts without a tag, and all else that Harbor tells, are no pushes; unknown events are warned of."""
    untagged = DATA | {"resources": [{"digest": DIGEST, "tag": DIGEST}, {"digest": DIGEST}]}
    assert read(DEFAULT | {"event_data": untagged}) == read(CLOUD_EVENT | {"data": untagged}) == []
    for kind in IGNORED:
        content = CLOUD_EVENT if kind.startswith("harbor.") else DEFAULT
        assert read(content | {"type": kind}) == []
    assert not caplog.records
    assert read(DEFAULT | {"type": "FROBNICATE"}) == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize("content", [{}, {"type": "PUSH_ARTIFACT"}, {"event_data": DATA}, {"specversion": "1.0"}])
def test_no_event(content: dict[str, Any]) -> None:
    """What is no event of Harbor is refused."""
    with pytest.raises(BadEvent):
        read(content)
