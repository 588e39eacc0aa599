"""A CloudEvents 1.0 event in structured JSON, for Knative, Argo Events and argocd-image-updater."""

from __future__ import annotations

from typing import Any

from .push import Push

CONTENT_TYPE = "application/cloudevents+json"
TYPE = "io.hubhooks.image.pushed"
"""argocd-image-updater requires `image` or `container` in the type."""


def payload(push: Push) -> dict[str, Any]:
    """Build the event; its id is the delivery's, so all attempts have the same."""
    return {
        "specversion": "1.0",
        "id": str(push.delivery_id),
        "source": f"https://{push.registry_host}",
        "type": TYPE,
        "subject": f"{push.repository}:{push.tag}",
        "time": push.time,
        "datacontenttype": "application/json",
        "data": {
            "registry": push.registry_host,
            "repository": push.repository,
            "tag": push.tag,
            **({"digest": push.digest} if push.digest else {}),
            "pusher": push.pusher,
            "callback_url": push.callback_url,
        },
    }
