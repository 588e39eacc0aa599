"""Manifests: what says which blobs make an image, and which images make a multi-platform one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from example_app.errors import RegistryError

IMAGES = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
}
INDEXES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
DIGEST = re.compile("sha256:[0-9a-f]{64}")
ANY_DIGEST = re.compile("[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")


@dataclass(frozen=True)
class Manifest:
    """A manifest, byte for byte as it was pushed, and its media type."""

    media_type: str
    body: bytes

    @property
    def digest(self) -> str:
        """What the manifest is called when not by a tag."""
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"


@dataclass(frozen=True)
class Reference:
    """Content that a manifest names and that its repository must have, as a manifest or as a blob."""

    digest: str
    is_manifest: bool = False


def hexadecimal(digest: str) -> str:
    """The part of a `sha256:…` digest after the colon; other digests are errors, so it can name a file."""
    if DIGEST.fullmatch(digest):
        return digest.removeprefix("sha256:")
    if ANY_DIGEST.fullmatch(digest) and not digest.startswith("sha256:"):
        raise RegistryError("UNSUPPORTED", "the only digests here are sha256")
    raise RegistryError("DIGEST_INVALID", digest)


def parse(body: bytes, media_type: str) -> tuple[Manifest, list[Reference]]:
    """A manifest as it came, `media_type` its `Content-Type`, and what it names; RegistryError if invalid."""
    document = _document(body)
    media_type = media_type or str(document.get("mediaType"))
    if document.get("mediaType", media_type) != media_type:
        raise _invalid("Content-Type and mediaType differ")
    if media_type in INDEXES:
        references = [_child(descriptor) for descriptor in _list(document, "manifests")]
    elif media_type in IMAGES:
        layers = [layer for layer in _list(document, "layers") if not _is_elsewhere(layer)]
        references = [Reference(_digest(blob)) for blob in [document.get("config"), *layers]]
    else:
        raise _invalid(f"media type {media_type!r} is not one of a manifest")
    return Manifest(media_type, body), references


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _invalid("not JSON") from None
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise _invalid("not an object with schemaVersion 2")
    return document


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise _invalid(f"{key} is not a list")
    return value


def _child(descriptor: Any) -> Reference:
    digest = _digest(descriptor)
    return Reference(digest, is_manifest=str(descriptor.get("mediaType")) in IMAGES | INDEXES)


def _is_elsewhere(layer: Any) -> bool:
    """Whether a layer is not to be distributed: clients get it from its `urls`."""
    return isinstance(layer, dict) and bool(layer.get("urls"))


def _digest(descriptor: Any) -> str:
    if isinstance(descriptor, dict) and DIGEST.fullmatch(str(descriptor.get("digest"))):
        return str(descriptor["digest"])
    raise _invalid("a descriptor has no sha256 digest")


def _invalid(detail: str) -> RegistryError:
    return RegistryError("MANIFEST_INVALID", detail)
