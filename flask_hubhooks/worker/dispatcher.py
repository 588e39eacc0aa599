"""The loop that claims due deliveries, hands them to the transport, and records what came of them."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic, process_time
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..announce import announce
from ..config import Config
from ..crypto.secret_box import SecretUnreadable
from ..crypto.signing import signature_headers
from ..dialects import DATABASE_AWAY, is_conflict, limit_idling
from ..formats import dockerhub
from ..records import request_headers
from ..records.chains import Changes
from ..state import State
from ..transport import Outcome, Request, Transport
from ..transport.egress import egress_of
from ..wakeups import Listener
from . import claims, open_files, recording
from .claims import Claim, Unsent
from .limits import SLOW_FACTOR, Limits
from .masking import MASKED, masked
from .recording import Result
from .retry import Verdict, judge, judge_test

logger = logging.getLogger(__name__)

USER_AGENT = "flask_hubhooks"
CONNECT_TIMEOUT_S = 5.0
DEADLINE_S = 15.0
STOP_S = DEADLINE_S + 10.0
"""How long stopping may take: what is on the wire is answered, and written in spite of a short outage."""
WAIT_MOST_S = 5.0
"""How long a claim may wait for its turn: who pauses or deletes a webhook is heard after this at the latest. The lease
(60 s) leaves the deadline and the margin, and another deadline for those before it."""
CLAIM_LEAST, CLAIM_MOST = 64, 1024
"""Rows of one claim. It follows what was completed since the last one: no more is taken than will be sent soon."""
HELD_MOST = 8192
"""Rows that are held in all, before no more is claimed: what hangs and what waits behind it."""
BUSY = 0.7
"""The process is busy where it has used this part of a processor since it looked last."""
BATCH = CLAIM_MOST
NAP_S = 0.005
BATCH_WAIT_S = 0.05
"""How long results are collected to share one transaction, as long as each nap brings some."""
POLL_S = 0.05
"""How soon, while requests are on the wire, due rows are looked for again where nobody says that there are some. Where
looking takes longer, as among thousands of repositories, it is done for half of the time at most."""
HEAR_S = 0.005
"""How often, while requests are on the wire, it hears whether there are some."""
LISTEN_S = 0.5
"""How long it listens at a stretch; a signal to stop is noticed after this at the latest."""
SWEEP_S = 1.0
"""How often, in a long run, it looks for callbacks that never came."""
HELD_S = 60.0
"""How long a delivery that we cannot send, by a fault of ours, is put off."""
IDLE_S = 30.0
"""How long a transaction may stand still, which holds rows from others, before the database ends it: half a lease."""
LOCKED_S = 0.1
"""How soon what another transaction kept from being recorded is tried again: a host may be deleting a repository."""
STOP_LOCKED_S = 5.0
"""For how long it is tried once no more is claimed. After that the lease brings those deliveries back."""
BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between tries to reach a database that is away; the last is repeated."""


class Sender(Protocol):
    """What `Transport` is to the dispatcher: tests give another one, to deliver without network and threads."""

    def send(self, request: Request, done: Callable[[Outcome], None]) -> None: ...


def guarded_transport(config: Config, most: int) -> Transport:
    """The transport that deliveries go through, with the app's settings, for at most so many requests at once."""
    return Transport(
        egress_of(config),
        ca_bundle=config.ca_bundle,
        client_certificate=config.client_certificate,
        proxy=config.proxy,
        no_proxy=config.no_proxy,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        deadline_s=DEADLINE_S,
        max_connections=most,
    )


