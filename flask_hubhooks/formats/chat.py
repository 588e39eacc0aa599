"""Messages for Slack, Discord and Microsoft Teams: the image, its tag, who pushed it, and a link.

Pushers choose tags and their own names, so these must not become markup, links or mentions of a whole channel.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from .push import Push

MAX_SLACK_CHARACTERS = 3000
MAX_DISCORD_CHARACTERS = 2000
MAX_IMAGE_CHARACTERS, MAX_PUSHER_CHARACTERS = 450, 100
"""Longer text is cut off, so that a message without its link fits even if every character is escaped."""


def slack(push: Push) -> dict[str, Any]:
    """Build a message for incoming webhooks of Slack, Mattermost and Rocket.Chat.

    Slack shows `blocks` and uses `text` in notifications; the others show `text`.
    """
    image, pushed = map(_slack_text, _sentence(push))
    text, linked = f"*{image}* {pushed}", f"*<{_slack_text(_link(push))}|{image}>* {pushed}"
    shown = linked if len(linked) <= MAX_SLACK_CHARACTERS else text
    return {"text": text, "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": shown}}]}


def discord(push: Push) -> dict[str, Any]:
    """Build a message for Discord's webhooks."""
    image, pushed = (re.sub(r"([\\*_~`|<>\[\]()])", r"\\\1", text) for text in _sentence(push))
    content = f"**{image}** {pushed}"
    linked = f"{content}\n<{_link(push)}>"  # without the angle brackets Discord adds a preview of the page
    fits = len(linked) <= MAX_DISCORD_CHARACTERS
    return {"content": linked if fits else content, "allowed_mentions": {"parse": []}}


def teams(push: Push) -> dict[str, Any]:
    """Build an Adaptive Card for a Teams workflow that posts the cards it receives."""
    image, pushed = (text.replace("](", "] (") for text in _sentence(push))
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {"type": "TextBlock", "text": image, "weight": "Bolder", "wrap": True},
            {"type": "TextBlock", "text": "P" + pushed[1:], "wrap": True},
        ],
        "actions": [{"type": "Action.OpenUrl", "title": "Open repository", "url": _link(push)}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _sentence(push: Push) -> tuple[str, str]:
    """Return the full image name and "pushed by alice", each on one line."""
    image, pusher = (" ".join(text.split()) for text in (f"{push.image}:{push.tag}", push.pusher))
    return image[:MAX_IMAGE_CHARACTERS], f"pushed by {pusher[:MAX_PUSHER_CHARACTERS]}" if pusher else "pushed"


def _link(push: Push) -> str:
    """Return the URL of the repository's page, with characters encoded that would end a link.

    Teams refuses messages whose link is not an http(s) URL, so a `repo_url` that is none is not used.
    """
    link = re.sub(r"[^!-~]|[<>|\"\\^`{}]", lambda found: quote(found[0]), push.page)
    return link if re.match(r"https?://.", link) else f"{push.external_url}/r/{quote(push.repository)}/"


def _slack_text(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?<!\w)@", "@\u200b", text)  # Mattermost and Rocket.Chat notify everybody for @all
