"""Which tags a webhook wants to hear of: `v*` lets through, `!*-rc*` keeps out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

PATTERNS_LIMIT = 20
PATTERN_LIMIT = 128
"""Characters of a pattern; a tag has at most as many."""

_ONE_OF = r"\[!?(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_.])+-?\]"
PATTERN = re.compile(rf"!?(?:[A-Za-z0-9_*?]|{_ONE_OF})(?:[A-Za-z0-9_.*?-]|{_ONE_OF})*")
"""What can match a tag (OCI Distribution 1.1, "Pulling manifests"), and means the same to every version of Python."""
_RANGE = re.compile(r"([A-Za-z0-9])-([A-Za-z0-9])")


class BadPattern(ValueError):
    """A pattern that no tag can match, or that is too long; the text says what is allowed."""


class TagFilter:
    """Patterns with `*`, `?` and `[…]`; a leading `!` excludes.

    A tag matches where one of the patterns matches it, or where there are only excluding ones, and none of these
    matches it; their order does not matter. No patterns match every tag. Case counts, as in tags.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._wanted = [_compiled(each) for each in patterns if not each.startswith("!")]
        self._unwanted = [_compiled(each[1:]) for each in patterns if each.startswith("!")]

    def matches(self, tag: str) -> bool:
        wanted = not self._wanted or any(pattern.match(tag) for pattern in self._wanted)
        return wanted and not any(pattern.match(tag) for pattern in self._unwanted)


@lru_cache(maxsize=1024)
def stored_filter(text: str) -> TagFilter:
    """The filter of what `Webhook.tag_filter` holds: patterns with spaces between them."""
    return TagFilter(text.split())


def check_pattern(pattern: str) -> None:
    """Pass a pattern that a tag may match; raises `BadPattern` for any other."""
    if len(pattern) > PATTERN_LIMIT:
        raise BadPattern(f"Longer than maximum length {PATTERN_LIMIT}.")
    if not PATTERN.fullmatch(pattern):
        raise BadPattern("Must be letters, digits, '_', '.', '-' and the wildcards '*', '?', '[…]', after '!' or not.")
    for one_of in re.findall(_ONE_OF, pattern):
        if any(first > last for first, last in _RANGE.findall(one_of)):
            raise BadPattern(f"Holds a range that is empty: {one_of}.")


def _compiled(pattern: str) -> re.Pattern[str]:
    """What the pattern stands for.

    `fnmatch` takes `**` for `*` and gives each but the last an atomic group, so that a match takes at most the length
    of the tag times the length of the pattern.
    """
    return re.compile(translate(pattern))
