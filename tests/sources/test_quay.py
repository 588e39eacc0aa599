"""Events of Quay, made from its documentation."""

from __future__ import annotations

import json

import pytest

from flask_hubhooks import BadEvent, ImagePush
from flask_hubhooks.sources.quay import pushes

EVENT = {
    "repository": "acme/app",
    "namespace": "acme",
    "name": "app",
    "docker_url": "quay.example.com/acme/app",
    "homepage": "https://quay.example.com/repository/acme/app",
    "updated_tags": ["latest", "1.2"],
}


def read(content: object) -> list[ImagePush]:
    return pushes({}, json.dumps(content).encode())


def test_pushed() -> None:
    """Each tag is a push. None has an event id, so that no push is lost."""
    assert read(EVENT) == [ImagePush("acme/app", "latest"), ImagePush("acme/app", "1.2")]


def test_no_pushes(caplog: pytest.LogCaptureFixture) -> None:
    """Other events of Quay are ignored with a warning."""
    assert read({key: value for key, value in EVENT.items() if key != "updated_tags"}) == []
    assert len(caplog.records) == 1
    assert read(EVENT | {"updated_tags": [7, None, ""]}) == []


@pytest.mark.parametrize("content", [{}, [], {"updated_tags": ["latest"]}])
def test_no_event(content: object) -> None:
    """What is no event of Quay is refused."""
    with pytest.raises(BadEvent):
        read(content)
