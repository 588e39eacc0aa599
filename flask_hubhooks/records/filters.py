"""Filters of webhooks for tags and repositories: `v*` includes what it matches, `!*-rc*` excludes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

PATTERNS_LIMIT = 20
PATTERN_LIMIT = 128
"""Characters of a pattern, and of a tag."""

_ONE_OF = r"\[!?(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_.])+-?\]"
TAG_PATTERN = re.compile(rf"!?(?:[A-Za-z0-9_*?]|{_ONE_OF})(?:[A-Za-z0-9_.*?-]|{_ONE_OF})*")
"""What can match a tag (OCI Distribution 1.1, "Pulling manifests"), and means the same to every version of Python."""
REPOSITORY_PATTERN = re.compile(rf"!?(?:[A-Za-z0-9_*?]|{_ONE_OF})(?:[A-Za-z0-9_.*?/-]|{_ONE_OF})*")
"""What can match the name of a repository; its wildcards match slashes, too."""
_RANGE = re.compile(r"([A-Za-z0-9])-([A-Za-z0-9])")


class BadPattern(ValueError):
    """Nothing can match the pattern, or it is too long; the text says what is allowed."""


class Filter:
    """Patterns with `*`, `?` and `[…]`; a leading `!` excludes.

    A text matches if one of the including patterns matches it, or there are none, and no excluding one does. Their
    order does not matter. Without patterns every text matches. Patterns are case-sensitive, as tags are.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._wanted = [_compiled(each) for each in patterns if not each.startswith("!")]
        self._unwanted = [_compiled(each[1:]) for each in patterns if each.startswith("!")]

    def matches(self, text: str) -> bool:
        wanted = not self._wanted or any(pattern.match(text) for pattern in self._wanted)
        return wanted and not any(pattern.match(text) for pattern in self._unwanted)


@lru_cache(maxsize=1024)
def stored_filter(text: str) -> Filter:
    """The filter of a stored `tag_filter` or `repository_filter`: patterns separated by spaces."""
    return Filter(text.split())


def check_tag_pattern(pattern: str) -> None:
    """Check that a tag can match a pattern; raises `BadPattern`."""
    if not TAG_PATTERN.fullmatch(pattern):
        raise BadPattern("Must be letters, digits, '_', '.', '-' and the wildcards '*', '?', '[…]', after '!' or not.")
    _check(pattern)


def check_repository_pattern(pattern: str) -> None:
    """Check that a repository can match a pattern; raises `BadPattern`."""
    if not REPOSITORY_PATTERN.fullmatch(pattern):
        raise BadPattern(
            "Must be letters, digits, '_', '.', '-', '/' and the wildcards '*', '?', '[…]', after '!' or not."
        )
    _check(pattern)


def _check(pattern: str) -> None:
    if len(pattern) > PATTERN_LIMIT:
        raise BadPattern(f"Longer than maximum length {PATTERN_LIMIT}.")
    for choice in re.findall(_ONE_OF, pattern):
        if any(first > last for first, last in _RANGE.findall(choice)):
            raise BadPattern(f"Holds a range that is empty: {choice}.")


def _compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression for a pattern.

    `fnmatch` treats `**` like `*`, and gives each but the last an atomic group, so that a match takes at most as many
    steps as the length of the tag times the length of the pattern.
    """
    return re.compile(translate(pattern))
