"""Counts, by the receivers' journal and by the database, what was lost, stuck, repeated or out of order."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from .events import Events, Worker
from .excuses import Excuses
from .journal import Story, match, read
from .plan import Chain, Plan
from .servers import World

UNFINISHED = ("waiting", "pending", "awaiting_callback")
SHOWN = 3
"""Deliveries that are told of for each fault."""

DELIVERIES = """
SELECT d.id::text, d.push_id, d.webhook_id, d.position, d.callback_expected, d.status, d.reason, d.round, d.retry_step,
       d.lease_token IS NOT NULL AS leased, d.next_attempt_at, d.received_at, d.callback_state
FROM hubhooks_delivery d ORDER BY d.push_id, d.webhook_id, d.position
"""
ATTEMPTS = """
SELECT delivery_id::text, number, trigger, started_at, duration_ms, status_code, error,
       (SELECT header->>1 FROM json_array_elements(request_headers) header WHERE header->>0 = 'User-Agent') AS worker
FROM hubhooks_attempt ORDER BY delivery_id, number
"""


@dataclass
class Verdict:
    """What was found; every fault names deliveries, or workers."""

    plan: Plan
    world: World
    events: Events
    faults: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    repeated: Counter[str] = field(default_factory=Counter)
    """Deliveries that were sent again after they had been answered with 200, each time, by what excuses it."""

    @cached_property
    def stories(self) -> Mapping[str, Story]:
        return read(self.world.journal)

    @cached_property
    def rows(self) -> Sequence[Any]:
        return self._read(DELIVERIES)

    @cached_property
    def attempts(self) -> Mapping[str, list[Any]]:
        return {key: list(rows) for key, rows in groupby(self._read(ATTEMPTS), lambda row: row.delivery_id)}

    def _read(self, statement: str) -> Sequence[Any]:
        with psycopg.connect(self.world.postgres.uri, row_factory=namedtuple_row) as connection:
            return connection.execute(statement.encode()).fetchall()

    @cached_property
    def excuses(self) -> Excuses:
        posts = [post for story in self.stories.values() for post in story.posts]
        return Excuses(posts, self._workers, self.events.outages)

    @cached_property
    def _workers(self) -> dict[str, Worker]:
        return {each.name: each for each in self.events.workers}

    def reach(self) -> Verdict:
        for delivery in self.stories.keys() | self.attempts.keys():
            self._judge_history(delivery, self._story(delivery), self.attempts.get(delivery, []))
        for delivery, story in self.stories.items():
            self._judge_posts(delivery, story)
        if len(self.rows) != self.plan.planned_deliveries:
            self.faults["lost"].append(f"{self.plan.planned_deliveries - len(self.rows)} rows")
        for _, rows in groupby(self.rows, lambda row: (row.push_id, row.webhook_id)):
            self._judge_rows(list(rows))
        self._judge_journal()
        self.faults["ended by themselves"] += [each.name for each in self._workers.values() if self._unasked(each)]
        return self

    def _story(self, delivery: str) -> Story:
        return self.stories.get(delivery, Story())

    def _unasked(self, worker: Worker) -> bool:
        """Whether it ended by itself. SIGTERM also ends one that is still being loaded, and has sent nothing."""
        too_early = worker.exit_code == -signal.SIGTERM and not self.excuses.sent(worker.name)
        return worker.ended_by_itself and not too_early

    def _judge_history(self, delivery: str, story: Story, attempts: Sequence[Any]) -> None:
        """Attempts are numbered on, and each that got an answer was a POST; finds the attempt of each POST."""
        if [each.number for each in attempts] != list(range(1, len(attempts) + 1)):
            self.faults["gaps in numbers"].append(delivery)
        unmatched = match(story.posts, attempts, self.events.wall_s)
        if any(each.status_code is not None for each in unmatched):
            self.faults["attempts never made"].append(delivery)

    def _judge_posts(self, delivery: str, story: Story) -> None:
        """Each has its attempt, but for those that died with their worker; none is repeated without an excuse."""
        if not all(post.attempt or self.excuses.unwritten(post) for post in story.posts):
            self.faults["attempts missing"].append(delivery)
        if len(story.accepted) > 1:
            self.faults["two winners"].append(delivery)
        answered = False
        for earlier, later in zip(story.posts, story.posts[1:], strict=False):
            answered = answered or earlier.answered
            why = self.excuses.repeated(earlier, later)
            if not why:
                self.faults["repeated without excuse"].append(delivery)
            if answered:
                self.repeated[why or ("SIGTERM" if self._workers[earlier.worker].asked_at else "")] += 1

    def _judge_rows(self, chain: Sequence[Any]) -> None:
        """By the database: each hook was called in turn, and each delivery is where its receiver's callback took it."""
        going_on = True
        for row, before in zip(chain, [None, *chain], strict=False):
            story = self._story(row.id)
            if row.status in UNFINISHED:
                self.faults["stuck"].append(row.id)
                return
            if story.posts and before and not self._in_turn(story, before, going_on):
                self.faults["out of order"].append(row.id)
            expected = _expected(row, story) if going_on else ("skipped", "")
            if (row.status, row.callback_state) != expected:
                self.faults["lost"].append(row.id)
            going_on = going_on and row.status == "succeeded"

    def _in_turn(self, story: Story, before: Any, going_on: bool) -> bool:
        return going_on and self._story(before.id).success_called_before(story.posts[0].at)

    def _judge_journal(self) -> None:
        """By the receivers alone: each hook that was to be called was, and always with the same id."""
        ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for delivery, story in self.stories.items():
            for post in story.posts:
                ids[post.path, post.tag].add(delivery)
        self.faults["ids that changed"] += [str(key) for key, each in ids.items() if len(each) > 1]
        for push in self.plan.pushes:
            for chain in self.plan.chains:
                if chain.repository == push.repository:
                    self.faults["lost"] += self._uncalled(chain, push.tag, ids)

    def _uncalled(self, chain: Chain, tag: str, ids: Mapping[tuple[str, str], set[str]]) -> Iterator[str]:
        """The first hook of a chain request that was not called, though the one before succeeded."""
        for position in range(chain.length):
            stories = [self.stories[each] for each in ids.get((chain.path(position), tag), ())]
            if not any(each.has_arrived for each in stories):
                yield f"{chain.path(position)} of {tag}"
            if not any("success" in each.accepted for each in stories):
                return

    @property
    def breakers_opened(self) -> int:
        """How often, by the workers' logs."""
        return sum(each.child.log_file.read_text().count("(breaker open)") for each in self._workers.values())

    @property
    def broken(self) -> bool:
        return any(self.faults.values())

    def evidence(self) -> Iterator[str]:
        """All that is known of the first deliveries of each fault."""
        for fault, which in self.faults.items():
            for name in which[:SHOWN]:
                yield f"--- {fault}: {name}"
                yield from self._evidence_of(name)

    def _evidence_of(self, name: str) -> Iterator[str]:
        if name in self._workers:
            worker = self._workers[name]
            yield f"exit code {worker.exit_code}, SIGTERM at {worker.asked_at}"
            yield worker.child.log_file.read_text()[-3000:]
            return
        yield from (str(row) for row in self.rows if row.id == name)
        yield from (str(attempt) for attempt in self.attempts.get(name, []))
        story = self._story(name)
        yield from story.lines
        for worker_name in dict.fromkeys(post.worker for post in story.posts):
            worker = self._workers[worker_name]
            yield f"{worker_name}: killed at {worker.killed_at}, SIGTERM at {worker.asked_at}, {worker.suspended}"
            yield from _about(name, worker)
        yield f"outages: {self.events.outages}; the wall clock is {self.events.wall_s} s later"


def _expected(row: Any, story: Story) -> tuple[str, str]:
    """The status and callback state where the receivers took it; its being received is theirs to prove."""
    if not row.callback_expected:
        received = any(post.answered for post in story.posts)
        return ("succeeded" if received else "never received", "")
    decided = next(iter(story.accepted), "")
    return {"success": "succeeded", "failure": "failed"}.get(decided, "never decided"), decided


def _about(delivery: str, worker: Worker) -> list[str]:
    """What the worker's log says of a delivery, and its last words."""
    lines = worker.child.log_file.read_text().splitlines()
    return [f"    {line}" for line in lines if delivery in line] + [f"    {line}" for line in lines[-5:]]
