"""Sends requests that cannot be led into the internal network and that end at a deadline.

libcurl does the work, on one event loop in one thread. Connections are only made where the `Egress` allows it, and one
deadline bounds the whole exchange. Redirects, netrc, cookies and the proxies of the environment are ignored. Of a
response at most 16 KiB of the body and 16 KiB of the headers are kept; more than 64 KiB of headers are refused, and
nothing is ever decompressed.
"""

from __future__ import annotations

import os
import threading
import weakref
from ipaddress import IPv4Network, IPv6Network

import certifi
import pycurl

from . import certificate_files
from .egress import Egress
from .exchange import Done, Proxy, Settings
from .loop import Loop
from .outcome import MAX_STORED_BODY, MAX_STORED_HEADERS, Concern, Outcome, Request

__all__ = ["MAX_STORED_BODY", "MAX_STORED_HEADERS", "Concern", "Outcome", "Request", "Transport"]

MIN_LIBCURL = (8, 23, 0)
"""The oldest version that passes the tests with hostile receivers; 7.88 does not."""
STOP_S = 5.0
"""How long `close` waits for the thread."""


class Transport:
    """Sends requests over connections that are kept; one transport serves all threads of a process.

    `egress` says where they may go. `ca_bundle`, a file of certificates, replaces certifi's. `client_certificate`, the
    files of a certificate and its key, is shown to receivers that ask for one. Both are read again when they change.
    Raises `OSError` if a file cannot be read.

    `connect_timeout_s` bounds connecting, over all addresses of a name together and with TLS. About `max_connections`
    connections are kept at most.

    `proxy` is the URL of an http(s) proxy, with a user name and password if it needs them. https goes through CONNECT,
    and http is requested with an absolute URI (RFC 9112 section 3.2.2). The proxy resolves names itself, so it must
    refuse those with private addresses; all other rules of `egress` still apply. `no_proxy` contains names, `*.`
    followed by a name, and networks, which are reached directly.
    """

    def __init__(
        self,
        egress: Egress | None = None,
        *,
        ca_bundle: str | None = None,
        client_certificate: tuple[str, str] | None = None,
        proxy: str | None = None,
        no_proxy: tuple[str | IPv4Network | IPv6Network, ...] = (),
        connect_timeout_s: float = 5.0,
        max_connections: int = 1000,
    ) -> None:
        _refuse_old_libcurl()
        self._settings = Settings(
            egress or Egress(),
            connect_timeout_s,
            certificate_files.ca_bundle("HUBHOOKS_CA_BUNDLE", ca_bundle or certifi.where()),
            certificate_files.client_certificate("HUBHOOKS_CLIENT_CERTIFICATE", *client_certificate)
            if client_certificate
            else None,
            Proxy(proxy) if proxy else None,
            frozenset(each for each in no_proxy if isinstance(each, str)),
            tuple(each for each in no_proxy if not isinstance(each, str)),
        )
        self._max_connections = max_connections
        self._finalizer: weakref.finalize[..., Transport] | None = None
        self._reset()
        _transports.add(self)

    def _reset(self) -> None:
        """Start afresh, as the child of a fork must: the thread and its sockets are the parent's."""
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        if self._finalizer:
            self._finalizer.detach()

    def send(self, request: Request, done: Done) -> None:
        """Send a request, and call `done` with the outcome, on the loop's thread.

        Whatever is wrong with the URL, the headers, the network or the receiver becomes part of the `Outcome`. If there
        is a status line, it counts: if the body breaks off or does not end by the deadline, `status_code` stays, and
        `error` says what happened. May be called on any thread, also by `done`.
        """
        (self._loop or self._started()).send(request, done)

    def _started(self) -> Loop:
        with self._lock:
            if self._loop is None:
                self._loop = Loop(self._settings, self._max_connections)
                self._finalizer = weakref.finalize(self, self._loop.stop)
                self._finalizer.atexit = False
            return self._loop

    def close(self) -> None:
        """Stop the thread. Requests in flight get an outcome first, one that is held against nobody. A later request
        starts a new thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop:
            loop.stop()
            if threading.current_thread() is not loop.thread:
                loop.thread.join(STOP_S)


def _refuse_old_libcurl() -> None:
    version = pycurl.version_info()[1]
    if tuple(map(int, version.partition("-")[0].split("."))) < MIN_LIBCURL:
        needed = ".".join(map(str, MIN_LIBCURL))
        raise RuntimeError(
            f"pycurl uses libcurl {version}, but hubhooks needs {needed} or newer. Install pycurl's own wheel, or "
            "build it with a newer libcurl."
        )


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _reset_all() -> None:
    for transport in _transports:
        transport._reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_all)
