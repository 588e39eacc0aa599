"""Docker Hub's document with the registry's host in `repo_name`, for receivers that compare complete image names.

Keel and Kargo read a `repo_name` without a host as an image on Docker Hub.
"""

from __future__ import annotations

from typing import Any

from . import dockerhub
from .push import Push


def payload(push: Push) -> dict[str, Any]:
    """Build the document: `push_data` also has `images` and, if known, `digest` and `media_type`."""
    content = documented(push)
    content["push_data"] |= {key: value for key in ("digest", "media_type") if (value := getattr(push, key))}
    content["push_data"]["images"] = list(push.images) or ([push.digest] if push.digest else [])
    content["repository"]["repo_name"] = push.image
    return content


def documented(push: Push) -> dict[str, Any]:
    """Build exactly the document that Docker Hub documented."""
    return dockerhub.payload(
        external_url=push.external_url,
        callback_url=push.callback_url,
        repository=push.repository,
        tag=push.tag,
        pusher=push.pusher,
        pushed_at=push.pushed_at,
        details=push.details,
    )
