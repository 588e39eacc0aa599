"""A site: an app with the extension, on a database and a queue of its own, for one row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from time import perf_counter
from typing import Any

from flask import Flask
from sqlalchemy import Engine, create_engine, delete, exists, func, insert, literal_column, make_url, select, text

from flask_hubhooks import ImagePush
from flask_hubhooks.dialects import time_ordered_uuid, utcnow
from flask_hubhooks.formats import DEFAULT_FORMAT
from flask_hubhooks.records.models import Status, attempts, deliveries, pushes
from flask_hubhooks.records.superseding import ordered_image
from flask_hubhooks.state import State
from flask_hubhooks.wakeups import wake

from .host import create_app, db, hubhooks
from .servers import Bench, Child, Failed, child

WORKER = ("-m", "flask", "--app", "benchmarks.host:create_app", "hubhooks", "worker")
_numbers = count(1)
_under_way = deliveries.c.status.in_([literal_column("'pending'"), literal_column("'awaiting_callback'")])


@dataclass(frozen=True)
class Sample:
    """A push as the extension recorded it, and its deliveries: what is laid out is like it, with ids of its own."""

    push: Mapping[str, Any]
    deliveries: Sequence[Mapping[str, Any]]


@dataclass
class Site:
    """An app, how its processes are told of it, and a sample of what its webhooks are sent."""

    app: Flask
    engine: Engine
    environment: Mapping[str, str]
    samples: list[Sample] = field(default_factory=list)
    _repositories: Iterator[int] = field(default_factory=count)

    @property
    def state(self) -> State:
        state: State = self.app.extensions["hubhooks"]
        return state

    def child(self, *arguments: str, fds: Sequence[int] = ()) -> AbstractContextManager[Child]:
        """A process that finds this app by `create_app`."""
        return child(*arguments, environment=self.environment, fds=fds)

    def worker(self) -> AbstractContextManager[Child]:
        """A worker of ours."""
        return self.child(*WORKER)

    def subscribe(self, *urls: str, payload_format: str = DEFAULT_FORMAT) -> None:
        """Make a webhook with a chain of these, on a repository of its own, and push there once."""
        repository = f"acme/app{next(self._repositories)}"
        self.create(repository, *urls, payload_format=payload_format)
        self.samples.append(self._pushed(repository))

    def sample(self, repository: str) -> Sample:
        """Push once to a repository, and return what was recorded, which is not to be delivered."""
        sample = self._pushed(repository)
        with self.engine.begin() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.push_id == sample.push["id"]))
        return sample

    def create(self, repository: str, *urls: str, name: str = "", payload_format: str = DEFAULT_FORMAT) -> None:
        """Make a webhook by the API."""
        hooks = [{"hook_url": url, "payload_format": payload_format} for url in urls]
        wanted = {"name": name or f"deploy {urls[0]}", "hooks": hooks}
        answer = self.app.test_client().post(f"/v2/repositories/{repository}/webhooks/", json=wanted)
        if answer.status_code != 201:
            raise Failed(f"no webhook: {answer.text}")

    def _pushed(self, repository: str) -> Sample:
        with self.app.app_context():
            hubhooks.push(ImagePush(repository, "v0", pusher="benchmark"))
        with self.engine.connect() as connection:
            push = connection.execute(select(pushes).order_by(pushes.c.id.desc())).mappings().first()
            assert push
            its = select(deliveries).where(deliveries.c.push_id == push["id"]).order_by(deliveries.c.position)
            return Sample(dict(push), [dict(each) for each in connection.execute(its).mappings()])

    def lay_out(self, tags: Sequence[str], samples: Sequence[Sample] | None = None, **first: Any) -> tuple[int, float]:
        """Have a push of each tag be due, like each of these samples in turn, in one transaction, and wake a worker.

        `first` is what is to stand otherwise in the first delivery of each. Returns the id of the first push, and
        when (on the clock of `perf_counter`) it was committed: nobody could see any of it before.
        """
        alike = [sample for sample, _ in zip(cycle(samples or self.samples), tags, strict=False)]
        now, due = utcnow(), []
        with self.engine.connect() as connection:
            rows = [{**sample.push, "tag": tag, "pushed_at": now} for sample, tag in zip(alike, tags, strict=True)]
            for row in rows:
                del row["id"]
            ids = connection.scalars(insert(pushes).returning(pushes.c.id, sort_by_parameter_order=True), rows).all()
            for push_id, row, sample in zip(ids, rows, alike, strict=True):
                own = sorted(time_ordered_uuid() for _ in sample.deliveries)
                its = {"push_id": push_id, "pushed_at": now, "created_at": now}
                due += [{**each, **its, "id": id_} for each, id_ in zip(sample.deliveries, own, strict=True)]
                for each in due[-len(own) :]:
                    if each["ordered_image"]:
                        each["ordered_image"] = ordered_image(row["repository"], row["tag"])
                due[-len(own)] |= {"next_attempt_at": now, **first}
            connection.execute(insert(deliveries), due)
            committed = perf_counter()
            connection.commit()
        with self.app.app_context():
            wake(self.state)
        return ids[0], committed

    def under_way(self, first: int = 0) -> bool:
        """Whether of the pushes from that one on anything is not delivered yet.

        The newest is asked for first: to look at all of them a hundred times a second would slow down what is measured.
        """
        newest = select(func.max(pushes.c.id)).scalar_subquery()
        with self.engine.connect() as connection:
            return any(
                connection.scalar(select(exists().where(these, _under_way)))
                for these in (deliveries.c.push_id == newest, deliveries.c.push_id >= first)
            )

    def delivered(self, first: int) -> int:
        """Attempts of these pushes that stand in the history as answered, each with a delivery that succeeded."""
        query = (
            select(func.count())
            .select_from(attempts)
            .join(deliveries, deliveries.c.id == attempts.c.delivery_id)
            .where(
                deliveries.c.push_id >= first,
                deliveries.c.status == Status.SUCCEEDED,
                attempts.c.status_code == 200,
            )
        )
        with self.engine.connect() as connection:
            return connection.scalar(query) or 0

    def settle(self) -> None:
        """Have the database do now what it would do by itself within minutes, while we measure."""
        postgresql = self.engine.dialect.name == "postgresql"
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM ANALYZE {', '.join(db.metadata.tables)}" if postgresql else "ANALYZE"))


def breakers_open(worker: Child) -> set[str]:
    """The hosts which, or a hook of which, a worker has said to have opened a breaker for."""
    return set(re.findall(r"(?:hook \d+ at|host) (\S+) has failed", worker.errors()))


@contextmanager
def site(bench: Bench, *, sqlite: bool = False, **settings: Any) -> Iterator[Site]:
    """A site on PostgreSQL, or on SQLite; `settings` are further keys of its config. Its database goes with it."""
    name = f"site{next(_numbers)}"
    url = f"sqlite:///{bench.folder / name}.db"
    if not sqlite:
        url = make_url(bench.database_url).set(database=name).render_as_string(hide_password=False)
        _maintain(bench, f"CREATE DATABASE {name}")
    own = {"SQLALCHEMY_DATABASE_URI": url, "HUBHOOKS_REDIS_URL": bench.redis_url, "HUBHOOKS_QUEUE": name, **settings}
    environment = {f"FLASK_{key}": value if isinstance(value, str) else json.dumps(value) for key, value in own.items()}
    app = create_app(own)
    with app.app_context():
        db.create_all()
        engine = db.engine
    try:
        yield Site(app, engine, environment)
    finally:
        engine.dispose()
        if not sqlite:
            _maintain(bench, f"DROP DATABASE {name} WITH (FORCE)")


def _maintain(bench: Bench, statement: str) -> None:
    server = create_engine(bench.database_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(statement))
    server.dispose()
