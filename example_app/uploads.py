"""Uploads of blobs under way: one file each, named by a random id, that grows chunk by chunk.

A chunk is kept whole or not at all, so after a broken connection the client goes on from the size it is told.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from example_app.errors import RegistryError

PIECE = 64 * 1024
ABANDONED_S = 24 * 3600
UPLOAD_ID = re.compile("[0-9a-f]{32}")


class Uploads:
    """The uploads to one repository, in `folder`; safe for many threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> str:
        """Start an upload and return its id. Uploads that nobody touched for a day are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        upload = uuid.uuid4().hex
        (self.folder / upload).touch(exist_ok=False)
        return upload

    def size(self, upload: str) -> int:
        """How many bytes there are so far."""
        with _known(upload):
            return self._path(upload).stat().st_size

    def append(self, upload: str, pieces: Iterable[bytes], start: int | None = None) -> int:
        """Add a chunk, which must begin at `start` if that is given, and return the new size."""
        with self._locked(upload) as file:
            return _extend(file, pieces, start, hashlib.sha256())

    def finish(self, upload: str, digest: str, blob: Path, pieces: Iterable[bytes], start: int | None = None) -> None:
        """Add the last chunk, which may be empty, and move it all to `blob`.

        What earlier requests brought is read once more, the rest is hashed as it streams in; the upload is
        gone if `digest` is another.
        """
        with self._locked(upload) as file:
            sha256 = hashlib.sha256()
            for earlier in iter(partial(file.read, PIECE), b""):
                sha256.update(earlier)
            _extend(file, pieces, start, sha256)
            if digest != f"sha256:{sha256.hexdigest()}":
                self.cancel(upload)
                raise RegistryError("DIGEST_INVALID", digest)
            os.fsync(file.fileno())
            blob.parent.mkdir(parents=True, exist_ok=True)
            with _known(upload):
                self._path(upload).replace(blob)

    def cancel(self, upload: str) -> None:
        """Give an upload up."""
        with _known(upload):
            self._path(upload).unlink()

    def _path(self, upload: str) -> Path:
        if not UPLOAD_ID.fullmatch(upload):
            raise RegistryError("BLOB_UPLOAD_UNKNOWN", upload)
        return self.folder / upload

    @contextmanager
    def _locked(self, upload: str) -> Iterator[IO[bytes]]:
        path = self._path(upload)
        with _known(upload):
            file = path.open("r+b")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RegistryError("BLOB_UPLOAD_INVALID", "another request is writing", 409) from None
            if not path.exists():  # finished between open and lock: the file is a blob by now
                raise RegistryError("BLOB_UPLOAD_UNKNOWN", upload)
            yield file

    def _remove_abandoned(self) -> None:
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED_S:
                    path.unlink()


@contextmanager
def _known(upload: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RegistryError("BLOB_UPLOAD_UNKNOWN", upload) from None


def _extend(file: IO[bytes], pieces: Iterable[bytes], start: int | None, sha256: hashlib._Hash) -> int:
    size = file.seek(0, os.SEEK_END)
    if start not in (None, size):
        raise RegistryError("BLOB_UPLOAD_INVALID", f"the upload has {size} bytes", 416)
    try:
        for piece in pieces:
            file.write(piece)
            sha256.update(piece)
        file.flush()
    except BaseException:
        file.truncate(size)
        raise
    return file.tell()
