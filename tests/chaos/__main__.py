"""`python -m tests.chaos [--seed N] [--deliveries N] [--kills N]`: exit code 1 where a promise was broken."""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from types import FrameType

import psycopg
from flask import Flask

from flask_hubhooks import ImagePush

from .app import create_app, db, hubhooks
from .events import Events
from .pace import shorten_timeouts
from .plan import PORTS, Plan
from .servers import World, started
from .verdict import UNFINISHED, Verdict

SHOW_S = 3.0
READ_S = 0.5
BACKLOG = 600
"""So many unfinished deliveries the plan waits for, unless something is out that it is to bring back."""
QUIET_S = 40.0
"""What has not finished although nothing has for so long is stuck: leases, retries and back-offs are shorter."""
FAULTS = (
    "lost",
    "stuck",
    "out of order",
    "two winners",
    "repeated without excuse",
    "ids that changed",
    "attempts missing",
    "attempts never made",
    "gaps in numbers",
    "ended by themselves",
)


class Clock:
    """The plan's time. It stands still while too much is unfinished, so that the slowest machine keeps up with it."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._held_since: float | None = None

    @property
    def seconds(self) -> float:
        return (self._held_since or monotonic()) - self._began

    def hold(self, held: bool) -> None:
        if held and not self._held_since:
            self._held_since = monotonic()
        elif self._held_since and not held:
            self._began += monotonic() - self._held_since
            self._held_since = None

    def wait(self, at_s: float) -> bool:
        """Wait a little; whether it is that time."""
        sleep(min(0.05, max(0.0, at_s - self.seconds)))
        return self.seconds >= at_s


class Pusher(threading.Thread):
    """Pushes as planned. What could not be recorded it pushes again at the end: a registry repeats such an event."""

    def __init__(self, app: Flask, plan: Plan, clock: Clock) -> None:
        super().__init__(daemon=True)
        self._app, self._plan, self._clock = app, plan, clock
        self.stopping = threading.Event()
        self.slowest_s = 0.0
        self.failed = self.repeated = 0

    def run(self) -> None:
        for push in self._plan.pushes:
            while not self._clock.wait(push.at_s):
                if self.stopping.is_set():
                    return
            self.push(push.repository, push.tag)

    def push(self, repository: str, tag: str) -> None:
        before = monotonic()
        try:
            with self._app.app_context():
                hubhooks.push(ImagePush(repository, tag, pusher="chaos", event_id=tag))
        except Exception:
            logging.getLogger(__name__).exception("a push failed")
            self.failed += 1
        self.slowest_s = max(self.slowest_s, monotonic() - before)

    def push_missing(self, recorded: set[str]) -> int:
        """Push again what is not recorded; how many these were."""
        missing = [push for push in self._plan.pushes if push.tag not in recorded]
        for push in missing:
            self.push(push.repository, push.tag)
        self.repeated += len(missing)
        return len(missing)


class Progress:
    """What is unfinished, and a line of it every few seconds, from the database while it is there."""

    def __init__(self, world: World, events: Events) -> None:
        self._world, self._events = world, events
        self._began = self._shown_at = self._read_at = monotonic()
        self._states: Counter[str] | None = Counter()
        print(f"{'seconds':>8}{'delivered':>11}{'pending':>9}{'kills':>7}{'restarts':>10}{'suspended':>11}", flush=True)

    @property
    def unfinished(self) -> int | None:
        """How many deliveries are, as of half a second ago; None where the database is away."""
        if monotonic() > self._read_at + READ_S:
            self._read()
        return None if self._states is None else sum(self._states[each] for each in UNFINISHED)

    def _read(self) -> None:
        try:
            with psycopg.connect(self._world.postgres.uri) as connection:
                rows = connection.execute("SELECT status, count(*) FROM hubhooks_delivery GROUP BY status").fetchall()
            self._states = Counter(dict(rows))
        except psycopg.OperationalError:
            self._states = None
        self._read_at = monotonic()
        if self._read_at > self._shown_at + SHOW_S:
            self._shown_at = self._read_at
            self._show()

    def _show(self) -> None:
        unfinished, done = self.unfinished, self._events.done
        counts = f"{'-':>11}{'-':>9}" if self._states is None else f"{self._states['succeeded']:>11}{unfinished:>9}"
        restarts = done["start valkey"] + done["start postgres"] + done["replace worker"]
        times = f"{monotonic() - self._began:>8.0f}"
        print(f"{times}{counts}{done['kill worker']:>7}{restarts:>10}{done['suspend worker']:>11}", flush=True)


def run(plan: Plan) -> int:
    with started(plan.seed) as world:
        app = _make_app(world, plan)
        with _events(world) as events:
            while not events.ready:
                events.look_after()
                sleep(0.1)
            began, clock = monotonic(), Clock()
            pusher, progress = Pusher(app, plan, clock), Progress(world, events)
            pusher.start()
            try:
                _perform(plan, events, progress, clock)
                _drain(world, pusher, progress, events)
            finally:
                pusher.stopping.set()
                pusher.join()
            events.end()
            world.end_receivers()
            return _report(Verdict(plan, world, events).reach(), pusher, monotonic() - began)


@contextmanager
def _events(world: World) -> Iterator[Events]:
    events = Events(world)
    try:
        yield events
    finally:
        events.destroy()


def _make_app(world: World, plan: Plan) -> Flask:
    """The app in this process, which stands for the registry that pushes; with its tables and webhooks."""
    os.environ.update(world.environment)
    logging.basicConfig(filename=world.folder / "pusher.log")  # it tells of pushes while PostgreSQL was away
    app = create_app()
    choice = random.Random(f"{plan.seed} ports")
    ports = [world.ports[number] for number in choice.sample(range(PORTS), PORTS)]
    with app.app_context():
        db.create_all()
    client, used = app.test_client(), 0
    for chain in plan.chains:
        urls = [f"http://127.0.0.1:{ports[(used + k) % PORTS]}{chain.path(k)}" for k in range(chain.length)]
        used += chain.length
        supersede = chain.number % 2 == 1  # no tag is pushed twice, so nothing is superseded
        hooks = [{"hook_url": url, "supersede": supersede} for url in urls]
        wanted = {"name": f"w{chain.number}", "hooks": hooks}
        answer = client.post(f"/v2/repositories/{chain.repository}/webhooks/", json=wanted)
        assert answer.status_code == 201, answer.text
    with app.app_context():
        shorten_timeouts(app.extensions["hubhooks"])
    return app


def _perform(plan: Plan, events: Events, progress: Progress, clock: Clock) -> None:
    for action in [*plan.actions, None]:
        while not clock.wait(action.at_s if action else plan.seconds):
            events.look_after()
            clock.hold((progress.unfinished or 0) > BACKLOG and not events.out)
        if action:
            events.perform(action)


def _drain(world: World, pusher: Pusher, progress: Progress, events: Events) -> None:
    """Wait until all is recorded and finished, or nothing has finished for long."""
    pusher.join()
    while pusher.push_missing(_recorded(world)):
        pass
    before, since = -1, monotonic()
    while (unfinished := progress.unfinished) and monotonic() < since + QUIET_S:
        events.look_after()
        if unfinished != before:
            before, since = unfinished, monotonic()
        sleep(0.1)


def _recorded(world: World) -> set[str]:
    with psycopg.connect(world.postgres.uri) as connection:
        return {tag for (tag,) in connection.execute("SELECT tag FROM hubhooks_push")}


def _report(verdict: Verdict, pusher: Pusher, seconds: float) -> int:
    done, excuses, repeated = verdict.events.done, verdict.excuses, verdict.repeated
    table = {
        "seed": verdict.plan.seed,
        "deliveries": len(verdict.rows),
        "POSTs": sum(len(story.posts) for story in verdict.stories.values()),
        "workers killed": done["kill worker"],
        "workers suspended": done["suspend worker"],
        "workers replaced (SIGTERM)": done["replace worker"],
        "PostgreSQL restarts": done["start postgres"],
        "Valkey restarts, empty": done["start valkey"],
        "receivers away": done["start receiver"],
        "breakers opened": verdict.breakers_opened,
        "pushes repeated": pusher.repeated,
        "slowest push, s": f"{pusher.slowest_s:.2f}",
        **{fault: len(verdict.faults[fault]) for fault in FAULTS},
        "on the wire at kills": excuses.at_kills[False],
        "unwritten at kills": f"{excuses.at_kills[True]}, for at most {excuses.longest_unwritten_s:.2f} s",
        "repeated after kills": f"{repeated['kill']} of these",
        "repeated after lost leases": f"{repeated['lease']} of {excuses.at_lost_leases} written too late",
        "repeated on resuming": repeated["resumed"],
        "repeated, answer not seen": repeated["no answer"],
        "repeated after SIGTERM": repeated["SIGTERM"],
        "seconds": f"{seconds:.0f}",
    }
    print()
    for name, value in table.items():
        print(f"{name:<28}{value}")
    for line in verdict.evidence():
        print(line)
    broken = verdict.broken or pusher.failed
    print("BROKEN" if broken else "all promises held", flush=True)
    return int(bool(broken))


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="replays a run's schedule")
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    print(f"seed {given.seed}", flush=True)
    try:
        return run(Plan(given.seed, given.deliveries, given.kills))
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
