"""The event loop of a transport: one thread, libcurl's multi interface, and a selector.

The life of a request, in the order of the methods below:

1. Queued. `send` puts it in the inbox, on any thread, and wakes the loop.
2. Resolving. `_begin` gives it an exchange and a libcurl handle. `_resolve` checks its target and has the name looked
   up on one of the resolver's threads, where `_on_resolved` puts the result in a second inbox. `_take_resolution` gets
   it from there, or `_give_up_lookups` ends the request at its deadline.
3. Running. `_start` prepares the handle and adds it to the multi handle. From now on libcurl acts whenever the loop
   calls it, because a socket is ready (`_attend`) or a time has come (`_run_timers`): it connects, sends and reads, and
   calls the exchange back. It tells `_Watch` which sockets and what time it waits for, and ends the request at its
   deadline.
4. Ended. `_collect` asks libcurl which handles are done. `_finish` removes such a handle and has the exchange make an
   outcome of what happened.
5. Answered. `_answer` calls `done` with the outcome, and keeps handle and exchange for another request.

A request may go from any of these to `_answer`, and every request is answered exactly once.

The loop's thread waits for nothing but sockets and times. Everything but `send`, `stop` and `_on_resolved` runs on it.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections import defaultdict, deque
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from time import monotonic, sleep, thread_time
from typing import Any

import pycurl

from . import causes
from .egress import Forbidden, is_address
from .exchange import MAX_PROCESSOR_S, NOT_FORMED, Done, Exchange, KeptSockets, Meter, Settings, make_handle
from .hook_url import BadURL
from .hook_url import target as parse
from .outcome import Concern, Outcome, Request
from .resolver import Lookup, OnResolved, Resolution, shared_resolver
from .tls import DEFAULT_TLS

logger = logging.getLogger(__name__)

STEP_S = 0.01
"""How long the loop attends to sockets before it does anything else."""
MAX_KEPT_HANDLES = 1024
"""Handles that are kept for other requests."""
AFTER_ERROR_S = 0.1
"""How long the loop pauses after an error of its own, so that a permanent one does not fill the log."""
METERED_AFTER_S = MAX_PROCESSOR_S
"""How long a request runs before the work of reading its response is measured: measuring costs more than reading a
usual one, and a response that has ended by then cannot have taken more."""
METERED_UNANSWERED_S = 1.0
"""The same for a request that waits in a busy loop: no line of its response was read, and it had few turns."""
USUAL_TURNS = 16
"""How often a socket may be attended to before a request does not count as waiting."""
START_QUEUED_S = 0.25
"""How often the loop tries to start lookups that the machine had no thread for."""

STOPPED = "The worker stopped before there was an answer."


class _Watch:
    """Which sockets and what time libcurl waits for.

    It does not refer to libcurl's handles, since they refer to it.
    """

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.due: float | None = None
        self.turns: dict[int, int] = {}
        """By socket, how often it was attended to since its exchange began."""

    def on_socket(self, what: int, fd: int, *_: object) -> None:
        if what == pycurl.POLL_REMOVE:
            self.turns.pop(fd, None)
            with suppress(KeyError):
                self.selector.unregister(fd)
            return
        events = (selectors.EVENT_READ if what & pycurl.POLL_IN else 0) | (
            selectors.EVENT_WRITE if what & pycurl.POLL_OUT else 0
        )
        if fd in self.turns:
            self.selector.modify(fd, events)
        else:
            self.turns[fd] = 0
            self.selector.register(fd, events)

    def on_timer(self, milliseconds: int) -> None:
        self.due = None if milliseconds < 0 else monotonic() + milliseconds / 1000


class Loop:
    """Runs exchanges on a thread of its own until it is stopped."""

    def __init__(self, settings: Settings, max_connections: int) -> None:
        self._settings = settings
        self._max_connections = max_connections
        self._meter = Meter()
        self._kept_sockets: KeptSockets = {}
        # Requests by state
        self._inbox: deque[tuple[Request, Done, float, datetime]] = deque()
        # By time-out, of which there are few; in each the earliest deadline comes first
        self._resolving: defaultdict[float, dict[Exchange, tuple[Lookup, OnResolved]]] = defaultdict(dict)
        self._running: dict[Any, Exchange] = {}  # by handle
        # Those whose work is not measured yet, each with its serial and when to look at it next
        self._unmetered: deque[tuple[Exchange, int, float]] = deque()
        # What they need
        self._resolutions: deque[tuple[Exchange, int, Resolution]] = deque()  # the second inbox
        self._handles: dict[Exchange, Any] = {}  # of those that are resolving or running
        self._idle: list[tuple[Any, Exchange]] = []  # for other requests
        # What the thread waits for
        self._wakeup_reader, self._wakeup_writer = socket.socketpair()
        self._wakeup_reader.setblocking(False)
        self._wakeup_writer.setblocking(False)
        self._sleeping = self._stopping = self._ended = False
        self._watch = _Watch()
        self._watch.selector.register(self._wakeup_reader, selectors.EVENT_READ)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch.on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._watch.on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self.thread = threading.Thread(target=self._run, daemon=True, name="hubhooks-transport")
        self.thread.start()

    # For other threads

    def send(self, request: Request, done: Done) -> None:
        self._inbox.append((request, done, monotonic(), datetime.now(timezone.utc)))
        self._wake()
        if self._ended:
            self._refuse_queued()

    def stop(self) -> None:
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        if self._sleeping:
            self._sleeping = False
            with suppress(OSError):  # the socket is full, so the loop wakes up anyway, or closed
                self._wakeup_writer.send(b"x")

    # The thread

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._step()
            except Exception:
                logger.exception("a step of the transport failed")
                sleep(AFTER_ERROR_S)
        self._end()

    def _step(self) -> None:
        self._meter_slow()
        self._attend(self._wait())
        self._run_timers()
        self._collect()
        while self._resolutions:
            self._take_resolution(*self._resolutions.popleft())
        self._give_up_lookups()
        for _ in range(len(self._inbox)):
            self._begin(*self._inbox.popleft())

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for ready sockets, for the next time to act, or to be woken; returns the sockets in their order."""
        self._sleeping = True
        if self._inbox or self._resolutions or self._stopping:
            wait_s: float | None = 0.0
        else:
            now = monotonic()
            waits = [] if self._watch.due is None else [self._watch.due - now]
            if self._resolving:
                waits += [next(iter(each)).deadline - now for each in self._resolving.values() if each]
                waits.append(START_QUEUED_S)
            wait_s = max(0.0, min(waits)) if waits else None
        events = self._watch.selector.select(wait_s)
        self._sleeping = False
        # With each turn libcurl reads all that has arrived of a response. Responses that had many turns, such as
        # floods, come last, so that new exchanges need not wait for them.
        turns = self._watch.turns
        return sorted(events, key=lambda event: turns.get(event[0].fd, 0))

    def _attend(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        """Have libcurl act on ready sockets for a while. Those that are left are ready again in the next step."""
        turns, until = self._watch.turns, monotonic() + STEP_S
        for key, mask in events:
            if key.fileobj is self._wakeup_reader:
                with suppress(BlockingIOError):
                    self._wakeup_reader.recv(4096)
                continue
            if key.fd not in turns:
                continue  # it was closed in the meantime
            turns[key.fd] += 1
            self._act(
                key.fd,
                (pycurl.CSELECT_IN if mask & selectors.EVENT_READ else 0)
                | (pycurl.CSELECT_OUT if mask & selectors.EVENT_WRITE else 0),
            )
            if monotonic() > until:
                break

    def _run_timers(self) -> None:
        watch = self._watch
        if watch.due is not None and monotonic() >= watch.due:
            watch.due = None
            self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, fd: int, ready: int) -> None:
        self._meter.charged_until = thread_time()
        self._multi.socket_action(fd, ready)

    # Queued, then resolving

    def _begin(self, request: Request, done: Done, began: float, started_at: datetime) -> None:
        if self._idle:
            handle, exchange = self._idle.pop()
        else:
            handle, exchange = None, Exchange(self._settings, self._kept_sockets, self._meter)
        exchange.begin(request, done, began, started_at)
        try:
            self._handles[exchange] = handle or make_handle(exchange)
            self._resolve(exchange)
        except Exception as error:
            self._fail(exchange, error)

    def _resolve(self, exchange: Exchange) -> None:
        """Check where a request goes, and resolve the name of the host or of the proxy."""
        request = exchange.request
        try:
            exchange.target = target = (
                parse(request.url) if request.trusted else self._settings.egress.target(request.url)
            )
        except Forbidden as forbidden:
            return self._answer(exchange, exchange.without_response(str(forbidden), Concern.NOBODY, blocked=True))
        except BadURL:
            return self._answer(exchange, exchange.without_response(NOT_FORMED, Concern.HOOK))
        exchange.proxy = proxy = None if request.trusted else self._settings.proxy_for(target)
        host = proxy.host if proxy else target.host
        if is_address(host):
            return self._start(exchange, None)
        on_resolved = partial(self._on_resolved, exchange, exchange.serial)
        found = shared_resolver.resolve(host, request.repository, on_resolved)
        if isinstance(found, Lookup):
            self._resolving[request.deadline_s][exchange] = (found, on_resolved)
        else:
            self._resolved(exchange, found)

    def _on_resolved(self, exchange: Exchange, serial: int, resolution: Resolution) -> None:
        """Take a result on the resolver's thread."""
        self._resolutions.append((exchange, serial, resolution))
        self._wake()

    def _take_resolution(self, exchange: Exchange, serial: int, resolution: Resolution) -> None:
        waiting = self._resolving[exchange.request.deadline_s]
        if exchange.serial == serial and exchange in waiting:  # else it was given up
            del waiting[exchange]
            try:
                self._resolved(exchange, resolution)
            except Exception as error:
                self._fail(exchange, error)

    def _resolved(self, exchange: Exchange, resolution: Resolution) -> None:
        host = exchange.target.host
        if exchange.proxy:
            if not resolution.addresses:
                return self._answer(exchange, exchange.without_response(causes.NO_PROXY, Concern.NOBODY))
        elif not resolution.addresses:
            error = causes.lookup_failed(host, resolution.failure)
            return self._answer(exchange, exchange.without_response(error, Concern.HOST))
        elif not exchange.request.trusted:
            try:
                self._settings.egress.check_addresses(host, resolution.addresses)
            except Forbidden as forbidden:
                return self._answer(exchange, exchange.without_response(str(forbidden), Concern.NOBODY, blocked=True))
        self._start(exchange, resolution)

    def _give_up_lookups(self) -> None:
        """End the requests whose names are not resolved by their deadlines."""
        now = monotonic()
        for deadline_s, waiting in list(self._resolving.items()):
            while waiting and now >= next(iter(waiting)).deadline:
                exchange = next(iter(waiting))
                lookup, on_resolved = waiting.pop(exchange)
                shared_resolver.cancel(lookup, on_resolved)
                if exchange.proxy:
                    error, concern = causes.NO_PROXY, Concern.NOBODY
                elif lookup.started_at is None:
                    reason = f"too many other lookups were unanswered for {deadline_s:g} s"
                    error, concern = causes.lookup_failed(lookup.host, reason), Concern.NOBODY
                else:
                    reason = f"no answer within {deadline_s:g} s"
                    error, concern = causes.lookup_failed(lookup.host, reason), Concern.HOST
                self._answer(exchange, exchange.without_response(error, concern))
            if not waiting:
                del self._resolving[deadline_s]
        if self._resolving:
            shared_resolver.start_queued()

    # Running

    def _start(self, exchange: Exchange, resolution: Resolution | None) -> None:
        if monotonic() > exchange.deadline:  # the process was suspended, and another worker may be sending it by now
            return self._answer(exchange, exchange.without_response(causes.TOO_LATE, Concern.NOBODY))
        handle = self._handles[exchange]
        try:
            exchange.prepare(handle, resolution)
        except ValueError:  # also a `UnicodeError`
            return self._answer(exchange, exchange.without_response(NOT_FORMED, Concern.HOOK))
        self._running[handle] = exchange
        self._unmetered.append((exchange, exchange.serial, exchange.resolved_at + METERED_AFTER_S))
        self._multi.add_handle(handle)

    def _meter_slow(self) -> None:
        """Start to measure the work of requests that have been running for a while."""
        now = monotonic()
        while self._unmetered:
            exchange, serial, look_at = self._unmetered[0]
            is_running = exchange.serial == serial
            if is_running and look_at > now:
                return
            self._unmetered.popleft()
            if not is_running:
                continue
            handle = self._handles[exchange]
            turns = self._watch.turns.get(handle.getinfo(pycurl.LASTSOCKET), 0)
            waits = not exchange.header_bytes and turns <= USUAL_TURNS
            if not waits or now > exchange.resolved_at + METERED_UNANSWERED_S:
                exchange.meter_work(handle, True)
            else:
                self._unmetered.append((exchange, serial, now + METERED_AFTER_S))

    # Ended

    def _collect(self) -> None:
        """Finish the requests that libcurl has ended."""
        left = 1
        while left:
            left, succeeded, failed = self._multi.info_read()
            for handle in succeeded:
                self._finish(handle, 0, "")
            for handle, code, message in failed:
                self._finish(handle, code, message)

    def _finish(self, handle: Any, code: int, message: str) -> None:
        exchange = self._running.pop(handle)
        try:
            if not (exchange.socket_known or exchange.stale_connection or exchange.request.trusted):
                self._remember_socket(handle)
            self._multi.remove_handle(handle)
            if exchange.stale_connection:
                return self._start(exchange, exchange.resolution)
            outcome = exchange.outcome(code, message, handle)
        except Exception as error:
            return self._fail(exchange, error)
        self._answer(exchange, outcome)

    def _remember_socket(self, handle: Any) -> None:
        """Remember the socket of a connection that is kept: `Exchange.on_ready` looks whether it was closed."""
        getinfo = handle.getinfo
        fd = getinfo(pycurl.LASTSOCKET)
        if fd >= 0:
            ends = (
                getinfo(pycurl.PRIMARY_IP),
                getinfo(pycurl.LOCAL_IP),
                getinfo(pycurl.PRIMARY_PORT),
                getinfo(pycurl.LOCAL_PORT),
            )
            self._kept_sockets.pop(ends, None)  # an earlier connection with the same ports
            if len(self._kept_sockets) > 2 * self._max_connections:  # most of them have been closed
                del self._kept_sockets[next(iter(self._kept_sockets))]
            self._kept_sockets[ends] = fd

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer a request that was ended by an error of ours."""
        logger.exception("a request failed because of an internal error")
        self._running.pop(self._handles.pop(exchange, None), None)
        text = f"Internal error ({type(error).__name__}). See the worker's log."
        self._answer(exchange, exchange.without_response(text, Concern.NOBODY))

    # Answered

    def _answer(self, exchange: Exchange, outcome: Outcome) -> None:
        """Call `done`, and keep the handle for another POST, unless it has TLS settings of a hook.

        pycurl cannot unset a pin, and no other request may ever go out with the checks that a pin switches off.
        """
        handle, done = self._handles.pop(exchange, None), exchange.done
        usable_again = exchange.request.tls == DEFAULT_TLS and exchange.request.method == "POST"
        exchange.clear()
        if handle is not None and usable_again and len(self._idle) < MAX_KEPT_HANDLES:
            self._idle.append((handle, exchange))
        if done is not None:
            _call(done, outcome)

    # Stopped

    def _end(self) -> None:
        """Answer all requests, and release everything."""
        self._ended = True
        self._refuse_queued()
        for handle in list(self._running):
            self._multi.remove_handle(handle)
        self._running.clear()
        for waiting in self._resolving.values():
            for lookup, on_resolved in waiting.values():
                shared_resolver.cancel(lookup, on_resolved)
        self._resolving.clear()
        for exchange in list(self._handles):
            self._answer(exchange, exchange.without_response(STOPPED, Concern.NOBODY))
        self._idle.clear()
        self._multi.close()
        self._watch.selector.close()
        self._wakeup_reader.close()
        self._wakeup_writer.close()

    def _refuse_queued(self) -> None:
        """Answer requests that were queued after the loop had stopped. Runs on any thread."""
        with suppress(IndexError):
            while True:
                request, done, began, started_at = self._inbox.popleft()
                exchange = Exchange(self._settings, self._kept_sockets, self._meter)
                exchange.begin(request, done, began, started_at)
                _call(done, exchange.without_response(STOPPED, Concern.NOBODY))


def _call(done: Done, outcome: Outcome) -> None:
    try:
        done(outcome)
    except Exception:
        logger.exception("the outcome of a request could not be taken")
