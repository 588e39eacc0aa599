"""Recognizes receivers by their hook URLs and suggests payload formats that they read.

Many receivers answer 200 to a payload that they cannot use, so the history alone shows nothing wrong.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..transport.hook_url import BadURL, split_credentials, target


class Hint(NamedTuple):
    """A payload format that suits the receiver at a URL better than the chosen one."""

    receiver: str
    payload_format: str
    url: str
    """The hook URL to use with that format: the given one, unless that names another format."""


_TYPE = r"\?(?:.*&)?type="
_DIGEST = r"[0-9a-f]{64}$"

RECEIVERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Slack", r"^hooks\.slack(-gov)?\.com/services/", ("slack",)),
    ("Discord", r"^(\w+\.)?discord(app)?\.com/api/(v\d+/)?webhooks/[^?]+/slack($|\?)", ("slack",)),
    ("Discord", r"^(\w+\.)?discord(app)?\.com/api/(v\d+/)?webhooks/", ("discord",)),
    ("Microsoft Teams", r"^[^/]*\.webhook\.office\.com/", ("teams",)),
    ("Microsoft Teams", r"^[^/]*\.(logic\.azure|api\.powerplatform)\.com/(.*/)?workflows/", ("teams",)),
    ("Argo CD", rf"/api/webhook{_TYPE}(dockerhub|harbor)\b", ("harbor",)),
    ("Argo CD Image Updater", rf"/webhook{_TYPE}(docker\.io|harbor)\b", ("harbor",)),
    ("Argo CD Image Updater", rf"/webhook{_TYPE}cloudevents\b", ("cloudevents",)),
    ("Keel", r"/v1/webhooks/dockerhub$", ("dockerhub-full",)),
    ("Keel", r"/v1/webhooks/harbor$", ("harbor",)),
    ("Keel", r"/v1/webhooks/registry$", ("distribution",)),
    ("Kargo", rf"/dockerhub/{_DIGEST}", ("dockerhub-full",)),
    ("Kargo", rf"/harbor/{_DIGEST}", ("harbor",)),
    # Flux decodes any JSON, but its type `github` verifies signatures of `application/json` only.
    ("Flux", rf"/hook/{_DIGEST}", ("harbor", "dockerhub", "dockerhub-full")),
    ("Jenkins", r"/dockerhub-webhook/", ("dockerhub-full", "dockerhub")),
    ("Jenkins", r"/dockerregistry-webhook/", ("distribution",)),
    ("Dokploy", r"/api/deploy/[^/?]+$", ("dockerhub-full",)),
)
"""Receiver, pattern to find in host, path and query, and the formats that it reads, the best first."""


def hint(url: str, payload_format: str) -> Hint | None:
    """Return a better format for a hook URL, or None if none is known.

    A template never has a hint: its owner knows what the receiver reads.
    """
    if payload_format == "template":
        return None
    try:
        found = target(split_credentials(url)[0])
    except BadURL:  # a newer version may no longer accept a stored URL
        return None
    for receiver, pattern, formats in RECEIVERS:
        if re.search(pattern, found.host + found.path):
            suited = re.sub(r"([?&]type=)(dockerhub|docker\.io)\b", r"\1harbor", url) if "type=" in pattern else url
            return Hint(receiver, formats[0], suited) if payload_format not in formats or suited != url else None
    return None
