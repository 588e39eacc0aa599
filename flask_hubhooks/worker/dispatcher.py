"""The loop that claims due deliveries, sends them through the transport, and records the results."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic, process_time
from typing import Protocol

import orjson
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..announce import announce
from ..config import Config
from ..crypto.secret_box import SecretUnreadable
from ..crypto.signing import signature_headers
from ..dialects import DATABASE_AWAY, is_conflict, set_up_worker, utcnow
from ..formats import (
    DEFAULT_FORMAT,
    FORMATS,
    BodyTooLarge,
    Format,
    Push,
    dockerhub,
    format_of,
    url_placeholders,
)
from ..records import request_headers
from ..records.chains import Changes
from ..records.models import deliveries, hooks, pushes, webhooks
from ..records.workers import OpenBreaker
from ..state import State
from ..transport import Concern, Outcome, Request, Transport
from ..transport.egress import egress_of
from ..transport.tls import DEFAULT_TLS, TLS
from ..wakeups import DueHook, Listener
from . import awaited_tags, claims, open_files, recording, tag_order
from .claims import Claim, Released
from .limits import SLOW_FACTOR, Limits
from .masking import MASKED, masked
from .recording import Result
from .retry import Judgement, Verdict, judge, judge_test

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MAX_WAIT_S = 5.0
"""How long a claim may wait for its turn before it is released: so pausing or deleting a webhook takes effect within
this time. It is part of `LEASE_MARGIN_S`."""
MIN_CLAIM, MAX_CLAIM = 64, 1024
"""Deliveries of one claim: twice as many as were completed since the last one, since they are to be sent soon, and at
least half of the last claim's limit, since a claim of a few costs nearly as much as one of hundreds."""
MAX_CLAIMED = 8192
"""Deliveries that the process has claimed in all: those in flight, also to receivers that hang, and those waiting."""
BUSY = 0.7
"""The process is busy if it has used this part of a processor since it was last measured."""
BATCH = MAX_CLAIM
NAP_S = 0.005
BATCH_WAIT_S = 0.05
"""How long results are collected to share one transaction, as long as each nap brings some."""
POLL_S = 0.05
"""How often due deliveries are looked for while requests are in flight and no wake-up comes. If a look takes longer, as
with thousands of repositories, looking takes half of the time at most."""
LISTEN_S = 0.5
"""How long one wait for a wake-up lasts, and so the longest that ending may be delayed."""
SWEEP_S = 1.0
"""How often overdue deliveries, such as those whose callbacks never came, are looked for."""
POSTPONED_S = 60.0
"""When a delivery that we cannot send because of an error of ours is tried again."""
IDLE_S = 30.0
"""How long a transaction, which keeps rows from others, may be idle before the database ends it: less than what a lease
has beyond the request."""
LOCKED_S = 0.1
"""How soon a result is recorded again whose delivery was locked: a host may be deleting a repository."""
STOP_LOCKED_S = 5.0
"""How long that is tried once nothing more is claimed. After it the lease brings those deliveries back."""
PLANNED_TABLES = (webhooks, hooks, pushes, deliveries)
"""The tables whose sizes decide which plans are good: those that claims read. A look at the size of a table waits while
a migration has it locked, so tables that claims can do without are not among them."""
REFUSED = (SQLAlchemyError, UnicodeError)
"""The errors of a batch that the database refuses, or that cannot even be sent to it."""
BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between attempts to reach a database that is away; the last one is repeated."""


class Sender(Protocol):
    """The part of `Transport` that the dispatcher uses. Tests replace it to deliver without network and threads."""

    def send(self, request: Request, done: Callable[[Outcome], None]) -> None: ...


def guarded_transport(config: Config, most: int) -> Transport:
    """The transport for deliveries, with the app's settings, for at most `most` requests at once."""
    return Transport(
        egress_of(config),
        ca_bundle=config.ca_bundle,
        client_certificate=config.client_certificate,
        proxy=config.proxy,
        no_proxy=config.no_proxy,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        max_connections=most,
    )


