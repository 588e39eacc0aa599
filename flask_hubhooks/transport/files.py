"""Certificate files, read again when they change.

libcurl reads a file of authorities once a day at most, and goes on with the connections that were made with an earlier
client certificate, as long as the paths stay the same. So it is given the path of a private copy, and every version
gets a new copy. On Linux the copies are in memory: nothing stays behind, whatever becomes of the process.
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
"""How often files are looked at."""
MAX_VERSIONS = 80
"""Versions that are kept. One that is older than the connections that libcurl keeps (`CONNECTION_S`), and than the
requests that are under way, may go: its path may then come back."""


class _Copies:
    """Private copies of one version of some files; they last as long as this object."""

    def __init__(self, contents: tuple[bytes, ...]) -> None:
        self.contents = contents
        self.paths = tuple(self._copy(each) for each in contents)

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
    """Some files that belong together, such as a certificate and its key, and that `load` accepts.

    `key` is the one in the config that names them. Raises `OSError` where they cannot be read or are not accepted.
    """

    def __init__(self, key: str, files: tuple[str, ...], load: Callable[..., object]) -> None:
        self._key = key
        self._files = files
        self._load = load
        self._seen = self._state()
        self._versions = deque([self._read()], MAX_VERSIONS)
        self._checked_at = monotonic()
        self._told = False

    def paths(self) -> tuple[str, ...]:
        """Return the paths of the newest version that can be used."""
        if monotonic() - self._checked_at >= CHECK_S:
            self._check()
            self._checked_at = monotonic()
        return self._versions[-1].paths

    def _check(self) -> None:
        try:
            state = self._state()
            if state == self._seen and not self._told:
                return
            version = self._read()
        except (OSError, ValueError) as fault:
            if not self._told:
                why = fault.strerror if isinstance(fault, OSError) and fault.strerror else type(fault).__name__
                logger.error("the new content of %s cannot be used (%s): the old one stays in use", self._key, why)
            self._told = True
            return
        self._told, self._seen = False, state
        if version.contents != self._versions[-1].contents:
            self._versions.append(version)
            logger.info("the content of %s has changed and is used from now on", self._key)

    def _state(self) -> tuple[tuple[int, int, int], ...]:
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


def authorities(key: str, file: str) -> WatchedFiles:
    """Watch a file of the authorities that certificates are checked against."""
    return WatchedFiles(key, (file,), lambda path: _context().load_verify_locations(path))


def own_certificate(key: str, certificate: str, private_key: str) -> WatchedFiles:
    """Watch a certificate of our own and its key."""

    def load(certificate: str, private_key: str) -> None:
        _context().load_cert_chain(certificate, private_key, _no_password)

    return WatchedFiles(key, (certificate, private_key), load)


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _no_password() -> str:
    """Refuse, where OpenSSL would otherwise ask for the key's password on the terminal."""
    raise ValueError("the key has a password")
