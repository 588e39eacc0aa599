"""Small images, made without Docker: to push over the protocol, or as OCI layouts for other tools to copy."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(content: bytes) -> str:
    """The name of content by what it is."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class Image:
    """An image, or an index of images: its manifest, and the content that must be pushed before it."""

    manifest: bytes
    media_type: str
    blobs: list[bytes] = field(default_factory=list)
    children: list[Image] = field(default_factory=list)
    platform: dict[str, str] | None = None

    @property
    def digest(self) -> str:
        """What a registry will call it."""
        return digest_of(self.manifest)


def build_image(files: dict[str, bytes], architecture: str = "amd64") -> Image:
    """An image for Linux with one layer of `files`, content by path; the same again has the same digest."""
    platform = {"architecture": architecture, "os": "linux"}
    tar = _tar(files)
    layer = gzip.compress(tar, mtime=0)
    rootfs = {"type": "layers", "diff_ids": [digest_of(tar)]}
    config = _json({**platform, "config": {}, "rootfs": rootfs})
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(layer, LAYER)],
    }
    return Image(_json(manifest), MANIFEST, blobs=[config, layer], platform=platform)


def build_index(children: list[Image]) -> Image:
    """The multi-platform image of `children`."""
    manifests = [descriptor(child.manifest, child.media_type) | {"platform": child.platform} for child in children]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    return Image(_json(index), INDEX, children=children)


def build_layout(folder: Path, image: Image, tag: str = "latest") -> str:
    """Write `image` as an OCI layout, for `skopeo copy oci:<folder>:<tag>`, and return its digest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for content in _contents(image):
        (blobs / digest_of(content).removeprefix("sha256:")).write_bytes(content)
    named = descriptor(image.manifest, image.media_type)
    named["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return image.digest


def descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    """How a manifest names `content`."""
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _contents(image: Image) -> list[bytes]:
    below = [content for child in image.children for content in _contents(child)]
    return [*below, *image.blobs, image.manifest]


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
