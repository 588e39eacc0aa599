"""What the receivers have noted, by delivery."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from .pace import DEADLINE_S

LAG_S = 1.5
"""How late something may be noted, on a busy machine."""
EARLY_S = 0.3
"""How much the clocks by which things are noted may differ."""


@dataclass
class Post:
    """One POST that arrived. Times are of the monotonic clock."""

    path: str
    tag: str
    worker: str
    at: float
    ended_at: float = inf
    """When it was answered, or how else it ended: by a fault, or by the client's being seen to be gone."""
    answered: bool = False
    """With 200."""
    attempt: Any = None
    """Its row in the history, where there is one."""
    waited_s: float = 0.0
    """How long the worker waited for the answer, by the history."""
    known_at: float = inf
    """When the worker knew what had come of it: by the history, or as the receiver and the deadline have it."""


@dataclass
class Story:
    """All that receivers know of one delivery."""

    posts: list[Post] = field(default_factory=list)
    called: list[tuple[float, str]] = field(default_factory=list)
    """When a callback was posted, and its state; again for each time it was not answered."""
    accepted: set[str] = field(default_factory=set)
    """The states that were answered with 200."""
    lines: list[str] = field(default_factory=list)

    @property
    def has_arrived(self) -> bool:
        """Whether a POST was answered with 200, or proved by a callback."""
        return bool(self.accepted) or any(post.answered for post in self.posts)

    def success_called_before(self, at: float) -> bool:
        return "success" in self.accepted and any(when <= at and state == "success" for when, state in self.called)


def read(path: Path) -> dict[str, Story]:
    """The stories, by delivery's id."""
    stories: defaultdict[str, Story] = defaultdict(Story)
    for line in path.read_text().splitlines():
        at, what, delivery, *details = json.loads(line)
        stories[delivery].lines.append(line)
        _tell(stories[delivery], at, what, details)
    return dict(stories)


def _tell(story: Story, at: float, what: str, details: list[Any]) -> None:
    if what == "posted":
        path, tag, worker = details[1:]
        story.posts.append(Post(path, tag, worker, at))
    elif what == "ended":
        number, how = details
        story.posts[number].ended_at, story.posts[number].answered = at, how == "200"
    elif what == "called":
        story.called.append((at, details[0]))
    elif details[1] == 200:
        story.accepted.add(details[0])


def match(posts: Sequence[Post], attempts: Sequence[Any], wall_s: float) -> list[Any]:
    """Give each POST its attempt: of the same worker, and going on when it arrived. Returns the attempts left over.

    Attempts are dated by the wall clock, which is `wall_s` later.
    """
    left = list(attempts)
    for post in posts:
        post.known_at = min(post.ended_at, post.at + DEADLINE_S)
        if its := [each for each in left if _is_of(each, post, wall_s)]:
            post.attempt = its[-1]
            left.remove(post.attempt)
            post.waited_s = post.attempt.duration_ms / 1000
            post.known_at = post.attempt.started_at.timestamp() - wall_s + post.waited_s
    return left


def _is_of(attempt: Any, post: Post, wall_s: float) -> bool:
    """One that was not answered in time may arrive after that: it lay in a socket for so long."""
    began = attempt.started_at.timestamp() - wall_s
    ended = began + attempt.duration_ms / 1000 + (LAG_S if attempt.status_code is None else 0)
    return bool(attempt.worker == post.worker and began - EARLY_S < post.at < ended + EARLY_S)
