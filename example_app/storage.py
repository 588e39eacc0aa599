"""What a repository holds, in files below the registry's root.

    repositories/<name>/_blobs/<hex>       the content of a blob
                        _manifests/<hex>   a line with the media type, then the manifest
                        _tags/<tag>        a manifest's digest
                        _uploads/<id>      an upload under way
                        _lock

A blob mounted from another repository is a hard link: each repository has its own, the file system counts.
    deleted/<id>                           what a repository holds while it is deleted or renamed

No part of a name begins with an underscore, so `acme` and `acme/app` do not meet. Files appear whole, by
renaming.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from example_app.errors import RegistryError
from example_app.manifests import Manifest, Reference, hexadecimal
from example_app.uploads import Uploads

# Both from the OCI distribution specification; 255 with the host's name is what clients can take.
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = re.compile(rf"{PART}(?:/{PART})*")
LONGEST_NAME = 255
CONTENT = ("_manifests", "_tags", "_blobs", "_uploads")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class RepositoryFiles:
    """The blobs, manifests, tags and uploads of one repository, which need not exist yet."""

    def __init__(self, root: Path, name: str) -> None:
        if len(name) > LONGEST_NAME or not NAME.fullmatch(name):
            raise RegistryError("NAME_INVALID", name)
        self.root = root
        self.name = name
        self.folder = root / "repositories" / name
        self.uploads = Uploads(self.folder / "_uploads")

    def blob(self, digest: str) -> Path:
        """The file of a blob, whether it is there or not."""
        return self.folder / "_blobs" / hexadecimal(digest)

    def delete_blob(self, digest: str) -> None:
        """Delete a blob here; where it was mounted it stays."""
        with _known("BLOB_UNKNOWN", digest):
            self.blob(digest).unlink()

    def mount(self, digest: str, source: RepositoryFiles) -> bool:
        """Take a blob over from `source`; False if it is not there, or files cannot be linked."""
        blob = self.blob(digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.blob(digest), blob)
        except OSError:
            return blob.exists()
        return True

    def manifest(self, reference: str) -> Manifest:
        """The manifest that a tag or a digest names."""
        with _known("MANIFEST_UNKNOWN", reference):
            content = self._manifest(self._digest(reference)).read_bytes()
        media_type, _, body = content.partition(b"\n")
        return Manifest(media_type.decode(), body)

    def put_manifest(self, manifest: Manifest, references: list[Reference], tags: list[str]) -> None:
        """Keep a manifest if all it names is here, and let `tags` name it from now on."""
        with self._locked():
            for reference in references:
                if not self._has(reference):
                    raise RegistryError("MANIFEST_BLOB_UNKNOWN", reference.digest)
            content = manifest.media_type.encode() + b"\n" + manifest.body
            _write(self._manifest(manifest.digest), content)
            for tag in tags:
                _write(self._tag(tag), manifest.digest.encode())

    def delete_manifest(self, reference: str) -> None:
        """Delete a tag, or a manifest by its digest with all its tags."""
        with self._locked(), _known("MANIFEST_UNKNOWN", reference):
            if not is_digest(reference):
                self._tag(reference).unlink()
                return
            self._manifest(reference).unlink()
            for tag in self.tags():
                if self._digest(tag) == reference:
                    self._tag(tag).unlink()

    def tags(self) -> list[str]:
        """All tags, sorted."""
        with suppress(FileNotFoundError):
            return sorted(tag for tag in os.listdir(self.folder / "_tags") if TAG.fullmatch(tag))
        return []

    @contextmanager
    def set_aside(self) -> Iterator[Path]:
        """Move all content to a folder where nobody finds it, and remove it after the block.

        If the block fails, the content comes back.
        """
        aside = self.root / "deleted" / uuid.uuid4().hex
        with self._locked():
            _move(self.folder, aside)
            try:
                yield aside
            except BaseException:
                _move(aside, self.folder)
                raise
        shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def moved_to(self, other: RepositoryFiles) -> Iterator[None]:
        """Move all content to another repository after the block.

        The block makes the row that decides who may pull it, so until then nobody finds it under the new name. What the
        other one holds without having a row, from a push that was never finished, is removed.
        """
        with other.set_aside(), self.set_aside() as aside:
            yield
            _move(aside, other.folder)

    def _has(self, reference: Reference) -> bool:
        place = self._manifest if reference.is_manifest else self.blob
        return place(reference.digest).exists()

    def _digest(self, reference: str) -> str:
        return reference if is_digest(reference) else self._tag(reference).read_text()

    def _manifest(self, digest: str) -> Path:
        return self.folder / "_manifests" / hexadecimal(digest)

    def _tag(self, tag: str) -> Path:
        if not TAG.fullmatch(tag):
            raise RegistryError("MANIFEST_UNKNOWN", tag)
        return self.folder / "_tags" / tag

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change manifests and tags, so that no tag is left without a manifest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "_lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def is_digest(reference: str) -> bool:
    """Whether a reference is a digest rather than a tag."""
    return ":" in reference


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def _move(source: Path, target: Path) -> None:
    """Move a repository's content, but not that of those whose names begin with its name."""
    target.mkdir(parents=True, exist_ok=True)
    for each in CONTENT:
        with suppress(FileNotFoundError):
            (source / each).rename(target / each)


@contextmanager
def _known(error: str, detail: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RegistryError(error, detail) from None
