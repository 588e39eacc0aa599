"""What the host's registry tells us: the pushes, and the details of a repository."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

MAX_TEXT_LENGTHS = {"description": 1_000, "full_description": 25_000, "dockerfile": 25_000}
MAX_TEXT_LENGTH = 2_048
"""Characters of a repository's texts that are kept with each push and sent to each receiver; the rest is cut off.

25,000 is Docker Hub's own limit for a full description. nginx accepts bodies of 1 MiB unless it is configured
otherwise.
"""
MIN_NUMBER, MAX_NUMBER = -(2**63), 2**63 - 1
"""The lowest and the highest count of stars or comments."""
MAX_NAME_LENGTH = 255
"""Characters of a repository's name, as our tables hold it."""
MAX_IMAGES = 100
"""Digests of an index's images that are kept with each push; pushers choose how many an index has."""


@dataclass(frozen=True)
class ImagePush:
    """One tag of one repository was pushed.

    `images` are the digests of the images in an index, in order; empty for a single image. A naive `pushed_at` is taken
    as UTC; None means now. Of several pushes of a tag with the same `event_id` only the first is recorded, so a
    registry may repeat its events. A push of what is not a repository or not a tag is refused when it is recorded, not
    here.
    """

    repository: str
    tag: str
    digest: str = ""
    media_type: str = ""
    pusher: str = ""
    pushed_at: datetime | None = None
    event_id: str | None = None
    images: Sequence[str] = ()


@dataclass(frozen=True)
class Repository:
    """The details of a repository that go into the payload's `repository` object.

    By default `owner` is the namespace, and `repo_url` the repository's page below `HUBHOOKS_EXTERNAL_URL`.
    """

    description: str = ""
    full_description: str = ""
    dockerfile: str = ""
    is_private: bool = False
    is_official: bool = False
    is_trusted: bool = False
    star_count: int = 0
    comment_count: int = 0
    owner: str = ""
    repo_url: str = ""
    date_created: datetime | None = None
    status: str = "Active"

    def snapshot(self) -> dict[str, Any]:
        """Return the details as they are stored with a push: JSON values, each of its field's type.

        Texts are cut off at their limit, and numbers at those of 64 bits. None becomes the field's default;
        `date_created` becomes epoch seconds, 0 if unknown.
        """
        return {each.name: _json_value(each.name, getattr(self, each.name), each.default) for each in fields(self)}


def _json_value(name: str, value: Any, default: Any) -> Any:
    if isinstance(value, datetime):
        return int(as_utc(value).timestamp())
    if default is None:
        return 0
    if value is None:
        return default
    if isinstance(default, str):
        return storable(str(value)[: MAX_TEXT_LENGTHS.get(name, MAX_TEXT_LENGTH)])
    if isinstance(default, bool):
        return bool(value)
    return max(MIN_NUMBER, min(int(value), MAX_NUMBER))


class InvalidName(ValueError):
    """Not the name of a repository, or not a tag."""


def check_push(push: ImagePush) -> None:
    """Raise `InvalidName` if it is not the push of a tag of a repository."""
    check_repository(push.repository)
    if push.repository == "*" or push.repository.endswith("/*"):
        raise InvalidName(f"not a repository name: {push.repository!r} stands for many")
    if not isinstance(push.tag, str) or not _TAG.fullmatch(push.tag):
        raise InvalidName(
            "not a tag: a tag has 1 to 128 letters, digits, '_', '.' and '-', and begins with neither '.' nor '-'"
        )


_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""The grammar of the OCI distribution specification."""


def check_repository(name: str) -> None:
    """Raise `InvalidName` if it is not a name that a repository can have."""
    if not isinstance(name, str):
        raise InvalidName(f"not a repository name: {type(name).__name__} is not str")
    shown = reprlib.repr(name)
    if not name.strip():
        raise InvalidName("not a repository name: it is empty")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidName(
            f"not a repository name: {shown} has {len(name)} characters, and {MAX_NAME_LENGTH} is the limit"
        )
    if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise InvalidName(f"not a repository name: {shown} has a NUL or a lone surrogate, which no database stores")


def as_utc(value: datetime) -> datetime:
    """Return a time as aware UTC; a naive one is taken as UTC."""
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


def storable(text: str) -> str:
    """Replace what UTF-8 and PostgreSQL cannot store in a text: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
