"""The event loop that all exchanges of a transport run on: one thread, libcurl's multi interface, and a selector.

The thread itself never waits for anything but its sockets and timers: names are looked up on threads of their own.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections import deque
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from time import monotonic, sleep, thread_time
from typing import Any, cast

import pycurl

from . import causes
from .egress import Forbidden, is_address
from .exchange import NOT_FORMED, Done, Exchange, Kept, Meter, Rules, make_handle
from .hook_url import BadURL, Target
from .outcome import Concern, Outcome, Request
from .resolver import Lookup, Resolution, shared_resolver

logger = logging.getLogger(__name__)

STEP_S = 0.01
"""How long sockets are attended to before anything else gets its turn."""
MAX_KEPT_HANDLES = 1024
"""Handles that are kept for reuse."""
FAILED_S = 0.1
"""How long the loop pauses after a fault of its own, so that one that lasts does not fill the log."""
LOOK_UPS_S = 0.25
"""How often it is tried whether look-ups that wait in line can start."""

STOPPED = "The worker stopped before there was an answer."


class _Watch:
    """What libcurl wants to be told: which sockets are ready, and when a time is over.

    It does not refer to libcurl's handle, which refers to it.
    """

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.due: float | None = None
        self.turns: dict[int, int] = {}
        """How often each socket was attended to, since its exchange began."""

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
    """Runs exchanges on a thread of its own until it is stopped; all but `send` and `stop` is that thread's."""

    def __init__(self, rules: Rules, most: int) -> None:
        self._rules = rules
        self._most = most
        self._meter = Meter()
        self._inbox: deque[tuple[Request, Done, float, datetime]] = deque()
        self._answers: deque[tuple[Exchange, int, Resolution]] = deque()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._events: deque[tuple[selectors.SelectorKey, int]] = deque()  # sockets that wait to be attended to
        self._sleeping = False
        self._stopping = self._ended = False
        self._waiting: dict[Exchange, Lookup] = {}  # for a look-up, those with the earliest deadline first
        self._running: dict[Any, Exchange] = {}
        self._idle: list[tuple[Any, Exchange]] = []
        self._handles: dict[Exchange, Any] = {}
        self._kept: Kept = {}
        self._watch = _Watch()
        self._watch.selector.register(self._woken, selectors.EVENT_READ)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch.on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._watch.on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, most)
        self.thread = threading.Thread(target=self._run, daemon=True, name="hubhooks-transport")
        self.thread.start()

    def send(self, request: Request, done: Done) -> None:
        self._inbox.append((request, done, monotonic(), datetime.now(timezone.utc)))
        self._wake()
        if self._ended:
            self._refuse()

    def stop(self) -> None:
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        if self._sleeping:
            self._sleeping = False
            with suppress(OSError):  # it is full, so the loop wakes anyway, or closed
                self._waker.send(b"x")

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._step()
            except Exception:
                logger.exception("a step of the transport failed")
                sleep(FAILED_S)
        self._end()

    def _step(self) -> None:
        watch = self._watch
        if not self._events:
            self._sleeping = True
            busy = self._inbox or self._answers or self._stopping
            events = watch.selector.select(0 if busy else self._wait_s())
            self._sleeping = False
            # Each call lets libcurl go on with all answers of which more has arrived: new exchanges must not wait for
            # floods.
            events.sort(key=lambda event: watch.turns.get(event[0].fd, 0))
            self._events.extend(events)
        until = monotonic() + STEP_S
        while self._events:
            key, mask = self._events.popleft()
            if key.fileobj is self._woken:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
                continue
            if key.fd not in watch.turns:
                continue  # it was closed meanwhile
            watch.turns[key.fd] += 1
            self._act(
                key.fd,
                (pycurl.CSELECT_IN if mask & selectors.EVENT_READ else 0)
                | (pycurl.CSELECT_OUT if mask & selectors.EVENT_WRITE else 0),
            )
            if monotonic() > until:
                break
        self._run_timers()
        self._collect()
        while self._answers:
            self._look_up_ended(*self._answers.popleft())
        self._give_up_look_ups()
        for _ in range(len(self._inbox)):
            self._begin(*self._inbox.popleft())

    def _wait_s(self) -> float | None:
        now = monotonic()
        waits = []
        if self._watch.due is not None:
            waits.append(self._watch.due - now)
        if self._waiting:
            first = next(iter(self._waiting))
            waits += [first.deadline - now, LOOK_UPS_S]
        return max(0.0, min(waits)) if waits else None

    def _act(self, fd: int, ready: int) -> None:
        self._meter.mark = thread_time()
        self._multi.socket_action(fd, ready)

    def _run_timers(self) -> None:
        watch = self._watch
        if watch.due is not None and monotonic() >= watch.due:
            watch.due = None
            self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _collect(self) -> None:
        """Finish what libcurl has ended."""
        left = 1
        while left:
            left, good, bad = self._multi.info_read()
            for handle in good:
                self._finish(handle, 0, "")
            for handle, code, message in bad:
                self._finish(handle, code, message)

    def _begin(self, request: Request, done: Done, began: float, started_at: datetime) -> None:
        handle, exchange = self._idle.pop() if self._idle else (None, Exchange(self._rules, self._kept, self._meter))
        exchange.begin(request, done, began, started_at)
        try:
            self._handles[exchange] = handle or make_handle(exchange)
            self._look_up(exchange)
        except Exception as fault:
            self._fail(exchange, fault)

    def _look_up(self, exchange: Exchange) -> None:
        """Judge where a request goes, and look up the name of the host, or of the proxy."""
        request = exchange.request
        try:
            exchange.target = target = self._rules.egress.target(request.url)
        except Forbidden as forbidden:
            return self._answer(exchange, exchange.ended(str(forbidden), Concern.NOBODY, blocked=True))
        except BadURL:
            return self._answer(exchange, exchange.ended(NOT_FORMED, Concern.HOOK))
        exchange.proxy = proxy = self._rules.proxy_for(target)
        host = proxy.host if proxy else target.host
        if is_address(host):
            return self._start(exchange, None)
        exchange.found = partial(self._found, exchange, exchange.serial)
        answer = shared_resolver.resolve(host, request.repository, exchange.found)
        if isinstance(answer, Lookup):
            self._waiting[exchange] = answer
        else:
            self._resolved(exchange, answer)

    def _found(self, exchange: Exchange, serial: int, answer: Resolution) -> None:
        """Take the answer of a look-up, on its thread."""
        self._answers.append((exchange, serial, answer))
        self._wake()

    def _look_up_ended(self, exchange: Exchange, serial: int, answer: Resolution) -> None:
        if exchange.serial == serial and exchange in self._waiting:
            del self._waiting[exchange]
            try:
                self._resolved(exchange, answer)
            except Exception as fault:
                self._fail(exchange, fault)

    def _give_up_look_ups(self) -> None:
        now = monotonic()
        while self._waiting:
            exchange, look_up = next(iter(self._waiting.items()))
            if now < exchange.deadline:
                shared_resolver.start_queued()
                return
            del self._waiting[exchange]
            if exchange.found:
                shared_resolver.cancel(look_up, exchange.found)
            in_line = look_up.started_at is None
            deadline = f"{self._rules.deadline_s:g} s"
            reason = (
                f"too many other lookups were unanswered for {deadline}" if in_line else f"no answer within {deadline}"
            )
            error = causes.lookup_failed(look_up.host, reason)
            concern = Concern.NOBODY if in_line else Concern.HOST
            if exchange.proxy:
                error, concern = causes.NO_PROXY, Concern.NOBODY
            self._answer(exchange, exchange.ended(error, concern))

    def _resolved(self, exchange: Exchange, answer: Resolution) -> None:
        exchange.found = None
        target = cast(Target, exchange.target)
        if exchange.proxy:
            if not answer.addresses:
                return self._answer(exchange, exchange.ended(causes.NO_PROXY, Concern.NOBODY))
        elif not answer.addresses:
            error = causes.lookup_failed(target.host, answer.failure)
            return self._answer(exchange, exchange.ended(error, Concern.HOST))
        else:
            try:
                self._rules.egress.check_addresses(target.host, answer.addresses)
            except Forbidden as forbidden:
                return self._answer(exchange, exchange.ended(str(forbidden), Concern.NOBODY, blocked=True))
        self._start(exchange, answer)

    def _start(self, exchange: Exchange, answer: Resolution | None) -> None:
        if monotonic() > exchange.deadline:  # the process was suspended: another worker may be sending it by now
            return self._answer(exchange, exchange.ended(causes.TOO_LATE, Concern.NOBODY))
        handle = self._handles[exchange]
        try:
            exchange.prepare(handle, answer)
        except ValueError:  # also a `UnicodeError`
            return self._answer(exchange, exchange.ended(NOT_FORMED, Concern.HOOK))
        self._running[handle] = exchange
        self._multi.add_handle(handle)

    def _finish(self, handle: Any, code: int, message: str) -> None:
        exchange = self._running.pop(handle)
        try:
            if not exchange.stale:
                self._keep(handle)
            self._multi.remove_handle(handle)
            if exchange.stale:
                return self._start(exchange, exchange.addresses)
            outcome = exchange.outcome(code, message, handle)
        except Exception as fault:
            return self._fail(exchange, fault)
        self._answer(exchange, outcome)

    def _fail(self, exchange: Exchange, fault: Exception) -> None:
        """Resolution a request that a fault of ours has ended: no request may go unanswered."""
        logger.exception("a request failed by a fault of ours")
        self._running.pop(self._handles.pop(exchange, None), None)
        self._answer(
            exchange, exchange.ended(f"Internal error ({type(fault).__name__}). See the worker's log.", Concern.NOBODY)
        )

    def _keep(self, handle: Any) -> None:
        """Remember the socket of a connection that is kept alive."""
        fd = handle.getinfo(pycurl.LASTSOCKET)
        if fd >= 0:
            getinfo = handle.getinfo
            ends = (
                getinfo(pycurl.PRIMARY_IP),
                getinfo(pycurl.LOCAL_IP),
                getinfo(pycurl.PRIMARY_PORT),
                getinfo(pycurl.LOCAL_PORT),
            )
            self._kept.pop(ends, None)
            if len(self._kept) > 2 * self._most:  # most of them have closed
                del self._kept[next(iter(self._kept))]
            self._kept[ends] = fd

    def _answer(self, exchange: Exchange, outcome: Outcome) -> None:
        """Resolution a request, and keep the handle for another one."""
        handle, done = self._handles.pop(exchange, None), exchange.done
        exchange.clear()
        if handle is not None and len(self._idle) < MAX_KEPT_HANDLES:
            self._idle.append((handle, exchange))
        if done is not None:
            _tell(done, outcome)

    def _refuse(self) -> None:
        """Resolution what came too late, on any thread."""
        with suppress(IndexError):
            while True:
                request, done, began, started_at = self._inbox.popleft()
                exchange = Exchange(self._rules, self._kept, self._meter)
                exchange.begin(request, done, began, started_at)
                _tell(done, exchange.ended(STOPPED, Concern.NOBODY))

    def _end(self) -> None:
        """Resolution what is under way, and let go of everything."""
        self._ended = True
        self._refuse()
        for handle in list(self._running):
            self._multi.remove_handle(handle)
        self._running.clear()
        for exchange, look_up in self._waiting.items():
            if exchange.found:
                shared_resolver.cancel(look_up, exchange.found)
        self._waiting.clear()
        for exchange in list(self._handles):
            self._answer(exchange, exchange.ended(STOPPED, Concern.NOBODY))
        self._idle.clear()
        self._multi.close()
        self._watch.selector.close()
        self._woken.close()
        self._waker.close()


def _tell(done: Done, outcome: Outcome) -> None:
    try:
        done(outcome)
    except Exception:
        logger.exception("the outcome of a request could not be taken")
