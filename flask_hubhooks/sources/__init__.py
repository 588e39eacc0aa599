"""Reads what registries send: one pure function for each source, from a request's headers and body to pushes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..registry import ImagePush
from . import distribution, gitea, harbor, quay, zot
from .events import BadEvent

__all__ = ["MAX_SOURCE_LENGTH", "SOURCES", "BadEvent", "Source"]

Source = Callable[[Mapping[str, str], bytes], Iterable[ImagePush]]
"""It gets the headers, by their names in lower case, and the body; it raises `BadEvent`."""

SOURCES: Mapping[str, Source] = {
    "distribution": distribution.pushes,
    "gitea": gitea.pushes,
    "harbor": harbor.pushes,
    "quay": quay.pushes,
    "zot": zot.pushes,
}

MAX_SOURCE_LENGTH = 40
"""Characters of a source's name."""
