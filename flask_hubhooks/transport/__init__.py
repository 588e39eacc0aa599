"""Sends POSTs that cannot be led inwards and that end at a deadline: libcurl on one event loop, in one thread.

Only what the `Egress` lets through is connected to; one deadline bounds the whole exchange; redirects, netrc, cookies
and the proxies of the environment are ignored; at most 16 KiB of an answer's body and of its headers are kept, more
than 64 KiB of headers are refused, and nothing is ever decompressed.
"""

from __future__ import annotations

import os
import threading
import weakref
from ipaddress import IPv4Network, IPv6Network

import certifi
import pycurl

from .certificate_files import ca_bundle as watched_ca_bundle
from .certificate_files import client_certificate as watched_client_certificate
from .egress import Egress
from .exchange import Done, Proxy, Rules
from .loop import Loop
from .outcome import MAX_STORED_BODY, MAX_STORED_HEADERS, Concern, Outcome, Request

__all__ = ["MAX_STORED_BODY", "MAX_STORED_HEADERS", "Concern", "Outcome", "Request", "Transport"]

MIN_LIBCURL = (8, 23, 0)
"""The oldest that the tests with hostile receivers were run with and pass; 7.88 does not."""
STOP_S = 5.0
"""How long `close` waits for the thread."""


class Transport:
    """Sends POSTs over connections that are kept alive; one serves all threads of a process.

    `egress` is where they may go. `ca_bundle`, a file of certificates, takes the place of certifi's;
    `client_certificate`, files of a certificate and its key, is what receivers that ask for one are shown. Both are
    read again when they change. Raises `OSError` where a file cannot be read.

    `connect_timeout_s` bounds connecting, over all addresses of a name together and with TLS, `deadline_s` the whole
    exchange: look-up, connect, sending, and reading the answer. About `max_connections` connections are kept at most.

    `proxy` is the URL of an http(s) proxy, with user and password where it wants them: https goes through CONNECT,
    http with an absolute URI (RFC 9112 section 3.2.2). It looks names up itself, so it is the proxy that must refuse
    private addresses behind them; all else of `egress` holds as before. `no_proxy` has names, `*.` with a name, and
    networks, which are reached directly.
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
        deadline_s: float = 15.0,
        max_connections: int = 1000,
    ) -> None:
        _refuse_old_libcurl()
        self._rules = Rules(
            egress or Egress(),
            connect_timeout_s,
            deadline_s,
            watched_ca_bundle("HUBHOOKS_CA_BUNDLE", ca_bundle or certifi.where()),
            watched_client_certificate("HUBHOOKS_CLIENT_CERTIFICATE", *client_certificate)
            if client_certificate
            else None,
            Proxy(proxy) if proxy else None,
            frozenset(each for each in no_proxy if isinstance(each, str)),
            tuple(each for each in no_proxy if not isinstance(each, str)),
        )
        self._max_connections = max_connections
        self._finalizer: weakref.finalize[..., Transport] | None = None
        self.forget()
        _transports.add(self)

    def forget(self) -> None:
        """Begin anew, as the child of a fork must: the thread and its sockets are the parent's."""
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        if self._finalizer:
            self._finalizer.detach()

    def send(self, request: Request, done: Done) -> None:
        """POST a body, and have `done` called with what came of it, on the thread of the loop.

        Whatever is wrong with the URL, the headers, the network or the receiver becomes an `Outcome`. A status line
        that arrived decides: where the body breaks off, or is not over by the deadline, `status_code` stays and
        `error` says so. May be called from any thread, also from within `done`.
        """
        (self._loop or self._started()).send(request, done)

    def _started(self) -> Loop:
        with self._lock:
            if self._loop is None:
                self._loop = Loop(self._rules, self._max_connections)
                self._finalizer = weakref.finalize(self, self._loop.stop)
                self._finalizer.atexit = False
            return self._loop

    def close(self) -> None:
        """End the thread. What is under way is answered first, as nobody's fault; a later request starts another."""
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
            f"pycurl uses libcurl {version}, but hubhooks needs {needed} or newer: install pycurl's own wheel, "
            "or build it against a newer libcurl"
        )


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _forget() -> None:
    for each in _transports:
        each.forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
