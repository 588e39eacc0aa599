"""Certificate files, read again when they change.

libcurl reads a file of authorities at most once a day, and keeps using connections that were made with an old client
certificate, as long as the paths stay the same. So libcurl is given the path of a private copy, and each new version of
the files gets a new copy. On Linux the copies are in memory, so that nothing is left behind, however the process ends.
"""

from __future__ import annotations

import logging
import os
import shutil
import ssl
import tempfile
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic

logger = logging.getLogger(__name__)

CHECK_S = 1.0
"""How often files are checked for changes."""
MAX_VERSIONS = 80
"""Versions that are kept. A version's path may be used again once it is older than the connections that libcurl keeps
(`MAX_CONNECTION_AGE_S`) and than the requests in flight."""


class _Copies:
    """Private copies of one version of some files; they exist as long as this object."""

    def __init__(self, contents: tuple[bytes, ...]) -> None:
        self.contents = contents
        self.paths = tuple(map(self._copy, contents))

    def _copy(self, content: bytes) -> str:
        if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
            fd = os.memfd_create("hubhooks")
            weakref.finalize(self, os.close, fd).atexit = False
            path = f"/proc/self/fd/{fd}"
        else:
            folder = tempfile.mkdtemp(prefix="hubhooks-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            path = os.path.join(folder, "copy.pem")
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
        return path


class WatchedFiles:
    """Files that belong together, such as a certificate and its key.

    `key` is the configuration key that names them; `load` is called with the paths of each new version, and raises
    `OSError` or `ValueError` if the files cannot be used. Raises what `load` raises, and
    `OSError` if a file cannot be read.
    """

    def __init__(self, key: str, files: tuple[str, ...], load: Callable[..., object]) -> None:
        self._key = key
        self._files = files
        self._load = load
        self._seen = self._stat()
        self._versions = deque([self._read()], MAX_VERSIONS)
        self._checked_at = monotonic()
        self._reported = False

    def paths(self) -> tuple[str, ...]:
        """Return the paths of the newest version that can be used."""
        if monotonic() - self._checked_at >= CHECK_S:
            self._check()
            self._checked_at = monotonic()
        return self._versions[-1].paths

    def _check(self) -> None:
        try:
            stat = self._stat()
            if stat == self._seen and not self._reported:
                return
            version = self._read()
        except (OSError, ValueError) as error:
            if not self._reported:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
                logger.error(
                    "the new content of %s cannot be used (%s), so the old one stays in use", self._key, reason
                )
            self._reported = True
            return
        self._reported, self._seen = False, stat
        if version.contents != self._versions[-1].contents:
            self._versions.append(version)
            logger.info("the content of %s has changed and is used from now on", self._key)

    def _stat(self) -> tuple[tuple[int, int, int], ...]:
        found = [os.stat(each) for each in self._files]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def _read(self) -> _Copies:
        contents = []
        for each in self._files:
            with open(each, "rb") as file:
                contents.append(file.read())
        copies = _Copies(tuple(contents))
        self._load(*copies.paths)
        return copies


def ca_bundle(key: str, file: str) -> WatchedFiles:
    """Watch a file of authorities that certificates are checked against."""
    return WatchedFiles(key, (file,), lambda path: _context().load_verify_locations(path))


def client_certificate(key: str, certificate: str, private_key: str) -> WatchedFiles:
    """Watch our own certificate and its key."""

    def load(certificate: str, private_key: str) -> None:
        _context().load_cert_chain(certificate, private_key, _no_password)

    return WatchedFiles(key, (certificate, private_key), load)


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _no_password() -> str:
    """Refuse a key with a password; OpenSSL would ask for it on the terminal."""
    raise ValueError("the key has a password")