class Dispatcher:
    """Delivers for one app in one process. Its transport and connections outlive a `run`, which belongs to one thread.

    `slice_s` is how long it claims deliveries: a plain RQ worker needs its job to end now and then. `linger_s` is how
    long it listens for wake-ups before it ends, which saves a push the way through a queue.
    """

    def __init__(
        self,
        state: State,
        concurrency: int | None = None,
        *,
        slice_s: float = 60.0,
        linger_s: float = 0.0,
        transport: Sender | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._state = state
        self._slice_s = slice_s
        self._linger_s = linger_s
        self._listener = Listener(state, self._wake)
        self._woken = threading.Event()
        self._named: set[DueHook] = set()
        """Hooks that wake-ups have named since the last claim."""
        room = concurrency or state.config.concurrency
        most = room * SLOW_FACTOR if transport else open_files.max_requests(room * SLOW_FACTOR)
        self._transport = transport or guarded_transport(state.config, most)
        self._limits = limits or Limits(room, most)
        self._tags = awaited_tags.AwaitedTags(state, self._transport.send, lambda: self._done.put(None))
        self._turns = claims.Turns()
        self._done: SimpleQueue[Result | Released | None] = SimpleQueue()
        self._sending = threading.local()
        self._unfinished = 0
        """Claims that were added to the limits, and neither collected nor withdrawn yet."""
        self._capacity = MAX_CLAIM
        self._measured_at, self._measured_cpu_s = monotonic(), process_time()
        self._claim_limit = MIN_CLAIM
        self._completed = 0
        """Claims completed since the dispatcher last asked for more."""
        self._claim_not_before = self._sweep_not_before = self._withdraw_not_before = 0.0
        self._look_again = False
        """Whether the last look for work has left more to hold or to release."""
        self._locked: list[Result | Released] = []
        self._locked_not_before = 0.0
        self._ends = inf
        """When the run is to claim nothing more."""
        self.stopping = threading.Event()

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return self._limits.in_flight

    def open_breakers(self) -> list[OpenBreaker]:
        """The hooks and hosts that are sent nothing for a while."""
        return self._limits.open_breakers()

    @property
    def longest_timeout_s(self) -> float:
        """The longest time-out of the requests in flight; 0 if there are none."""
        return min(self._limits.longest_timeout_s, self._state.config.max_timeout_s)

    def stop(self) -> None:
        """Claim and send nothing more; requests in flight are still recorded. Safe in a signal handler."""
        self.stopping.set()
        self._done.put(None)

    def end_run(self) -> None:
        """End the run that is going on, as if its slice were over. Safe on any thread."""
        self._ends = -inf
        self._done.put(None)

    def _wake(self, due: Iterable[DueHook] = ()) -> None:
        self._named.update(due)
        self._woken.set()
        self._done.put(None)

    def run(self) -> bool:
        """Deliver until nothing is due, nothing is in flight, and no wake-up has come for `linger_s`.

        Returns whether it ended earlier, because it was stopped or its slice was over.
        """
        self._ends = monotonic() + self._slice_s
        if self._linger_s:
            self._listener.start()
        try:
            return self._run_until_quiet()
        finally:
            self._listener.stop()

    def _run_until_quiet(self) -> bool:
        quiet_since = monotonic()
        self._sweep_not_before = 0.0
        self._turns.freed()
        self._tags.hurry()
        locked_until = inf
        wait_s = 0.0
        while True:
            done = self._collect(wait_s)  # an earlier run may have left some behind
            cut_short = self.stopping.is_set() or monotonic() >= self._ends
            if woken := self._woken.is_set():
                self._woken.clear()
            try:
                if woken and not cut_short:  # a new push does not wait until the results of others are recorded
                    self._claim_not_before = -inf
                    self._tags.hurry()
                    self._look_for_work()
            finally:
                self._record(done)
            self._record_locked()
            self._release(everything=cut_short)
            if cut_short:
                self._tags.give_back(self._writing)
            elif done or not woken:
                self._look_for_work()
            if done or self._unfinished or self._tags.look_ups:
                quiet_since = monotonic()
            if cut_short and not self._unfinished:
                locked_until = min(locked_until, monotonic() + STOP_LOCKED_S)
            if self._look_again and not cut_short:
                wait_s = 0.0
            elif self._unfinished or self._tags.look_ups:
                wait_s = POLL_S
            elif self._locked and monotonic() < locked_until:
                wait_s = LOCKED_S
            elif not self._listener.listening:
                return cut_short
            elif cut_short or monotonic() >= quiet_since + self._linger_s:
                self._listener.stop()
                wait_s = 0.0
            else:
                wait_s = min(LISTEN_S, self._tags.wait_s)

    def _look_for_work(self) -> None:
        self._look_again = False
        try:
            if self._tags.attend(self._writing):
                self._claim_not_before = -inf
            self._claim()
            self._expire_overdue()
        except DATABASE_AWAY as fault:
            if not self._unfinished:
                raise
            self._state.database_outage.noticed(fault)
            self._claim_not_before = self._sweep_not_before = monotonic() + BACK_OFF_S[-1]

    def _expire_overdue(self) -> None:
        while monotonic() >= self._sweep_not_before:
            with self._writing() as session:
                expired = claims.expire_overdue(session, MAX_CLAIM)
                awaited_tags.give_up(session)
            announce(self._state, expired)
            if expired.more_due:  # of webhooks that are active again: results are recorded between two batches
                self._look_again, self._claim_not_before = True, -inf
                break
            if len(expired.finished) < MAX_CLAIM:
                self._sweep_not_before = monotonic() + SWEEP_S

    def _claim(self) -> None:
        limit = max(MIN_CLAIM, self._claim_limit // 2, min(2 * self._completed, MAX_CLAIM))
        running_low = (
            self._turns.more_due and self._limits.soon_done <= limit
        )  # claim more while the last results are recorded
        too_early = self._unfinished and not running_low and monotonic() < self._claim_not_before
        if too_early or self._unfinished >= MAX_CLAIMED:
            return
        began = monotonic()
        # If others wait for their turn, so do hooks that wake-ups name.
        named = frozenset() if self._unfinished and self._turns.more_due else frozenset(self._named)
        self._named.clear()
        excluded = self._limits.excluded(self._measure_capacity())
        with self._writing() as session:
            taken, changes = claims.claim(session, limit, excluded, self._turns, named)
        self._completed = 0
        self._claim_limit = limit
        self._look_again = changes.more_due
        self._claim_not_before = -inf if self._look_again else monotonic() + max(POLL_S, monotonic() - began)
        if any(claim.ordered_image for claim in taken):
            with self._writing() as session:
                taken, released = tag_order.keep_order(session, taken)
            self._record(released)
        self._unfinished += len(taken)
        for claim in taken:
            self._limits.add(claim, began + MAX_WAIT_S)
        self._send_more()
        announce(self._state, changes)

    def _measure_capacity(self) -> int:
        """How many claims to hold: twice as many while the process waits for receivers, half as many while it is busy.

        More than it can keep up with would only wait in it, and count as slow.
        """
        seconds, cpu_s = monotonic() - self._measured_at, process_time() - self._measured_cpu_s
        if seconds >= POLL_S:
            self._measured_at, self._measured_cpu_s = monotonic(), process_time()
            if cpu_s < BUSY * seconds:
                self._capacity = min(2 * self._capacity, MAX_CLAIMED)
            else:
                self._capacity = max(self._capacity // 2, MAX_CLAIM)
        return self._capacity

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        # In an app context of its own: the queries that Flask-SQLAlchemy records would pile up in the worker's.
        with self._state.app.app_context(), self._state.writing() as session:
            set_up_worker(session, IDLE_S, PLANNED_TABLES)
            yield session

    def _send_more(self) -> None:
        """Send what may be sent now: on the main thread after a claim, on the transport's after a request has ended."""
        if self.stopping.is_set() or getattr(self._sending, "active", False):  # a test's transport answers at once
            return
        self._sending.active = True
        try:
            while taken := self._limits.take():
                for claim in taken:
                    self._send(claim)
        finally:
            self._sending.active = False

    def _send(self, claim: Claim) -> None:
        try:
            self._transport.send(*self._request(claim))
        except SecretUnreadable:
            logger.error(
                "delivery %s is held: the secret or the headers of webhook %d cannot be decrypted. If SECRET_KEY or "
                "HUBHOOKS_ENCRYPTION_KEYS was changed, put the old one behind the new one (SECRET_KEY_FALLBACKS)",
                claim.id,
                claim.webhook_id,
            )
            self._postpone(claim, "Waiting: its secret or its headers cannot be decrypted. Tell the operator.")
        except BodyTooLarge as too_large:
            self._limits.ended(claim)
            outcome = Outcome(utcnow(), 0, error=str(too_large), concern=Concern.NOBODY)
            judgement = Judgement(Verdict.FAILED, reason=str(too_large))
            self._done.put(Result(claim, claim.hook_url, {}, "", outcome, judgement))
        except Exception:
            logger.exception("delivery %s is held: it could not be built", claim.id)
            self._postpone(claim, "Waiting: it could not be built. The worker's log says why.")

    def _postpone(self, claim: Claim, reason: str) -> None:
        self._limits.ended(claim)
        self._done.put(Released(claim, POSTPONED_S, reason))

    def _request(self, claim: Claim) -> tuple[Request, Callable[[Outcome], None]]:
        """Build a delivery's request, and the function to call with its outcome."""
        decrypt = self._state.secrets.decrypt
        token = self._state.tokens.make(claim.id, claim.round)
        written, body, url = self._payload(claim, token)
        former = claim.encrypted_former_secret
        keys = [decrypt(each) for each in (claim.encrypted_secret, *([former] if former else []))]
        own = request_headers.of_text(decrypt(claim.encrypted_headers)) if claim.encrypted_headers else {}
        if claim.encrypted_authorization:
            own["Authorization"] = decrypt(claim.encrypted_authorization)
        signatures = signature_headers(keys, str(claim.id), int(time.time()), body)
        headers = request_headers.ours(own, written.content_type, signatures)

        def done(outcome: Outcome) -> None:
            try:
                outcome = masked(outcome, [*keys, *request_headers.secrets(own)])
                judgement = judge_test(outcome) if claim.is_test else judge(outcome, claim.retry_step)
            except Exception:
                logger.exception("delivery %s is held: its outcome could not be judged", claim.id)
                return self._postpone(claim, "Waiting: its outcome could not be judged. The worker's log says why.")
            declined = judgement.verdict is Verdict.DECLINED
            self._limits.ended(claim, outcome, received=None if declined else judgement.verdict is Verdict.RECEIVED)
            stored_body = body.decode().replace(token, MASKED)
            shown_headers = headers | dict.fromkeys(own, MASKED)
            self._done.put(Result(claim, url, shown_headers, stored_body, outcome, judgement, written.has_callback))
            self._send_more()

        tls = TLS(**claim.tls) if claim.tls else DEFAULT_TLS
        timeout_s = min(claim.timeout_s, self._state.config.max_timeout_s)
        return Request(url, body, own | headers, claim.scope, tls, timeout_s), done

    def _payload(self, claim: Claim, token: str) -> tuple[Format, bytes, str]:
        """Return the payload format, body and URL of a delivery's request."""
        config, details = self._state.config, orjson.loads(claim.snapshot)
        callback_url = dockerhub.make_callback_url(config.external_url, claim.repository, token)
        if claim.payload_format == DEFAULT_FORMAT and "{" not in claim.hook_url:  # the usual case, without a `Push`
            content = dockerhub.payload(
                external_url=config.external_url,
                callback_url=callback_url,
                repository=claim.repository,
                tag=claim.tag,
                pusher=claim.pusher,
                pushed_at=claim.pushed_at,
                details=details,
            )
            return FORMATS[DEFAULT_FORMAT], dockerhub.body(content), claim.hook_url
        push = Push(
            delivery_id=claim.id,
            repository=claim.repository,
            tag=claim.tag,
            pusher=claim.pusher,
            pushed_at=claim.pushed_at,
            details=details,
            registry_host=config.registry_host,
            external_url=config.external_url,
            callback_url=callback_url,
            digest=claim.digest,
            media_type=claim.media_type,
            images=tuple(claim.images or ()),
        )
        written = format_of(claim.payload_format, claim.template or "")
        return written, written.body(push), url_placeholders.fill(claim.hook_url, push)

    def _collect(self, wait_s: float) -> list[Result | Released]:
        """The claims that are done: waits at most `wait_s` for the first, and then briefly for others."""
        self._send_more()  # a request that has become slow makes room for another
        try:
            done = [self._done.get(timeout=wait_s)]
        except Empty:
            return []
        deadline, before = monotonic() + BATCH_WAIT_S, -1
        while (
            before < (ready := self._done.qsize()) < BATCH - 1
            and self._limits.any_fresh
            and not self._woken.is_set()
            and monotonic() < deadline
        ):
            before = ready
            self._woken.wait(NAP_S)
        done += [self._done.get_nowait() for _ in range(min(BATCH - 1, self._done.qsize()))]
        collected = [each for each in done if each is not None]
        self._unfinished -= len(collected)
        self._turns.freed({each.claim.repository_key for each in collected})
        return collected

    def _release(self, *, everything: bool) -> None:
        """Release claims that wait for a breaker or have waited too long, or all that are not in flight."""
        if everything or monotonic() >= self._withdraw_not_before:
            self._withdraw_not_before = monotonic() + POLL_S
            withdrawn = self._limits.withdraw(everything=everything)
            self._unfinished -= len(withdrawn)
            self._record([Released(claim, open_s) for claim, open_s in withdrawn])

    def _record(self, done: Sequence[Result | Released]) -> None:
        """Write a batch, and again for as long as the database is away: no result must be lost.

        A worker that is to stop gives up after some seconds. If the database refuses the batch itself, each is written
        alone, so that one costs only itself. The lease brings back what was not written.
        """
        self._completed += len(done)
        for wait_s in chain(BACK_OFF_S, repeat(BACK_OFF_S[-1])) if done else ():
            try:
                return self._write(done)
            except DATABASE_AWAY as fault:
                if not is_conflict(fault):
                    self._state.database_outage.noticed(fault)
                if self.stopping.is_set() and wait_s == BACK_OFF_S[-1]:
                    return
                time.sleep(wait_s)
            except REFUSED:
                logger.exception("cannot record %d deliveries", len(done))
                return self._record_one_by_one(done)

    def _record_one_by_one(self, done: Sequence[Result | Released]) -> None:
        """Write each of a refused batch alone, and one that is still refused without its attempt.

        Otherwise it would be sent again after each lease.
        """
        if len(done) > 1:
            for each in done:
                self._record([each])
            return
        try:
            self._write(done, with_attempts=False)
        except REFUSED:
            logger.exception("cannot record the result of a delivery: it is sent again when its lease ends")

    def _write(self, done: Sequence[Result | Released], *, with_attempts: bool = True) -> None:
        results = [each for each in done if isinstance(each, Result)]
        released = [each for each in done if isinstance(each, Released)]
        changes = Changes()
        if released:
            with self._writing() as session:
                locked = claims.release(session, released)
            self._keep(released, locked)
        if results:
            ttl_s = self._state.config.callback_ttl.total_seconds()
            with self._writing() as session:
                changes = recording.record(session, results, ttl_s, with_attempts=with_attempts)
            self._keep(results, changes.locked)
        self._state.database_outage.over()
        if changes.more_due:
            self._claim_not_before = -inf
        announce(self._state, changes)

    def _record_locked(self) -> None:
        if self._locked and monotonic() >= self._locked_not_before:
            again, self._locked = self._locked, []
            self._record(again)

    def _keep(self, done: Sequence[Result | Released], locked: Collection[uuid.UUID]) -> None:
        """Keep those whose deliveries other transactions have locked, to record them later."""
        if not self._locked:  # otherwise those that were kept before would wait longer
            self._locked_not_before = monotonic() + LOCKED_S
        self._locked += [each for each in done if each.claim.id in locked]
