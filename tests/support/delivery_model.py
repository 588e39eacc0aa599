"""What webhooks and deliveries are to do, said once more in plain Python, for the package to be held against.

Times are seconds on the database's clock, but for those that end in `_here`: they are on the clock of the processes,
which may be off.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .delivery_records import Chain, Delivery, Hook, Push, Sent, Webhook

DAY = 24 * 3600.0
HOUR = 3600.0
LEASE_MARGIN, GIVE_UP, CALLBACK_TTL, RETENTION = 45.0, 5 * DAY, 7 * DAY, 90 * DAY
MAX_TIMEOUT = 60
TAG_WAIT = 60.0
FAILING_GAP = 3 * DAY
HEAD_START = 30 * DAY
"""What a person waits for, a test or a redelivery, is due since so long ago."""
HELD, OUTRANKED, MOST_OUTRANKED = 0.25, 15.0, 300.0
"""How long a delivery is held back while another push of its tag is on the wire, or after a newer one is due."""
SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)

UNSENT = {"waiting", "pending"}
UNDER_WAY = {"pending", "awaiting_callback"}
FAILED = {"failed", "expired"}

RECEIVED, RETRY, REFUSED, DECLINED, GONE = "received", "retry", "refused", "declined", "gone"
MEANING = {
    "200": (RECEIVED, 0, 0),
    "302": (RECEIVED, 0, 0),
    "500": (RETRY, 0.8, 1.2),
    "reset": (RETRY, 0.8, 1.2),
    "429, again soon": (RETRY, 1, 1),
    "503, again in years": (RETRY, 2, 2),
    "301": (REFUSED, 0, 0),
    "308, nowhere": (DECLINED, 0, 0),
    "blocked": (REFUSED, 0, 0),
    "410": (GONE, 0, 0),
}
"""What an answer means; of a retry after how many times the scheduled delay it is, at least and at most."""
CODES = {answer: int(answer[:3]) if answer[0].isdigit() else None for answer in MEANING}


@dataclass
class Model:
    now: float = 0.0
    skew: float = 0.0
    repository: str = ""
    webhooks: list[Webhook] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)

    @property
    def here(self) -> float:
        return self.now + self.skew

    @property
    def live(self) -> list[Webhook]:
        return [each for each in self.webhooks if not each.deleted]

    @property
    def chains(self) -> list[Chain]:
        return [chain for push in self.pushes for chain in push.chains]

    def all(self) -> list[tuple[Push, Chain, Delivery]]:
        return [(push, chain, each) for push in self.pushes for chain in push.chains for each in chain.deliveries]

    # What owners do

    def pause(self, webhook: Webhook) -> None:
        """What is pending stays so; workers hold it once it is due."""
        webhook.active = False

    def resume(self, webhook: Webhook) -> None:
        webhook.active = True
        for hook in webhook.hooks:
            hook.failing_here = None

    def delete(self, webhook: Webhook) -> None:
        webhook.deleted = True
        self._cancel(each for chain in self.chains if chain.webhook is webhook for each in chain.deliveries)

    def set_supersede(self, hook: Hook, supersede: bool) -> None:
        if supersede == hook.supersedes:
            return
        hook.supersedes = supersede
        for push, chain, each in self.all():
            if each.hook is hook and each.status in UNSENT:
                each.image = self._image(push, chain, each)

    def rename_repository(self, new: str) -> None:
        self.repository = new
        for webhook in self.webhooks:
            webhook.unsettled = not webhook.repository_deleted
        for push, chain, _ in self.all():
            if not chain.webhook.deleted:
                push.repository = new

    def delete_repository(self) -> None:
        """All that is not finished ends, what awaits its callback included."""
        ended = [each for each in self.webhooks if not each.repository_deleted]
        for webhook in ended:
            webhook.deleted = webhook.repository_deleted = True
        self._end_of_deleted(ended)

    def _end_of_deleted(self, webhooks: Sequence[Webhook]) -> None:
        for _, chain, each in self.all():
            if chain.webhook in webhooks and each.status in UNSENT | UNDER_WAY:
                each.end("cancelled", self.now)

    def set_hooks(self, webhook: Webhook, hooks: list[Hook]) -> None:
        for gone in [each for each in webhook.hooks if each not in hooks]:
            gone.removed = True
            for chain in self.chains:
                self._cancel_hook(chain, gone)
        webhook.hooks = hooks

    def set_url(self, hook: Hook, url: str) -> None:
        if url == hook.url:
            return
        hook.url, hook.failing_here = url, None

    def _cancel(self, deliveries: Iterable[Delivery]) -> None:
        for each in deliveries:
            if each.status in UNSENT:
                each.end("cancelled", self.now)

    def _cancel_hook(self, chain: Chain, hook: Hook) -> None:
        """What the hook has not sent, and what waits for it or for its callback."""
        for position, each in enumerate(chain.deliveries):
            if each.hook is hook and each.status in UNSENT | UNDER_WAY:
                self._cancel(chain.deliveries[position:])

    # Pushes and rounds

    def chain(self, webhook: Webhook, is_test: bool = False, most: int | None = None) -> Chain:
        """A chain request as it is to be for a push now; `record` makes it count."""
        last = len(webhook.hooks) - 1
        final = last > 0 if webhook.final_callback is None else webhook.final_callback
        deliveries = [Delivery(hook, position < last or final) for position, hook in enumerate(webhook.hooks)]
        return Chain(webhook, deliveries[:most], is_test)

    def record(
        self,
        repository: str,
        tag: str,
        event_id: str | None,
        chains: list[Chain],
        digest: str = "",
        awaited: bool = False,
    ) -> Push | None:
        if not chains or (event_id and any(push.event_id == event_id for push in self.pushes)):
            return None
        for chain in chains:
            self._make_due(chain.deliveries[0], urgent=chain.is_test)
            chain.deliveries[0].due = self.now + TAG_WAIT if awaited else chain.deliveries[0].due
        push = Push(tag, event_id, chains, self.here, repository, digest, self.now + TAG_WAIT if awaited else None)
        for chain in chains:
            for each in chain.deliveries:
                each.image = self._image(push, chain, each)
        self.pushes.append(push)
        return push

    @staticmethod
    def _image(push: Push, chain: Chain, delivery: Delivery) -> str | None:
        return f"{push.repository}:{push.tag}" if delivery.hook.supersedes and not chain.is_test else None

    def tag_shown(self, pushes: Sequence[Push]) -> None:
        """The registry has shown the tag of these, and what has not been sent yet need not wait for it."""
        for push in pushes:
            push.awaited_until = None
            for chain in push.chains:
                first = chain.deliveries[0]
                untried = (first.status, first.token, first.round, first.step) == ("pending", None, 1, 0)
                if untried and isinstance(first.due, float) and first.due > self.now:
                    first.due = self.now

    def _make_due(self, delivery: Delivery, urgent: bool = False) -> None:
        delivery.status, delivery.give_up = "pending", self.now + GIVE_UP
        delivery.due = self.now - HEAD_START if urgent else self.now

    def redeliver(self, chain: Chain, position: int) -> int:
        """Begin a round, or not; returns the HTTP status."""
        if chain.webhook.deleted:
            return 404
        on_the_wire = any(each.leased(self.now) for each in chain.deliveries)
        too_early = any(each.status in UNDER_WAY | {"waiting"} for each in chain.deliveries[:position])
        if not chain.webhook.active or chain.deliveries[position].hook.removed or on_the_wire or too_early:
            return 409
        self._begin_round(chain, position, redelivered=True)
        return 202

    def _begin_round(self, chain: Chain, position: int, redelivered: bool = False) -> None:
        chain.start = position
        push = next(push for push in self.pushes if chain in push.chains)
        for each in chain.deliveries[position:]:
            fresh = Delivery(each.hook, each.callback_expected, each.id)
            fresh.round, fresh.attempts = each.round + 1, each.attempts
            fresh.redelivered, fresh.image = redelivered, self._image(push, chain, each)
            vars(each).update(vars(fresh))
        self._make_due(chain.deliveries[position], urgent=redelivered)

    def recover(self, webhook: Webhook, since: float) -> int:
        """Begin a round wherever something was lost; returns how many."""
        lost = [
            (push, chain, position)
            for push in self.pushes
            for chain in push.chains
            for position in [self._lost(chain, since)]
            if chain.webhook is webhook and position is not None
        ]
        recovered = [each for each in lost if not self._is_outdated(*each, lost)]
        for _, chain, position in recovered:
            self._begin_round(chain, position)
        return len(recovered)

    def _is_outdated(self, push: Push, chain: Chain, position: int, lost: list[tuple[Push, Chain, int]]) -> bool:
        """Whether a hook that supersedes gets a newer push of the tag, or has had one."""
        hook = chain.deliveries[position].hook
        if position or not hook.supersedes:
            return False
        sent_too = [(other, each.deliveries[at]) for other, each, at in lost]
        sent_too += [
            (other, each)
            for other, a_chain, each in self.all()
            if not a_chain.is_test and (each.received is not None or each.status in UNSENT | UNDER_WAY)
        ]
        return any(
            each.hook is hook
            and (other.repository, other.tag) == (push.repository, push.tag)
            and self._is_newer(other, push)
            for other, each in sent_too
        )

    def _is_newer(self, one: Push, other: Push) -> bool:
        return self.pushes.index(one) > self.pushes.index(other)

    def _lost(self, chain: Chain, since: float) -> int | None:
        for position, each in enumerate(chain.deliveries):
            if each.hook.removed:
                return None
            if each.status != "succeeded":
                ours = each.status in ("failed", "cancelled") and each.received is None and not each.superseded
                late = each.finished is not None and each.finished >= since
                held = chain.is_test or any(other.leased(self.now) for other in chain.deliveries)
                return position if ours and late and not held else None
        return None

    # What workers do

    def due(self, left_out: set[int]) -> list[tuple[Push, Chain, Delivery]]:
        """What is due, but for hooks that are left out: of these, what is due before all else."""
        return [
            (push, chain, each)
            for push, chain, each in self.all()
            if each.status == "pending"
            and isinstance(each.due, float)
            and each.due <= self.now - (HEAD_START if each.hook.id in left_out else 0.0)
        ]

    def unsendable(self, chain: Chain, delivery: Delivery) -> bool:
        """Whether it ends instead of being sent."""
        return chain.removed(delivery) or delivery.give_up is None or delivery.give_up <= self.now

    def end_unsendable(self, chain: Chain, delivery: Delivery) -> None:
        delivery.end("cancelled" if chain.removed(delivery) else "failed", self.now)
        self._advance(chain)

    def hold(self, delivery: Delivery) -> None:
        """Its webhook is paused: it is pending, but not due until that is over. Its time to give up stays."""
        delivery.token = delivery.due = None

    def _release_held(self) -> None:
        for _, chain, each in self.all():
            if each.status == "pending" and each.due is None and chain.webhook.active:
                each.due = self.now

    def claimed(self, push: Push, chain: Chain, delivery: Delivery, token: uuid.UUID) -> Sent:
        delivery.token, delivery.due = token, self.now + delivery.hook.timeout_s + LEASE_MARGIN
        first = "test" if chain.is_test else "push"
        trigger = (
            "retry"
            if delivery.step
            else "redelivery"
            if delivery.round > 1
            else "chain"
            if chain.deliveries.index(delivery)
            else first
        )
        url, image = delivery.hook.url, delivery.image
        return Sent(delivery, chain, push, token, delivery.round, delivery.step, url, trigger, image)

    def keep_order(self, taken: Sequence[Sent], urgent: set[uuid.UUID]) -> set[uuid.UUID]:
        """Hold back or end what must not be sent now of what was claimed; returns the ids of all else."""
        queues: dict[tuple[Hook, str], list[Sent]] = {}
        for each in taken:
            if each.image:
                queues.setdefault((each.delivery.hook, each.image), []).append(each)
        sendable = {each.delivery.id for each in taken if not each.image}
        own = {each.token for each in taken}
        looked = [self._look(sorted(queue, key=self._rank), own) for queue in queues.values()]
        for (first, *later), on_the_wire, newer_due, newer in looked:
            supersedable = self._supersedable(first)
            if newer == "received" and supersedable:
                self._supersede([(each.chain, each.delivery) for each in (first, *later)])
                continue
            newer_in = 0.0 if newer_due is None else max(0.0, newer_due - self.now)
            outranked = min(OUTRANKED + newer_in, MOST_OUTRANKED)
            if on_the_wire:
                is_urgent = first.delivery.id in urgent
                self.release(first, -HEAD_START if is_urgent else HELD)
            elif supersedable and (newer_due is not None or newer == "held"):
                self.release(first, outranked)
            else:
                sendable.add(first.delivery.id)
            for each in later:
                self.release(each, outranked if supersedable else HELD)
        return sendable

    def _look(self, queue: list[Sent], own: set[uuid.UUID]) -> tuple[list[Sent], bool, float | None, str]:
        """A queue, whether another push of its tag is on the wire, when a newer one is due.

        Last, whether the first newer one of those that were received or are held is "received" or "held".
        """
        first = queue[0]
        others = [
            (push, each)
            for push, _, each in self.all()
            if push is not first.push and (each.hook, each.image) == (first.delivery.hook, first.image)
        ]
        newer = [each for push, each in others if self._is_newer(push, first.push)]
        return (
            queue,
            any(each.leased(self.now) and each.token not in own for _, each in others),
            min((each.due for each in newer if isinstance(each.due, float)), default=None),
            next(
                (
                    "held" if each.received is None else "received"
                    for each in newer
                    if each.due is None and (each.received is not None or each.status == "pending")
                ),
                "",
            ),
        )

    @staticmethod
    def _supersedable(sent: Sent) -> bool:
        return sent.chain.deliveries[0] is sent.delivery and not sent.delivery.redelivered

    def _rank(self, sent: Sent) -> tuple[bool, int]:
        supersedable, number = self._supersedable(sent), self.pushes.index(sent.push)
        return supersedable, -number if supersedable else number

    def _received(self, push: Push, delivery: Delivery, image: str) -> None:
        """End what it supersedes."""
        self._supersede(
            [
                (chain, each)
                for older, chain, each in self.all()
                if (each.hook, each.image, each.status) == (delivery.hook, image, "pending")
                and each.due is not None  # what is held is left for the claim
                and self._is_newer(push, older)
                and chain.deliveries[0] is each
                and not each.redelivered
                and not each.leased(self.now)
            ]
        )

    def _supersede(self, deliveries: Iterable[tuple[Chain, Delivery]]) -> None:
        for chain, each in deliveries:
            each.end("cancelled", self.now)
            each.superseded = True
            self._advance(chain)

    def release(self, sent: Sent, delay: float) -> None:
        if sent.delivery.token == sent.token:
            sent.delivery.token, sent.delivery.due = None, self.now + delay

    def answered(self, answers: Sequence[tuple[Sent, str]]) -> None:
        """What a worker writes in one transaction of what it sent, in time or too late."""
        known = [(sent, answer) for sent, answer in answers if not sent.push.forgotten]
        held = [(sent, answer) for sent, answer in known if self._holds(sent)]
        for sent, answer in known:
            sent.delivery.attempts.append((sent.round, sent.trigger, sent.url, answer))
            if MEANING[answer][0] == RECEIVED and (sent.delivery.status, sent.delivery.round) == (
                "cancelled",
                sent.round,
            ):
                sent.delivery.received = self.now
        stale = [
            sent
            for sent, answer in held
            if MEANING[answer][0] != RECEIVED and sent.url != sent.delivery.hook.url and not sent.chain.is_test
        ]
        for sent, answer in held:
            self._move(sent, answer, sent in stale)
        for sent, answer in known:
            if MEANING[answer][0] == RECEIVED and sent.image:
                self._received(sent.push, sent.delivery, sent.image)
        for sent, _ in held:
            self._advance(sent.chain)
        self._note_health(
            [
                (sent, MEANING[answer][0])
                for sent, answer in held
                if sent not in stale
                and not sent.chain.is_test
                and answer != "blocked"
                and MEANING[answer][0] != DECLINED
            ]
        )

    def _holds(self, sent: Sent) -> bool:
        delivery = sent.delivery
        return (delivery.token, delivery.round, delivery.status) == (sent.token, sent.round, "pending")

    def _move(self, sent: Sent, answer: str, stale: bool) -> None:
        delivery, (meaning, least, most) = sent.delivery, MEANING[answer]
        if meaning == RECEIVED:
            delivery.received = self.now
            if not delivery.callback_expected:
                return delivery.end("succeeded", self.now)
            delivery.status, delivery.token, delivery.due = "awaiting_callback", None, None
            delivery.give_up = self.now + CALLBACK_TTL
            return None
        delivery.step += 1
        used_up = sent.step == len(SCHEDULE) or sent.chain.is_test
        if stale:
            delivery.token, delivery.due = None, self.now
        elif meaning == RETRY and not used_up:
            delay = SCHEDULE[sent.step]
            delivery.token, delivery.due = None, (self.now + least * delay, self.now + most * delay)
        else:
            delivery.end("failed", self.now)
        return None

    def _note_health(self, told: list[tuple[Sent, str]]) -> None:
        well = {sent.delivery.hook for sent, meaning in told if meaning == RECEIVED}
        for hook in well:
            hook.failing_here = None
        for sent, meaning in told:
            hook = sent.delivery.hook
            if meaning != RECEIVED and hook not in well:
                self._note_failure(hook)
        for sent, meaning in told:
            hook = sent.delivery.hook
            too_long = (
                hook.failing_here is not None and hook.failing_here <= self.here - GIVE_UP and hook.failed_days >= 5
            )
            if (
                (meaning == GONE or (meaning != RECEIVED and hook not in well and too_long))
                and not sent.chain.webhook.deleted
                and sent.chain.webhook.active
            ):
                self.pause(sent.chain.webhook)

    def _note_failure(self, hook: Hook) -> None:
        another_day = self.here // DAY > hook.failed_here // DAY
        if hook.failing_here is None or hook.failed_here < self.here - FAILING_GAP:
            hook.failing_here, hook.failed_here, hook.failed_days = self.here, self.here, 1
        elif another_day or hook.failed_here < self.here - HOUR:
            hook.failed_here = self.here
            hook.failed_days += another_day

    def sweep(self) -> None:
        """End what is overdue and not on the wire, and what was recorded while its repository was being deleted.

        Nobody waits any longer for tags that were not shown in time, either. Then what was held for webhooks that are
        active again is released.
        """
        self._end_of_deleted([each for each in self.webhooks if each.repository_deleted])
        self._settle()
        for push in self.pushes:
            if push.awaited_until is not None and push.awaited_until <= self.now:
                push.awaited_until, push.sent_without_tag = None, not push.cancelled
        for _, chain, each in self.all():
            if (
                each.status in UNDER_WAY
                and each.give_up is not None
                and each.give_up <= self.now
                and not each.leased(self.now)
            ):
                each.end("failed" if each.status == "pending" else "expired", self.now)
                self._advance(chain)
        self._release_held()

    def _settle(self) -> None:
        """Give what was recorded while the repository was renamed its new name."""
        for push, chain, each in self.all():
            if chain.webhook.unsettled and not chain.webhook.deleted:
                push.repository = self.repository
                if each.image and each.status in UNSENT:
                    each.image = f"{self.repository}:{push.tag}"
        for webhook in self.webhooks:
            webhook.unsettled = False

    def _advance(self, chain: Chain) -> None:
        """Carry a chain on after the last that succeeded, or end what waits behind what did not."""
        for position, each in enumerate(chain.deliveries[1:], 1):
            before = [other.status for other in chain.deliveries[:position]]
            if each.status != "waiting" or UNDER_WAY & set(before):
                continue
            if before[-1] == "succeeded":
                if chain.removed(each):
                    each.end("cancelled", self.now)
                else:
                    self._make_due(each)
            else:
                each.end("skipped" if before[-1] in FAILED | {"skipped"} else "cancelled", self.now)

    def prune(self) -> None:
        before = self.here - RETENTION
        for push in self.pushes:
            deliveries = [each for chain in push.chains for each in chain.deliveries]
            old = all(each.finished is not None and each.finished < before for each in deliveries)
            push.forgotten = old and push.made_here < before
        self.pushes = [push for push in self.pushes if not push.forgotten]

    # What receivers do

    def callback(self, push: Push, chain: Chain, delivery: Delivery, round_: int, state: str) -> int:
        """Let it decide, or not; returns the HTTP status."""
        if push.forgotten:
            return 404
        if chain.webhook.deleted and delivery.status != "awaiting_callback":
            return 410
        if round_ != delivery.round:
            return 409
        if delivery.said:
            return 200 if delivery.said == state else 409
        if delivery.status not in ("pending", "awaiting_callback", "succeeded"):
            return 410
        was_pending = delivery.status == "pending"
        self._decide(chain, delivery, state)
        if was_pending and delivery.image:
            self._received(push, delivery, delivery.image)
        if not chain.is_test:
            delivery.hook.failing_here = None
        return 200

    def decide_by_hand(self, chain: Chain, delivery: Delivery, state: str) -> int:
        """Let an owner decide, or not; returns the HTTP status."""
        if chain.webhook.deleted:
            return 404
        if delivery.status != "awaiting_callback":
            return 409
        self._decide(chain, delivery, state)
        return 200

    def _decide(self, chain: Chain, delivery: Delivery, state: str) -> None:
        ends = delivery.finished is None
        succeeds = state == "success" or not delivery.callback_expected
        delivery.status, delivery.said = "succeeded" if succeeds else "failed", state
        delivery.token = delivery.due = None
        delivery.received = self.now if delivery.received is None else delivery.received
        delivery.finished = self.now if delivery.finished is None else delivery.finished
        if ends:
            self._advance(chain)