class Dispatcher:
    """One for each app and process; its transport and connections outlive a `run`.

    `run` belongs to one thread. `slice_s` is how long it goes on claiming: a plain RQ worker needs its job to
    end now and then. `linger_s` is how long it listens for more before it ends, which spares a push the way
    through a queue.
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
        self._listener = Listener(state)
        room = concurrency or state.config.concurrency
        most = room * SLOW_FACTOR if transport else open_files.max_requests(room * SLOW_FACTOR)
        self._transport = transport or guarded_transport(state.config, most)
        self._limits = limits or Limits(room, most)
        self._turns = claims.Turns()
        self._done: SimpleQueue[Result | Unsent | None] = SimpleQueue()
        self._sending = threading.local()
        self._unfinished = 0
        """Claims that were added to the limits, and neither collected nor withdrawn yet."""
        self._held = CLAIM_MOST
        self._looked_at, self._used_s = monotonic(), process_time()
        self._completed = 0
        self._claim_not_before = self._sweep_not_before = self._withdraw_not_before = 0.0
        self._locked: list[Result | Unsent] = []
        self._locked_not_before = 0.0
        self.stopping = threading.Event()

    def stop(self) -> None:
        """Claim nothing more and send nothing that is not on the wire; safe in a signal handler."""
        self.stopping.set()
        self._done.put(None)

    def run(self) -> bool:
        """Deliver until nothing is due, nothing is on the wire, and nothing more was heard of for `linger_s`.

        Returns whether it ended earlier, because it was stopped or its time was over.
        """
        if self._linger_s:
            self._listener.start()
        try:
            return self._run_until_quiet(ends=monotonic() + self._slice_s)
        finally:
            self._listener.stop()

    def _run_until_quiet(self, ends: float) -> bool:
        quiet_since = monotonic()
        self._sweep_not_before = 0.0
        self._turns.freed()
        locked_until = inf
        while True:
            if self._unfinished:  # first of all what an earlier run may have left behind
                self._record(self._collect(HEAR_S if self._listener.listening else POLL_S))
                quiet_since = monotonic()
            if self._locked and monotonic() >= self._locked_not_before:
                again, self._locked = self._locked, []
                self._record(again)
            cut_short = self.stopping.is_set() or monotonic() >= ends
            self._give_back(everything=cut_short)
            if not cut_short:
                self._look_for_work()
            if self._unfinished:
                continue
            if cut_short:
                locked_until = min(locked_until, monotonic() + STOP_LOCKED_S)
            if self._locked and monotonic() < locked_until:
                if self._listener.listening:
                    self._listener.wait(LOCKED_S)
                else:
                    time.sleep(LOCKED_S)
                continue
            if not self._listener.listening:
                return cut_short
            if cut_short or monotonic() >= quiet_since + self._linger_s:
                self._listener.stop()
            else:
                self._listener.wait(LISTEN_S)

    def _look_for_work(self) -> None:
        if self._unfinished and self._listener.wait(0.0):  # asked last, so that nothing stands before the claim
            self._claim_not_before = -inf
        try:
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
                expired = claims.expire_overdue(session, CLAIM_MOST)
            if len(expired.finished) < CLAIM_MOST:
                self._sweep_not_before = monotonic() + SWEEP_S
            announce(self._state, expired)

    def _claim(self) -> None:
        limit = max(CLAIM_LEAST, min(CLAIM_MOST, 2 * self._completed))
        # Claim before all is done, so that the next ones are sent while these are recorded.
        running_low = self._turns.more_due and self._limits.soon_done <= limit
        if self._unfinished >= HELD_MOST or (
            self._unfinished and not running_low and monotonic() < self._claim_not_before
        ):
            return
        began = monotonic()
        with self._writing() as session:
            taken, changes = claims.claim(session, limit, self._limits.excluded(self._stock()), self._turns)
        self._completed = 0
        self._claim_not_before = monotonic() + max(POLL_S, monotonic() - began)
        self._unfinished += len(taken)
        for claim in taken:
            self._limits.add(claim, began + WAIT_MOST_S)
        self._send_more()
        announce(self._state, changes)

    def _stock(self) -> int:
        """How much is held at once: more and more while the process waits for receivers, less while it is busy.

        More than it can keep up with would only wait in it, and count as slow.
        """
        seconds, used_s = monotonic() - self._looked_at, process_time() - self._used_s
        if seconds >= POLL_S:
            self._looked_at, self._used_s = monotonic(), process_time()
            doubled = used_s < BUSY * seconds
            self._held = min(2 * self._held, HELD_MOST) if doubled else max(self._held // 2, CLAIM_MOST)
        return self._held

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        # In an app context of its own: what Flask-SQLAlchemy records of queries would pile up in the worker's.
        with self._state.app.app_context(), self._state.writing() as session:
            limit_idling(session, IDLE_S)
            yield session

    def _send_more(self) -> None:
        """Send what may be sent now: on the main thread after a claim, on the transport's when a request has ended."""
        if self.stopping.is_set() or getattr(self._sending, "here", False):  # a test's transport answers at once
            return
        self._sending.here = True
        try:
            while taken := self._limits.take():
                for claim in taken:
                    self._send(claim)
        finally:
            self._sending.here = False

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
            self._hold(claim, "held: its secret or its headers cannot be decrypted; tell the operator")
        except Exception:
            logger.exception("delivery %s is held: it could not be built", claim.id)
            self._hold(claim, "held: it could not be built; the worker's log says why")

    def _hold(self, claim: Claim, reason: str) -> None:
        self._limits.ended(claim)
        self._done.put(Unsent(claim, HELD_S, reason))

    def _request(self, claim: Claim) -> tuple[Request, Callable[[Outcome], None]]:
        """Build a delivery's request, and what is to be called with its outcome."""
        token = self._state.tokens.make(claim.id, claim.round)
        content = dockerhub.payload(
            external_url=self._state.config.external_url,
            token=token,
            repository=claim.repository,
            tag=claim.tag,
            pusher=claim.pusher,
            pushed_at=claim.pushed_at,
            details=claim.snapshot,
        )
        body = dockerhub.body(content)
        former = claim.encrypted_former_secret
        keys = [self._decrypted(each) for each in (claim.encrypted_secret, *([former] if former else []))]
        own = request_headers.of_text(self._decrypted(claim.encrypted_headers)) if claim.encrypted_headers else {}
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            **signature_headers(keys, str(claim.id), int(time.time()), body),
        }

        def done(outcome: Outcome) -> None:
            try:
                outcome = masked(outcome, [*keys, *request_headers.secrets(own)])
                judgement = judge_test(outcome) if claim.is_test else judge(outcome, claim.retry_step)
            except Exception:
                logger.exception("delivery %s is held: its outcome could not be judged", claim.id)
                return self._hold(claim, "held: its outcome could not be judged; the worker's log says why")
            self._limits.ended(claim, outcome, received=judgement.verdict is Verdict.RECEIVED)
            self._done.put(Result(claim, headers | dict.fromkeys(own, MASKED), outcome, judgement))
            self._send_more()

        return Request(claim.hook_url, body, own | headers, claim.repository), done

    def _decrypted(self, encrypted: bytes) -> str:
        return self._state.secrets.decrypt(encrypted)

    def _collect(self, wait_s: float) -> list[Result | Unsent]:
        """What is done: waits at most `wait_s` for the first, then briefly for others; empty when none came."""
        self._send_more()  # a request that has become slow makes room for another
        try:
            done = [self._done.get(timeout=wait_s)]
        except Empty:
            return []
        deadline, before = monotonic() + BATCH_WAIT_S, -1
        while before < (ready := self._done.qsize()) < BATCH - 1 and self._limits.any_fresh and monotonic() < deadline:
            before = ready
            time.sleep(NAP_S)
        done += [self._done.get_nowait() for _ in range(min(BATCH - 1, self._done.qsize()))]
        collected = [each for each in done if each is not None]
        self._unfinished -= len(collected)
        self._turns.freed({each.claim.repository_key for each in collected})
        return collected

    def _give_back(self, *, everything: bool) -> None:
        """Give back what waits for a breaker or has waited too long, or all that is not on the wire."""
        if everything or monotonic() >= self._withdraw_not_before:
            self._withdraw_not_before = monotonic() + POLL_S
            withdrawn = self._limits.withdraw(everything=everything)
            self._unfinished -= len(withdrawn)
            self._record([Unsent(claim, open_s) for claim, open_s in withdrawn])

    def _record(self, done: Sequence[Result | Unsent]) -> None:
        """Write a batch, trying again for as long as the database is away: what was answered must not be lost.

        A worker that is to stop gives up after some seconds. Where it is the batch that the database refuses, each
        is written by itself, so that one costs only itself. The lease brings back what was not written.
        """
        self._completed += len(done)
        for wait_s in chain(BACK_OFF_S, repeat(BACK_OFF_S[-1])) if done else ():
            try:
                return self._recorded(self._write(done))
            except DATABASE_AWAY as fault:
                if not is_conflict(fault):
                    self._state.database_outage.noticed(fault)
                if self.stopping.is_set() and wait_s == BACK_OFF_S[-1]:
                    return
                time.sleep(wait_s)
            except SQLAlchemyError:
                logger.exception("cannot record %d deliveries", len(done))
                return self._record_one_by_one(done)

    def _record_one_by_one(self, done: Sequence[Result | Unsent]) -> None:
        """Write each of a batch that the database refuses, one that it still refuses without its attempt.

        Otherwise it would be sent again and again, as often as its lease ends.
        """
        if len(done) > 1:
            for each in done:
                self._record([each])
            return
        try:
            self._recorded(self._write(done, with_attempts=False))
        except SQLAlchemyError:
            logger.exception("cannot record what came of a delivery: it is sent again when its lease ends")

    def _recorded(self, changes: Changes) -> None:
        self._state.database_outage.over()
        if changes.more_due:
            self._claim_not_before = -inf
        announce(self._state, changes)

    def _write(self, done: Sequence[Result | Unsent], *, with_attempts: bool = True) -> Changes:
        results = [each for each in done if isinstance(each, Result)]
        unsent = [each for each in done if isinstance(each, Unsent)]
        if unsent:
            with self._writing() as session:
                locked = claims.let_go(session, unsent)
            self._keep(unsent, locked)
        if not results:
            return Changes()
        ttl_s = self._state.config.callback_ttl.total_seconds()
        with self._writing() as session:
            changes = recording.record(session, results, ttl_s, with_attempts=with_attempts)
        self._keep(results, changes.locked)
        return changes

    def _keep(self, done: Sequence[Result | Unsent], locked: Collection[uuid.UUID]) -> None:
        """Keep what other transactions have locked, to record it later."""
        if not self._locked:  # what was kept before must not wait for longer because of this
            self._locked_not_before = monotonic() + LOCKED_S
        self._locked += [each for each in done if each.claim.id in locked]
