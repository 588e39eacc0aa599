"""Who is measured, and how one turn of each goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from redis import Redis
from rq import Queue
from sqlalchemy import Select, func, select

from flask_hubhooks import ImagePush
from flask_hubhooks.models import Status, attempts, deliveries, hooks

from .host import Notification, db, example_body, hubhooks
from .servers import Bench, Child, Failed, wait_until

WORKER = ("-m", "flask", "--app", "benchmarks.host:create_app", "hubhooks", "worker")


@dataclass(frozen=True)
class Queued:
    """One that takes its work from a queue, in a process of its own, and records it in the database.

    `lay_out` puts a number of deliveries before the process while it is held; `recorded` counts what stands
    in the database as delivered. The time runs from when it is let go to when the last is recorded.
    """

    name: str
    process: tuple[str, ...]
    path: str
    due: int
    warm_up: int
    lay_out: Callable[[Bench, str, int], None]
    recorded: Callable[[Bench, str], int]

    def rate(self, bench: Bench) -> float:
        """Deliveries per second."""
        with bench.child(*self.process) as child:
            self._seconds(bench, child, self.warm_up)
            return self.due / self._seconds(bench, child, self.due)

    def _seconds(self, bench: Bench, child: Child, count: int) -> float:
        url = bench.url(self.path)
        received = bench.received(self.path) + count
        recorded = self.recorded(bench, url) + count
        child.hold()
        self.lay_out(bench, url, count)
        started = perf_counter()
        child.let_go()
        wait_until(lambda: bench.received(self.path) >= received, child, 0.02)
        wait_until(lambda: self.recorded(bench, url) >= recorded, child, 0.005)
        seconds = perf_counter() - started
        counted = (bench.received(self.path), self.recorded(bench, url))
        if counted != (received, recorded):
            raise Failed(f"{self.name}: received and recorded {counted}, due were {(received, recorded)}")
        return seconds


@dataclass(frozen=True)
class BareLoop:
    """`requests.Session().post` in a loop, in a process of its own, one thread: nothing is queued or recorded."""

    name: str
    path: str
    due: int
    warm_up: int

    def rate(self, bench: Bench) -> float:
        """Requests per second."""
        before = bench.received(self.path)
        with bench.child("-m", "benchmarks.rivals", "bare", bench.url(self.path)) as child:
            child.ask(str(self.warm_up))
            seconds = float(child.ask(str(self.due)))
        if bench.received(self.path) - before != self.warm_up + self.due:
            raise Failed(f"{self.name}: not all of {self.due} requests were received")
        return self.due / seconds


def push_all(bench: Bench, url: str, count: int) -> None:
    """Push as a registry does; the webhook, with its secret, is made by the API before the first push."""
    repository = f"acme{url[url.rindex('/') :]}"
    webhook(bench, repository, url)
    for number in range(count):
        hubhooks.push(ImagePush(repository, f"v{number}", pusher="benchmark"))


def webhook(bench: Bench, repository: str, url: str) -> None:
    """Make the webhook unless there is one."""
    if not db.session.scalar(select(hooks.c.id).where(hooks.c.hook_url == url)):
        answer = bench.app.test_client().post(
            f"/v2/repositories/{repository}/webhooks/", json={"name": "deploy", "hook_url": url}
        )
        if answer.status_code != 201:
            raise Failed(f"no webhook: {answer.text}")
    db.session.rollback()


def attempts_recorded(bench: Bench, url: str) -> int:
    """Attempts that stand in the history with the receiver's answer and a delivery that succeeded by it."""
    query = (
        select(func.count())
        .select_from(attempts)
        .join(deliveries, deliveries.c.id == attempts.c.delivery_id)
        .where(attempts.c.hook_url == url, attempts.c.status_code == 200, deliveries.c.status == Status.SUCCEEDED)
    )
    return _count(query)


def enqueue_all(bench: Bench, url: str, count: int) -> None:
    """A row and a job for each delivery, on the queue that the URL ends with."""
    rows = [Notification(url=url, body=example_body().decode()) for _ in range(count)]
    db.session.add_all(rows)
    db.session.commit()
    with Redis.from_url(bench.redis_url) as connection:
        queue = Queue(url.rpartition("/")[2], connection=connection)
        for row in rows:
            queue.enqueue("benchmarks.jobs.deliver", row.id)


def notifications_recorded(bench: Bench, url: str) -> int:
    """Rows that a job has marked as delivered."""
    return _count(
        select(func.count(Notification.id)).where(Notification.url == url, Notification.status == "delivered")
    )


def _count(query: Select[tuple[int]]) -> int:
    count = db.session.scalar(query)
    db.session.rollback()
    return int(count or 0)


def contestants(quick: bool) -> dict[str, Queued | BareLoop]:
    """All of them, in the order they take turns. Rates are compared, so the slow ones get less to do."""
    due, simple, forking = (1500, 200, 50) if quick else (5000, 1000, 200)
    all_ = (
        Queued("hubhooks", WORKER, "/hubhooks", due, 200, push_all, attempts_recorded),
        BareLoop("bare loop", "/bare", due, 200),
        Queued("RQ SimpleWorker", _rq("simple"), "/simple", simple, 50, enqueue_all, notifications_recorded),
        Queued("RQ Worker", _rq("worker"), "/worker", forking, 5, enqueue_all, notifications_recorded),
    )
    return {each.name: each for each in all_}


def _rq(kind: str) -> tuple[str, ...]:
    return ("-m", "benchmarks.rivals", kind, kind)
