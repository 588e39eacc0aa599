"""Harbor's `PUSH_ARTIFACT` event in its `Default` format, for Argo CD, argocd-image-updater, Flux, Kargo and Kobold."""

from __future__ import annotations

from typing import Any

from .push import Push


def payload(push: Push) -> dict[str, Any]:
    """Build the event and add our `callback_url`.

    The namespace is a Harbor project, so it ends at the first slash; it is `library` where there is none.
    """
    first, slash, rest = push.repository.partition("/")
    created = push.details.get("date_created")
    return {
        "type": "PUSH_ARTIFACT",
        "occur_at": push.timestamp,
        "operator": push.pusher,
        "event_data": {
            "resources": [
                ({"digest": push.digest} if push.digest else {})
                | {"tag": push.tag, "resource_url": f"{push.image}:{push.tag}"}
            ],
            "repository": ({"date_created": created} if created else {})
            | {
                "name": rest if slash else first,
                "namespace": first if slash else "library",
                "repo_full_name": push.repository,
                "repo_type": "private" if push.details.get("is_private") else "public",
            },
        },
        "callback_url": push.callback_url,
    }
