"""The notification of CNCF Distribution, for Keel, Jenkins and Kobold."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from .push import Push

CONTENT_TYPE = "application/vnd.docker.distribution.events.v2+json"


def payload(push: Push) -> dict[str, Any]:
    """Build the envelope with one event, whose id is the delivery's.

    Keel and Kobold read the registry's host from `request.host`, Jenkins from `target.url`.
    """
    reference = quote(push.digest or push.tag, safe=":")
    target = {
        "mediaType": push.media_type,
        "digest": push.digest,
        "repository": push.repository,
        "url": f"https://{push.registry_host}/v2/{quote(push.repository)}/manifests/{reference}",
        "tag": push.tag,
    }
    event = {
        "id": str(push.delivery_id),
        "timestamp": push.time,
        "action": "push",
        "target": {key: value for key, value in target.items() if value},
        "request": {"host": push.registry_host, "method": "PUT"},
        "actor": {"name": push.pusher} if push.pusher else {},
        "source": {"addr": push.registry_host},
    }
    return {"events": [event]}
