"""Filters: which tags they let through, and that no pattern stalls or breaks them."""

from __future__ import annotations

import string
from fnmatch import fnmatchcase
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.records.filters import (
    PATTERN_LIMIT,
    PATTERNS_LIMIT,
    BadPattern,
    Filter,
    check_tag_pattern,
    stored_filter,
)

TAG_SIGNS = string.ascii_letters + string.digits + "_.-"
TAG_LIMIT = 128  # OCI Distribution 1.1

tags = st.text("abm19_.-", min_size=1, max_size=8)
any_tags = st.text(TAG_SIGNS, min_size=1, max_size=TAG_LIMIT)


def allowed(pattern: str) -> bool:
    try:
        check_tag_pattern(pattern)
    except BadPattern:
        return False
    return True


patterns = st.text("abm19_.-*?[]!", min_size=1, max_size=10).filter(allowed)


@pytest.mark.parametrize(
    ("wanted", "through", "out"),
    [
        ([], ["latest", "v1", "_"], []),
        (["latest"], ["latest"], ["Latest", "latest-1", "xlatest"]),
        (["v*"], ["v", "v1", "v1.2-rc1"], ["V1", "1v", "latest"]),
        (["v?"], ["v1"], ["v", "v10"]),
        (["v[0-9]*"], ["v1", "v12"], ["va", "v"]),
        (["v[!0-9]"], ["va"], ["v1"]),
        (["v1.2"], ["v1.2"], ["v1x2"]),
        (["v*", "latest"], ["v1", "latest"], ["main"]),
        (["!*-rc*"], ["v1", "latest"], ["v1-rc", "v1-rc1"]),
        (["v*", "!*-rc*"], ["v1"], ["v1-rc1", "latest"]),
        (["!*-rc*", "v*"], ["v1"], ["v1-rc1", "latest"]),
        (["!v1", "v1"], [], ["v1", "v2"]),
        (["!*"], [], ["v1", "latest"]),
        (["!a", "!b"], ["c"], ["a", "b"]),
    ],
)
def test_matches(wanted: list[str], through: list[str], out: list[str]) -> None:
    """A tag passes if a pattern includes it, or none includes any, and none excludes it; order is irrelevant."""
    for tag_filter in (Filter(wanted), Filter(wanted[::-1]), stored_filter(" ".join(wanted))):
        assert [tag for tag in through + out if tag_filter.matches(tag)] == through


@given(pattern=patterns, tag=tags)
def test_agrees_with_fnmatch(pattern: str, tag: str) -> None:
    """A pattern matches as `fnmatchcase` does, and with `!` the opposite."""
    excluded = pattern.startswith("!")
    assert Filter([pattern]).matches(tag) is (fnmatchcase(tag, pattern.removeprefix("!")) is not excluded)


@pytest.mark.parametrize(
    ("pattern", "tag"), [("[.-**-z]", "m"), ("[.-**-z]", "-"), ("a**b", "ab"), ("**", "a"), ("[*]", "a"), ("[**]", "a")]
)
def test_stars_in_a_row(pattern: str, tag: str) -> None:
    """Consecutive stars count as one, except within brackets."""
    assert Filter([pattern]).matches(tag) is fnmatchcase(tag, pattern)


@given(wanted=st.lists(patterns, max_size=5), tag=tags)
def test_agrees_with_its_own_rule(wanted: list[str], tag: str) -> None:
    """Patterns combine: any including pattern must match if there is one, and no excluding one may."""
    including = [fnmatchcase(tag, each) for each in wanted if each[0] != "!"]
    excluding = [fnmatchcase(tag, each[1:]) for each in wanted if each[0] == "!"]
    assert Filter(wanted).matches(tag) is ((not including or any(including)) and not any(excluding))


@given(pattern=st.text(st.characters(), max_size=140) | st.text("a!*?[]-^&|~\\", max_size=12), tag=any_tags)
def test_total(pattern: str, tag: str) -> None:
    """Any text is either refused as a pattern, or matches tags without an error or a warning."""
    if allowed(pattern):
        assert Filter([pattern]).matches(tag) in (True, False)


@given(tag=any_tags)
def test_every_tag_can_be_said(tag: str) -> None:
    """Every tag that OCI allows is a pattern that includes or excludes that tag."""
    if tag[0] in ".-":
        assert not allowed(tag)
        return
    check_tag_pattern(tag)
    assert Filter([tag]).matches(tag)
    assert not Filter([f"!{tag}"]).matches(tag)


@pytest.mark.parametrize(
    "pattern",
    ["", "!", "!!a", " ", "a b", "a\n", "\na", "é", "a/b", "a:b", "a\\b", "{a,b}", ".a", "-a", "^a", "\0", "\ud800"],
)
def test_refused(pattern: str) -> None:
    """A text that no tag can match is not a pattern."""
    assert not allowed(pattern)


@pytest.mark.parametrize(
    "pattern", ["[z-a]", "[!z-a]", "[a0-9z-a]", "[", "[]", "[!]", "a[", "]", "[[a]", "[a[b]", "[a--b]"]
)
def test_odd_brackets(pattern: str) -> None:
    """Unclosed, empty and reversed brackets are refused, since Python's versions treat them differently."""
    assert not allowed(pattern)


@pytest.mark.parametrize(
    ("pattern", "tag"), [("v[0-9-]", "v-"), ("[!a-c]x", "dx"), ("[._]", "_"), ("[0-9a-f]*", "beef")]
)
def test_brackets(pattern: str, tag: str) -> None:
    """Brackets hold characters, ranges, and a final hyphen."""
    assert allowed(pattern) and Filter([pattern]).matches(tag)


def test_length() -> None:
    """A pattern may be as long as a tag, including its `!`, and no longer."""
    assert allowed("a" * PATTERN_LIMIT) and allowed("!" + "a" * (PATTERN_LIMIT - 1))
    assert not allowed("a" * (PATTERN_LIMIT + 1)) and not allowed("!" + "a" * PATTERN_LIMIT)


@pytest.mark.parametrize("part", ["*a", "*?", "*[ab]", "a*", "**", "*", "?*a", "*[!b]a", "*aa", "*" * 63 + "b"])
def test_worst_cases(part: str) -> None:
    """The longest filter of backtracking patterns is decided instantly for the longest tags."""
    pattern = (part * PATTERN_LIMIT)[: PATTERN_LIMIT - 1] + "b"
    tag_filter = Filter([pattern] * PATTERNS_LIMIT)
    before = process_time()
    for tag in ("a" * 255, "a" * 254 + "c", "ab" * 127, "-" * 255):
        tag_filter.matches(tag)
    assert process_time() - before < 1
