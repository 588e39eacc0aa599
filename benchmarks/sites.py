"""A site: an app with the extension, with its own database and queue, for one row."""

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
    """A push and its deliveries as the extension recorded them. `Site.lay_out` copies them with new ids."""

    push: Mapping[str, Any]
    deliveries: Sequence[Mapping[str, Any]]


@dataclass
class Site:
    """An app, the environment of its processes, and samples of pushes to its webhooks."""

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
        """Run a process in which `create_app` creates this app."""
        return child(*arguments, environment=self.environment, fds=fds)

    def worker(self) -> AbstractContextManager[Child]:
        """Run one of our workers."""
        return self.child(*WORKER)

    def subscribe(self, *urls: str, payload_format: str = DEFAULT_FORMAT) -> None:
        """Create a webhook with a chain of these URLs, on a repository of its own, and push there once."""
        repository = f"acme/app{next(self._repositories)}"
        self.create(repository, *urls, payload_format=payload_format)
        self.samples.append(self._pushed(repository))

    def sample(self, repository: str) -> Sample:
        """Push once to a repository, and return what was recorded; its deliveries are deleted."""
        sample = self._pushed(repository)
        with self.engine.begin() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.push_id == sample.push["id"]))
        return sample

    def create(self, repository: str, *urls: str, name: str = "", payload_format: str = DEFAULT_FORMAT) -> None:
        """Create a webhook with the API."""
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
        """Insert a due push for each tag in one transaction, as copies of these samples in turn, and wake a worker.

        `first` overrides columns of the first delivery of each push. Returns the id of the first push, and the time
        just before the commit (on the clock of `perf_counter`).
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
        """Whether any push from the id `first` on is not delivered yet.

        It looks at the newest push first: looking at all of them a hundred times a second would slow the worker down.
        """
        newest = select(func.max(pushes.c.id)).scalar_subquery()
        with self.engine.connect() as connection:
            return any(
                connection.scalar(select(exists().where(these, _under_way)))
                for these in (deliveries.c.push_id == newest, deliveries.c.push_id >= first)
            )

    def delivered(self, first: int) -> int:
        """How many attempts of pushes from `first` on got a 200 and belong to a delivery that succeeded."""
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
        """Run now what autovacuum would run in the middle of the measurement."""
        postgresql = self.engine.dialect.name == "postgresql"
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM ANALYZE {', '.join(db.metadata.tables)}" if postgresql else "ANALYZE"))


def breakers_open(worker: Child) -> set[str]:
    """The hosts that a worker has logged an open breaker for: the host's own or a hook's."""
    return set(re.findall(r"(?:hook \d+ at|host) (\S+) has failed", worker.errors()))


@contextmanager
def site(bench: Bench, *, sqlite: bool = False, **settings: Any) -> Iterator[Site]:
    """A site on PostgreSQL or SQLite; `settings` are added to its config. PostgreSQL drops its database at the end."""
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
