"""Webhooks, pushes and deliveries as the model knows them, without any database.

Times are seconds on the database's clock, but for those that end in `_here`: they are on the clock of the processes,
which may be off.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

UNKNOWN = uuid.UUID(int=0)


@dataclass(eq=False)
class Hook:
    id: int
    url: str
    timeout_s: int = 15
    failing_here: float | None = None
    failed_here: float = 0.0
    """When it failed last, to the hour."""
    failed_days: int = 0
    removed: bool = False
    supersedes: bool = False


@dataclass(eq=False)
class Webhook:
    id: int
    hooks: list[Hook]
    only_versions: bool
    """Its tag filter is `v*`."""
    final_callback: bool | None
    active: bool = True
    deleted: bool = False
    repository_deleted: bool = False
    unsettled: bool = False
    """Its repository was renamed, and what was recorded before is not corrected yet."""

    def wants(self, tag: str) -> bool:
        return self.active and not self.deleted and bool(self.hooks) and (tag.startswith("v") or not self.only_versions)


@dataclass(eq=False)
class Delivery:
    hook: Hook
    callback_expected: bool
    id: uuid.UUID = UNKNOWN
    status: str = "waiting"
    round: int = 1
    step: int = 0
    due: float | tuple[float, float] | None = None
    """Two times: at some time between them, which the package chooses. None if it is not pending, or held."""
    give_up: float | None = None
    token: uuid.UUID | None = None
    received: float | None = None
    finished: float | None = None
    said: str = ""
    """The state that its callback told."""
    image: str | None = None
    """Repository and tag, if its hook superseded when it was recorded, sent again or changed."""
    redelivered: bool = False
    superseded: bool = False
    attempts: list[tuple[int, str, str, str]] = field(default_factory=list)
    """Of each attempt the round, the trigger, the URL and the answer."""

    def end(self, status: str, now: float) -> None:
        self.status, self.finished = status, now
        self.due = self.give_up = self.token = None

    def leased(self, now: float) -> bool:
        return self.token is not None and isinstance(self.due, float) and self.due > now


@dataclass(eq=False)
class Chain:
    webhook: Webhook
    deliveries: list[Delivery]
    is_test: bool
    start: int = 0
    """Which of them was pushed or redelivered last."""

    def removed(self, delivery: Delivery) -> bool:
        return self.webhook.deleted or delivery.hook.removed

    @property
    def paused(self) -> bool:
        return not (self.webhook.active or self.is_test)


@dataclass(eq=False)
class Push:
    tag: str
    event_id: str | None
    chains: list[Chain]
    made_here: float
    repository: str
    """Its name as it is stored: a push that is recorded during a renaming has the old one at first."""
    digest: str = ""
    awaited_until: float | None = None
    """When it is sent although the registry does not show its tag."""
    sent_without_tag: bool = False
    forgotten: bool = False
    id: int = 0

    @property
    def cancelled(self) -> bool:
        return all(each.status == "cancelled" for chain in self.chains for each in chain.deliveries)


@dataclass(eq=False)
class Sent:
    """One POST of a delivery, as it was when it was claimed."""

    delivery: Delivery
    chain: Chain
    push: Push
    token: uuid.UUID
    round: int
    step: int
    url: str
    trigger: str
    image: str | None
