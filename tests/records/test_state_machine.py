"""Owners, registries, workers and receivers act in any order, some crash or lag, and the clock jumps.

    python -m pytest tests/records/test_state_machine.py --hypothesis-profile=long

runs at least 500 examples on each database. After every step each row is what `delivery_model` says it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import count, cycle
from math import ceil
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, event, func, select, text

from flask_hubhooks import ImagePush, Repository, state
from flask_hubhooks.outbox import accept_from_source
from flask_hubhooks.records import retention
from flask_hubhooks.records.models import Status, attempts, deliveries, hooks, pushes, webhooks
from flask_hubhooks.transport import Concern, Outcome
from flask_hubhooks.worker import awaited_tags, claims, recording, tag_order
from flask_hubhooks.worker.registry_client import Shown
from flask_hubhooks.worker.retry import judge, judge_test

from ..support.delivery_model import CODES, DAY, HEAD_START, LEASE_MARGIN, MAX_TIMEOUT, MEANING, Model
from ..support.delivery_records import Chain, Push, Sent
from ..support.delivery_records import Delivery as Expected
from ..support.delivery_records import Hook as ExpectedHook
from ..support.delivery_records import Webhook as ExpectedWebhook
from ..support.delivery_rows import check_rows
from ..support.host import Host
from ..support.marks import WITH_SOURCES, MakeHost
from ..support.stopped_clock import StoppedClock, seconds, stopped_clock

REPOSITORIES = ["acme/app", "acme/new"]
"""The names that the repository has in turn."""
URLS = [f"http://127.0.0.{number}:9/hook" for number in (1, 2, 3)]
HEADERS = {
    "429, again soon": (("Retry-After", "1"),),
    "503, again in years": (("Retry-After", "99999999"),),
    "301": (("Location", "https://elsewhere.example.com/"),),
}
NEVER_ENDING = 30
"""More rounds than any chain here needs to end, where time passes and every receiver answers 200."""

which = st.integers(0, 50)
urls = st.sampled_from(URLS)
answers = st.sampled_from(["200", *sorted(MEANING)])
states = st.sampled_from(["success", "failure", "error"])
tags = st.sampled_from(["latest", "v1"])
event_ids = st.sampled_from([None, None, "one", "two"])
final_callbacks = st.sampled_from([None, True, False])
shapes = st.lists(urls, min_size=1, max_size=3)

T = TypeVar("T")


def one_of(these: Sequence[T], number: int) -> T:
    return these[number % len(these)]


moments = count()
"""No two POSTs of one delivery begin at the same microsecond, though the clock stands still."""


def outcome(answer: str, clock: StoppedClock) -> Outcome:
    code = CODES[answer]
    return Outcome(
        clock.at_process() + timedelta(microseconds=next(moments) % 1000),
        5,
        status_code=code,
        error="" if code else answer,
        blocked=answer == "blocked",
        concern=Concern.NOBODY if answer == "blocked" else Concern.HOOK,
        response_headers=HEADERS.get(answer, ()),
    )


class Registry(RuleBasedStateMachine):
    """One repository in a real host app, and the model of the expected outcome of everything done to it."""

    def __init__(self, host: Host, clock: StoppedClock) -> None:
        super().__init__()
        self.host, self.clock, self.model = host, clock, Model()
        self.in_flight: list[tuple[Sent, claims.Claim]] = []
        self.known: list[Sent] = []
        """What receivers have got, and with it the callback URLs."""
        self.names = count()

    @property
    def repository(self) -> str:
        return self.model.repository

    @initialize(skew=st.sampled_from([0.0, -600.0, 600.0]))
    def begin(self, skew: float) -> None:
        self.clock.now_s, self.clock.skew_s = self.model.now, self.model.skew = 0.0, skew
        self.model.repository = REPOSITORIES[0]
        with self.host.writing() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("TRUNCATE hubhooks_webhook, hubhooks_push CASCADE"))  # rows lie as in a new table
            for table in (attempts, deliveries, pushes, hooks, webhooks):
                session.execute(delete(table))
        self.create([URLS[0], URLS[1]], only_versions=False, final=None, supersede=False)

    # Owners

    @precondition(lambda self: len(self.model.live) < 3)
    @rule(shape=shapes, only_versions=st.booleans(), final=final_callbacks, supersede=st.booleans())
    def create(self, shape: list[str], only_versions: bool, final: bool | None, supersede: bool) -> None:
        more = {
            "tag_filter": ["v*"] if only_versions else [],
            "expect_final_callback": final,
            "hooks": [{"hook_url": url, "supersede": supersede} for url in shape],
        }
        made = self.host.create(repository=self.repository, name=f"webhook {next(self.names)}", **more)
        hooks = [ExpectedHook(each["id"], each["hook_url"], supersedes=supersede) for each in made["hooks"]]
        self.model.webhooks.append(ExpectedWebhook(made["id"], hooks, only_versions, final))

    @precondition(lambda self: self.model.live)
    @rule(
        number=which,
        order=st.permutations(range(3)),
        most=st.integers(1, 3),
        new=st.lists(urls, max_size=1),
        moved=st.none() | urls,
        timeout_s=st.none() | st.sampled_from([5, MAX_TIMEOUT]),
    )
    def edit(
        self, number: int, order: list[int], most: int, new: list[str], moved: str | None, timeout_s: int | None
    ) -> None:
        """Keep some hooks in some order, perhaps with a new URL or time-out for one, and perhaps add one at the end."""
        webhook = one_of(self.model.live, number)
        kept = [webhook.hooks[each] for each in order if each < len(webhook.hooks)][:most]
        wanted: list[dict[str, Any]] = [{"id": each.id} for each in kept]
        if moved and kept:
            wanted[0]["hook_url"] = moved
        if timeout_s and kept:
            wanted[0]["timeout_s"] = kept[0].timeout_s = timeout_s
        wanted += [{"hook_url": url} for url in new]
        answer = self._api("PATCH", webhook, json={"hooks": wanted})
        assert answer.status_code == 200, answer.text
        moved_hook = kept[0] if moved and kept else None
        if new:
            added = answer.get_json()["hooks"][-1]
            # A hook that is named by its URL alone may be one of the webhook's that was left out.
            kept.append(
                next((each for each in webhook.hooks if each.id == added["id"]), ExpectedHook(added["id"], new[0]))
            )
        self.model.set_hooks(webhook, kept)
        if moved_hook and moved:
            self.model.set_url(moved_hook, moved)

    @precondition(lambda self: self._hooks())
    @rule(number=which, supersede=st.booleans())
    def set_supersede(self, number: int, supersede: bool) -> None:
        webhook, hook = one_of(self._hooks(), number)
        assert self._api("PATCH", webhook, f"hooks/{hook.id}/", json={"supersede": supersede}).status_code == 200
        self.model.set_supersede(hook, supersede)

    def _hooks(self) -> list[tuple[ExpectedWebhook, ExpectedHook]]:
        return [(webhook, hook) for webhook in self.model.live for hook in webhook.hooks]

    @precondition(lambda self: self._wanting())
    @rule(number=which, act=st.sampled_from(["pause", "delete", "remove"]), while_pushing=st.booleans())
    def switch_off(self, number: int, act: str, while_pushing: bool) -> None:
        """Switch off a webhook or its first hook, by itself or between reading and writing a push."""
        webhook = one_of(self._wanting(), number)
        if while_pushing:
            self._push("v1", meanwhile=lambda: self._switch_off(webhook, act))
        else:
            self._switch_off(webhook, act)

    def _wanting(self, tag: str = "v1") -> list[ExpectedWebhook]:
        return [each for each in self.model.webhooks if each.wants(tag)]

    def _switch_off(self, webhook: ExpectedWebhook, act: str) -> None:
        if act == "pause":
            assert self._api("PATCH", webhook, json={"active": False}).status_code == 200
            self.model.pause(webhook)
        elif act == "delete":
            assert self._api("DELETE", webhook).status_code == 204
            self.model.delete(webhook)
        else:
            assert self._api("DELETE", webhook, f"hooks/{webhook.hooks[0].id}/").status_code == 204
            self.model.set_hooks(webhook, webhook.hooks[1:])

    @precondition(lambda self: self._paused())
    @rule(number=which)
    def resume(self, number: int) -> None:
        webhook = one_of(self._paused(), number)
        assert self._api("PATCH", webhook, json={"active": True}).status_code == 200
        self.model.resume(webhook)

    def _paused(self) -> list[ExpectedWebhook]:
        return [each for each in self.model.live if not each.active]

    @precondition(lambda self: self.model.live)
    @rule(number=which, whole=st.booleans())
    def test(self, number: int, whole: bool) -> None:
        webhook = one_of(self.model.live, number)
        answer = self._api("POST", webhook, "test/", json={"chain": whole})
        if not webhook.hooks:
            assert answer.status_code == 409
            return
        assert answer.status_code == 202, answer.text
        chain = self.model.chain(webhook, is_test=True, most=None if whole else 1)
        self._learn(self.model.record(self.repository, "hubhooks-test", None, [chain]))

    @precondition(lambda self: self.model.chains)
    @rule(number=which)
    def redeliver(self, number: int) -> None:
        _, chain, delivery = one_of(self.model.all()[::-1], number)
        self._redeliver(chain, delivery)

    def _redeliver(self, chain: Chain, delivery: Expected) -> None:
        answer = self._api("POST", chain.webhook, f"history/{delivery.id}/redeliver/")
        assert answer.status_code == self.model.redeliver(chain, chain.deliveries.index(delivery)), answer.text

    @precondition(lambda self: self.model.chains)
    @rule(number=which, ago=st.sampled_from([0.0, 3600.0, 30 * DAY]))
    def recover(self, number: int, ago: float) -> None:
        webhook = one_of(self.model.webhooks, number)
        since = self.clock.at_database() - timedelta(seconds=ago)
        answer = self._api("POST", webhook, "recover/", json={"since": since.isoformat()})
        if webhook.deleted or not webhook.active:
            assert answer.status_code == (404 if webhook.deleted else 409)
        else:
            assert answer.get_json() == {"recovered": self.model.recover(webhook, self.model.now - ago), "remaining": 0}

    def _api(self, method: str, webhook: ExpectedWebhook, path: str = "", **options: Any) -> Any:
        return self.host.api(method, f"{self.repository}/webhooks/{webhook.id}/{path}", **options)

    # The host

    @precondition(lambda self: self.model.webhooks)
    @rule(act=st.sampled_from(["delete", "rename", "rename"]), while_pushing=st.booleans())
    def end_repository(self, act: str, while_pushing: bool) -> None:
        """Delete or rename the repository, by itself or between reading and writing a push."""
        end = self._delete if act == "delete" else self._rename
        if while_pushing and self._wanting():
            self._push("v1", meanwhile=end)
        else:
            end()

    def _delete(self) -> None:
        with self.host.app.app_context():
            self.host.hubhooks.repository_deleted(self.repository)
            self.host.db.session.commit()
        self.model.delete_repository()

    def _rename(self) -> None:
        new = next(each for each in REPOSITORIES if each != self.repository)
        with self.host.app.app_context():
            self.host.hubhooks.repository_renamed(self.repository, new)
            self.host.db.session.commit()
        self.model.rename_repository(new)

    # Pushes

    @precondition(lambda self: self._wanting())
    @rule(tag=tags, event_id=event_ids)
    def push(self, tag: str, event_id: str | None) -> None:
        self._push(tag, event_id)

    @precondition(lambda self: self._wanting())
    @rule(tag=tags)
    def push_before_the_tag_is_written(self, tag: str) -> None:
        """CNCF Distribution tells of a push whose tag it does not show yet."""
        chains, digest = [self.model.chain(each) for each in self._wanting(tag)], f"sha256:{next(self.names)}"
        with self.host.app.app_context():
            accept_from_source(self.host.state, "distribution", [ImagePush(self.repository, tag, digest=digest)])
        self._learn(self.model.record(self.repository, tag, None, chains, digest, awaited=True))

    @precondition(lambda self: self._awaited_tags())
    @rule(number=which, answer=st.sampled_from(["shown", "shown", "not yet", "crash"]))
    def look_tags_up(self, number: int, answer: str) -> None:
        """Take all tags that are to be looked up, and have the registry show the digest of some push, or another."""
        with self.host.writing() as session:
            taken = awaited_tags.take(session, 500)
        if not taken or answer == "crash":
            return
        awaited = one_of(taken, number)
        since = seconds(awaited.pushed_since) or 0.0
        of_tag = [each for each in self.model.pushes if each.tag == awaited.tag and each.made_here >= since]
        same = [each for each in of_tag if self._name(each) == awaited.repository]
        shown = one_of(same, number)
        with self.host.writing() as session:
            digest = shown.digest if answer == "shown" else "sha256:another"
            awaited_tags.record(session, [(awaited, Shown(digest))])
        if answer == "shown" and shown.digest:
            self.model.tag_shown([each for each in same if each.awaited_until is not None and each.id <= shown.id])

    def _awaited_tags(self) -> list[Push]:
        return [each for each in self.model.pushes if each.awaited_until is not None]

    def _name(self, push: Push) -> str:
        with self.host.writing() as session:
            return str(session.scalar(select(pushes.c.repository).where(pushes.c.id == push.id)))

    def _push(self, tag: str, event_id: str | None = None, meanwhile: Callable[[], object] = lambda: None) -> None:
        chains = [self.model.chain(each) for each in self._wanting(tag)]
        event = f"{event_id} of {self.repository}:{tag}" if event_id else None
        repository = self.repository

        def load(name: str) -> Repository:
            self.host.hubhooks.repository_loader(lambda name: Repository())
            meanwhile()
            return Repository()

        self.host.hubhooks.repository_loader(load)
        self.host.push(repository, tag, event_id=event_id)
        self._learn(self.model.record(repository, tag, event, chains))

    @precondition(lambda self: self._wanting())
    @rule()
    def push_and_deliver(self) -> None:
        self._push("v1")
        self.deliver_well()

    def _learn(self, push: Push | None) -> None:
        """Give the model's deliveries of a push their ids."""
        with self.host.writing() as session:
            known = [each.id for _, _, each in self.model.all() if each.id.int]
            found = session.execute(select(deliveries).where(deliveries.c.id.not_in(known)))
            ids = {(row.webhook_id, row.position): row.id for row in found}
            if push:
                push.id = session.scalars(select(func.max(pushes.c.id))).one()
        for chain in push.chains if push else ():
            for position, each in enumerate(chain.deliveries):
                each.id = ids.pop((chain.webhook.id, position))
        assert not ids, "more was recorded than is to be"

    # Workers

    @rule(limit=st.sampled_from([1, 3, 500, 500]), left_out=st.just(set()) | st.sets(urls, max_size=1))
    def claim(self, limit: int, left_out: set[str]) -> None:
        hooks = {each.hook for _, _, each in self.model.all()}
        self._claim(limit, {hook.id for hook in hooks if hook.url in left_out})

    def _claim(self, limit: int, left_out: set[int]) -> list[tuple[Sent, claims.Claim]]:
        due = {each.id: (push, chain, each) for push, chain, each in self.model.due(left_out)}
        unsendable = {id for id, (_, chain, each) in due.items() if self.model.unsendable(chain, each)}
        paused = {id for id, (_, chain, _) in due.items() if chain.paused}
        sendable = due.keys() - unsendable - paused
        with self.host.writing() as session:
            taken = claims.claim(session, limit, left_out)[0]
        with self.host.writing() as session:
            not_due = select(deliveries.c.id, deliveries.c.status).where(deliveries.c.next_attempt_at.is_(None))
            found = session.execute(not_due.where(deliveries.c.id.in_(due))).all()
        held = {row.id for row in found if row.status == Status.PENDING}
        ended = {row.id for row in found} - held
        ids = {each.id for each in taken}
        assert len(ids) == len(taken) <= limit
        assert ids <= sendable, "what is not due, or not to be sent, was claimed"
        assert bool(ids) == bool(sendable), "nothing of what is due was claimed"
        assert ended <= unsendable and held <= paused
        if limit == 500 and not left_out:
            assert ids | held | ended == due.keys(), "not all that is due was claimed"
        for push, chain, _ in (due[each] for each in ids | ended):
            if not chain.webhook.deleted:
                push.repository = self.repository
        for id in ended:
            self.model.end_unsendable(*due[id][1:])
        for id in held:
            self.model.hold(due[id][2])
        claimed = [(self.model.claimed(*due[each.id], each.lease_token), each) for each in taken]
        for post, claim in claimed:
            told = (claim.round, claim.retry_step, claim.hook_url, claim.trigger, claim.tag, claim.repository)
            assert told == (post.round, post.step, post.url, post.trigger, post.push.tag, self.repository)
            assert claim.ordered_image == post.image
        with self.host.writing() as session:
            in_order, released = tag_order.keep_order(session, taken)
        with self.host.writing() as session:
            claims.release(session, released)
        urgent = {each.id for each in taken if each.urgent}
        assert {each.id for each in in_order} == self.model.keep_order([post for post, _ in claimed], urgent)
        sent = [(post, claim) for post, claim in claimed if claim in in_order]
        self.in_flight += sent
        self.known += [post for post, _ in sent]
        return sent

    @precondition(lambda self: self.in_flight)
    @rule(numbers=st.lists(st.tuples(which, answers), min_size=1, max_size=3))
    def answer(self, numbers: list[tuple[int, str]]) -> None:
        """Answer some requests in flight, however late, and record them together."""
        done = []
        for number, said in numbers:
            if self.in_flight:
                done.append((self.in_flight.pop(number % len(self.in_flight)), said))
        self._write(done)

    @precondition(lambda self: self.model.due(set()))
    @rule(said=st.lists(answers, min_size=1, max_size=4))
    def deliver(self, said: list[str]) -> None:
        """Have a worker deliver everything that is due, and record it together."""
        sent = self._claim(500, set())
        self.in_flight = [each for each in self.in_flight if each not in sent]
        self._write(list(zip(sent, cycle(said), strict=False)))

    @precondition(lambda self: self.model.due(set()))
    @rule()
    def deliver_well(self) -> None:
        self.deliver(["200"])

    def _write(self, done: list[tuple[tuple[Sent, claims.Claim], str]]) -> None:
        results = []
        for (_, claim), said in done:
            came = outcome(said, self.clock)
            judged = judge_test(came) if claim.is_test else judge(came, claim.retry_step)
            results.append(recording.Result(claim, claim.hook_url, {"webhook-id": str(claim.id)}, "{}", came, judged))
        with self.host.writing() as session:
            recording.record(session, results, self.host.state.config.callback_ttl.total_seconds())
        self.model.answered([(post, said) for (post, _), said in done])

    @precondition(lambda self: self.in_flight)
    @rule(number=which, delay=st.sampled_from([0.0, 60.0]))
    def release(self, number: int, delay: float) -> None:
        post, claim = self.in_flight.pop(number % len(self.in_flight))
        with self.host.writing() as session:
            claims.release(session, [claims.Released(claim, delay)])
        self.model.release(post, -HEAD_START if claim.urgent and not delay else delay)

    @precondition(lambda self: self.in_flight)
    @rule()
    def crash(self) -> None:
        """Forget all requests in flight; receivers keep what they got."""
        self.in_flight.clear()

    @precondition(lambda self: self.model.due(set()))
    @rule(said=answers, sent_again=st.booleans())
    def come_late(self, said: str, sent_again: bool) -> None:
        """Suspend a worker past its leases; it records after a successor or an owner has taken over."""
        sent = self._claim(500, set())
        self._time_passes(MAX_TIMEOUT + LEASE_MARGIN + 1)
        if sent and sent_again:
            self._redeliver(sent[0][0].chain, sent[0][0].delivery)
        self._claim(500, set())
        self.in_flight = [each for each in self.in_flight if each not in sent]
        self._write([(each, said) for each in sent])

    @precondition(lambda self: self._next_due() is not None)
    @rule(later=st.sampled_from([0.0, 0.0, 1.0, -1.0]))
    def time_comes(self, later: float) -> None:
        """Move to the time, or nearly, at which a retry, a lease, a callback or giving up is next due."""
        self._time_passes(max(0.0, ceil(self._next_due() or 0.0) + later - self.model.now))

    @rule(jump=st.sampled_from([1.0, 1.0, 400.0, 400.0, DAY, DAY, 5 * DAY, 40 * DAY, 91 * DAY]))
    def time_passes(self, jump: float) -> None:
        self._time_passes(jump)

    def _time_passes(self, jump: float) -> None:
        self.clock.now_s = self.model.now = self.model.now + jump

    def _next_due(self) -> float | None:
        times = [
            time for _, _, each in self.model.all() for time in (each.due, each.give_up) if isinstance(time, float)
        ]
        return min((time for time in times if time > self.model.now), default=None)

    @precondition(lambda self: self.model.pushes)
    @rule()
    def clear_up(self) -> None:
        with self.host.writing() as session:
            claims.expire_overdue(session, 500)
            awaited_tags.give_up(session)
        self.model.sweep()
        with self.host.app.app_context():
            list(retention.prune(self.host.state))
        self.model.prune()

    # Receivers

    @precondition(lambda self: self.known)
    @rule(number=which, said=states)
    def call_back(self, number: int, said: str) -> None:
        """Use the callback URL of any past POST: early, in time, late, again, or of an earlier round."""
        self._call_back(one_of(self.known[::-1], number), said)

    def _call_back(self, post: Sent, said: str) -> None:
        token = self.host.state.tokens.make(post.delivery.id, post.round)
        expected = self.model.callback(post.push, post.chain, post.delivery, post.round, said)
        assert self._post_callback(REPOSITORIES[0], token, said) == expected

    @precondition(lambda self: self._awaited())
    @rule(number=which, said=st.just("success") | states)
    def call_back_in_time(self, number: int, said: str) -> None:
        self._call_back(one_of(self._awaited(), number), said)

    @precondition(lambda self: self._early())
    @rule(number=which, said=st.just("success") | states)
    def call_back_early(self, number: int, said: str) -> None:
        """Call back before the answer, or beside an error answer."""
        self._call_back(one_of(self._early(), number), said)

    @precondition(lambda self: self.model.chains)
    @rule(number=which, said=states, any_state=st.booleans())
    def decide_by_hand(self, number: int, said: str, any_state: bool) -> None:
        """Have an owner decide a delivery that awaits its callback, or one in any state."""
        awaiting = [each for each in self.model.all() if each[2].status == "awaiting_callback"]
        if any_state or awaiting:
            _, chain, delivery = one_of(self.model.all() if any_state else awaiting, number)
            answer = self._api("POST", chain.webhook, f"history/{delivery.id}/decide/", json={"state": said})
            assert answer.status_code == self.model.decide_by_hand(chain, delivery, said), answer.text

    def _awaited(self, status: str = "awaiting_callback") -> list[Sent]:
        return [post for post in self.known if (post.delivery.status, post.delivery.round) == (status, post.round)]

    def _early(self) -> list[Sent]:
        return self._awaited("pending")

    @precondition(lambda self: self.known)
    @rule(number=which, said=states)
    def call_back_forged(self, number: int, said: str) -> None:
        post = one_of(self.known, number)
        token = self.host.state.tokens.make(post.delivery.id, post.round)
        assert self._post_callback(self.repository, f"{token[:-1]}{'A' if token[-1] != 'A' else 'Q'}", said) == 404

    def _post_callback(self, repository: str, token: str, said: str) -> int:
        return self.host.client.post(f"/u/{repository}/hook/{token}/", json={"state": said}).status_code

    # What must hold

    @invariant()
    def rows_are_as_expected(self) -> None:
        check_rows(self.host, self.model)
        with self.host.writing() as session:
            names = set(session.scalars(select(webhooks.c.scope).where(webhooks.c.deleted_id == 0)))
        assert names <= {self.repository}

    def teardown(self) -> None:
        """Let time pass with working receivers until everything has ended."""
        if sys.exc_info()[0]:  # a step has failed: that is to be told
            return
        self.in_flight.clear()
        for _ in range(NEVER_ENDING):
            if not any(each.finished is None for _, _, each in self.model.all()):
                return
            self._time_passes(2 * DAY)
            if self.model.due(set()):
                self.deliver_well()
            self.clear_up()
            self.rows_are_as_expected()
        raise AssertionError("something is stuck")


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    """A host app whose registry posts events and can be asked for tags, though nobody does."""
    return make_host(config=WITH_SOURCES | {"HUBHOOKS_REGISTRY_URL": "http://127.0.0.1:9"})


@pytest.fixture
def clock(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoppedClock]:
    monkeypatch.setattr(state, "REDIS_TIMEOUT_S", 30)  # that a busy machine is slow is no fault here
    with host.app.app_context():
        engine = host.db.engine
    if engine.dialect.name == "sqlite":
        engine.dispose()
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    with stopped_clock(engine) as clock:
        yield clock


@pytest.mark.timeout(3600)
@pytest.mark.no_cover  # as test_schemathesis
def test_any_order(host: Host, clock: StoppedClock) -> None:
    """In any order of actions, all rows match the model after each step, and everything ends eventually."""

    class OnTheHost(Registry):
        def __init__(self) -> None:
            super().__init__(host, clock)

    examples = settings().max_examples // 8  # each is worth many of what one function is given
    run_state_machine_as_test(OnTheHost, settings=settings(max_examples=examples, stateful_step_count=30))
