"""A registry's app as small as it can be, with the extension in it, and the ways to use it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from blinker import Signal
from flask import Flask, abort, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData, delete, event, func, literal, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from flask_hubhooks import HubHooks, ImagePush, Repository
from flask_hubhooks.dialects import now_plus, utcnow
from flask_hubhooks.records.models import Base, Delivery
from flask_hubhooks.sources import Source
from flask_hubhooks.state import Handlers, State
from flask_hubhooks.testing import Deliveries
from flask_hubhooks.web.endpoints import WEBHOOKS_OF
from flask_hubhooks.worker.jobs import deliver_due, dispatchers

OWNERS = {"alice": "acme/", "bob": "bob/"}


def api_rules(app: Flask, kinds: Collection[str] = tuple(WEBHOOKS_OF)) -> list[Rule]:
    """The routes that answer machines: all of ours but the pages, and what these load, for these kinds of scopes."""
    pages = ("hubhooks.pages_", "hubhooks.static")
    others = tuple(path for kind, path in WEBHOOKS_OF.items() if kind not in kinds)
    ours = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("hubhooks.")]
    return [rule for rule in ours if not rule.endpoint.startswith(pages) and not rule.rule.startswith(others)]


def problem(answer: TestResponse, status: int) -> dict[str, Any]:
    """The content of an error of ours."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    content = dict(answer.get_json())
    assert content["status"] == status
    assert content["title"] and content["detail"]
    return content


@dataclass
class Host:
    """`alice` owns `acme/*`, `bob` owns `bob/*`, and `root` the registry; `reader` may read all.

    They sign in by naming themselves.
    """

    database_uri: str
    redis_url: str
    push_signal: Signal | None = None
    join_session: bool = False
    url_prefix: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    creates_tables: bool = True
    session_options: dict[str, Any] = field(default_factory=dict)
    metadata: MetaData | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    namespaces: bool = True

    def __post_init__(self) -> None:
        self.db = SQLAlchemy(session_options=self.session_options, metadata=self.metadata)
        self.hubhooks = HubHooks(self.db, self.push_signal, join_session=self.join_session)
        self._set_handlers()
        for name, read in self.sources.items():
            self.hubhooks.source(name)(read)
        self.app = self.make_app()
        self._configs = dict(self.app.config), self.state.config
        self._set_clients()

    def _set_handlers(self) -> None:
        self.hubhooks.authorizer(authorize)
        if self.namespaces:
            self.hubhooks.namespace_authorizer(authorize_namespace)
        self.hubhooks.repository_loader(load)

    def _set_clients(self) -> None:
        self.client = self.app.test_client()
        self.deliveries = Deliveries(self.app)

    def make_app(self) -> Flask:
        app = Flask("host")
        app.config.update(
            SECRET_KEY="a test's secret key",
            SQLALCHEMY_DATABASE_URI=self.database_uri,
            HUBHOOKS_EXTERNAL_URL="https://registry.example.com",
            HUBHOOKS_REDIS_URL=self.redis_url,
            HUBHOOKS_ALLOWED_NETWORKS=["127.0.0.0/8"],
            HUBHOOKS_MAX_SENDS_PER_MINUTE=10_000,
        )
        app.config.update(self.config)
        self.db.init_app(app)
        app.register_blueprint(self.hubhooks, url_prefix=self.url_prefix)
        if self.creates_tables:
            with app.app_context():
                self.db.create_all()
        return app

    @property
    def state(self) -> State:
        state: State = self.app.extensions["hubhooks"]
        return state

    def api(self, method: str, path: str, user: str | None = "alice", **options: Any) -> TestResponse:
        """A request to the API, below `/v2/repositories/` or at an absolute path; `user` signs in."""
        headers = options.pop("headers", {}) | ({"X-User": user} if user else {})
        if method == "POST" and options.get("json") is None and not {"data", "content_type"} & options.keys():
            options["content_type"] = "application/json"
        path = path if path.startswith("/") else f"/v2/repositories/{path}"
        return self.client.open(path, method=method, headers=headers, **options)

    def create(self, *urls: str, repository: str = "acme/app", name: str = "deploy", **more: Any) -> dict[str, Any]:
        """Make a webhook; of more than one URL a chain."""
        wanted = {"name": name, "hooks": [{"hook_url": url} for url in urls]} | more
        answer = self.api("POST", f"{repository}/webhooks/", json=wanted)
        assert answer.status_code == 201, answer.text
        return dict(answer.get_json())

    def push(self, repository: str = "acme/app", tag: str = "latest", **details: Any) -> None:
        with self.app.app_context():
            self.hubhooks.push(ImagePush(repository, tag, **details))

    def deliver(self) -> None:
        """Deliver what is due in this thread, without Redis."""
        with self.deliveries:
            self.deliveries.deliver_now()

    def run_job(self) -> None:
        """Run the job that workers run, on its threads and with Redis: it ends when nothing is due."""
        with self.app.app_context():
            deliver_due()

    @contextmanager
    def listening(self, note: Callable[[str, Any, Any], None]) -> Iterator[None]:
        """Call it with each statement that a later session is about to execute, its parameters and its cursor."""

        def before(_connection: object, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
            note(statement, parameters, cursor)

        with self.app.app_context():
            engine = self.db.engine  # older releases of SQLAlchemy tell nothing of what is derived from it
        event.listen(engine, "before_cursor_execute", before)
        try:
            yield
        finally:
            event.remove(engine, "before_cursor_execute", before)

    @contextmanager
    def statements(self, word: str = "") -> Iterator[list[str]]:
        """The statements with this word in them that later sessions are about to execute, while they do."""
        found: list[str] = []

        def note(statement: str, *_: object) -> None:
            if word in statement:
                found.append(statement)

        with self.listening(note):
            yield found

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction in the app's database."""
        with self.app.app_context(), self.state.writing() as session:
            yield session

    def count(self, model: type[Base]) -> int:
        """Count the rows of a table."""
        with self.writing() as session:
            return session.scalar(select(func.count()).select_from(model)) or 0

    def set_all(self, model: type[Base], **values: Any) -> None:
        """Set columns of all rows of a table, such as a time that is to have passed."""
        with self.writing() as session:
            session.execute(update(model).values(values))

    def make_overdue(self) -> None:
        """Let the time to give up come, or for a callback to expire."""
        with self.writing() as session:
            under_way = update(Delivery).where(Delivery.give_up_at.is_not(None))
            session.execute(under_way.values(give_up_at=now_plus(literal(0.0))))

    def make_due(self) -> None:
        """Let the time of every next attempt come, and the end of every lease."""
        with self.writing() as session:
            put_off = update(Delivery).where(Delivery.next_attempt_at.is_not(None))
            session.execute(put_off.values(next_attempt_at=now_plus(literal(0.0))))

    def history(self, webhook: dict[str, Any], repository: str = "acme/app") -> list[dict[str, Any]]:
        answer = self.api("GET", f"{repository}/webhooks/{webhook['id']}/history/")
        assert answer.status_code == 200, answer.text
        return list(answer.get_json()["results"])

    def states(self, webhook: dict[str, Any], repository: str = "acme/app") -> list[str]:
        """Return the states of the webhook's deliveries, latest run first."""
        return [each["state"] for each in self.history(webhook, repository)]

    def redeliver(self, webhook: dict[str, Any], position: int = 0) -> TestResponse:
        """Redeliver what stands at a position of the webhook's history."""
        delivery = self.history(webhook)[position]
        return self.api("POST", f"acme/app/webhooks/{webhook['id']}/history/{delivery['id']}/redeliver/")

    def one_delivery(self, webhook: dict[str, Any]) -> dict[str, Any]:
        """Return the webhook's only delivery, with its attempts."""
        (delivery,) = self.history(webhook)
        return self.details(webhook, delivery)

    def details(self, webhook: dict[str, Any], delivery: dict[str, Any]) -> dict[str, Any]:
        answer = self.api("GET", f"acme/app/webhooks/{webhook['id']}/history/{delivery['id']}/")
        assert answer.status_code == 200, answer.text
        return dict(answer.get_json())

    def call_back(self, payload: bytes, **callback: Any) -> TestResponse:
        """Post a callback to the payload's `callback_url`."""
        url = json.loads(payload)["callback_url"].removeprefix("https://registry.example.com")
        return self.client.post(url, json={"state": "success"} | callback)

    def renew(self) -> None:
        """Make it like a new one for the next test, which has its app, its connections and its emptied tables."""
        self.leave()
        vars(self.hubhooks._handlers).update(vars(Handlers()))
        self._set_handlers()
        of_app, ours = self._configs
        self.app.config.clear()
        self.app.config.update(of_app)
        old = self.state
        state = State(self.app, self.db, old.handlers, ours, self.join_session, old.url_prefix)
        state._engines = old._engines
        self.app.extensions["hubhooks"] = state
        with self.app.app_context(), self.db.engine.begin() as connection:
            tables = self.db.metadata.sorted_tables
            if connection.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL lock_timeout = '5s'"))
                connection.execute(text(f"TRUNCATE {', '.join(each.name for each in tables)} RESTART IDENTITY"))
            else:
                for each in reversed(tables):
                    connection.execute(delete(each))
        self._set_clients()

    def leave(self) -> None:
        """Give up what does not outlive a test."""
        dispatchers.pop(self.state, None)
        self.state.redis.close()

    def close(self) -> None:
        self.leave()
        with self.app.app_context():
            self.db.engine.dispose()


@dataclass
class Owned:
    """A repository of `alice`'s, in a host app that other tests use as well."""

    host: Host
    repository: str

    def __call__(self, method: str, path: str = "", **options: Any) -> TestResponse:
        """A request to what the API has of the repository's webhooks."""
        return self.host.api(method, f"{self.repository}/webhooks/{path}", **options)

    def create(self, *urls: str, name: str = "deploy", **more: Any) -> dict[str, Any]:
        return self.host.create(*urls, repository=self.repository, name=name, **more)

    def push(self, tag: str = "latest", **details: Any) -> None:
        self.host.push(self.repository, tag, **details)

    def get(self, path: str = "") -> dict[str, Any]:
        answer = self("GET", path)
        assert answer.status_code == 200, answer.text
        return dict(answer.get_json())

    def patch(self, path: str, content: object) -> dict[str, Any]:
        answer = self("PATCH", path, json=content)
        assert answer.status_code == 200, answer.text
        return dict(answer.get_json())

    def states(self, webhook: dict[str, Any]) -> list[str]:
        return self.host.states(webhook, self.repository)


def failing_for(**spans: float) -> dict[str, Any]:
    """The columns of a hook that has failed every day for that long, given as to `timedelta`."""
    span = timedelta(**spans)
    return {"failing_since": utcnow() - span, "failed_at": utcnow() - timedelta(days=1), "failed_days": span.days}


def things(host: Host) -> Any:
    """A model of the host's own; its `name` is the primary key."""

    class Thing(host.db.Model):  # type: ignore[name-defined,misc]
        name: Mapped[str] = mapped_column(primary_key=True)

    with host.app.app_context():
        host.db.create_all()
    return Thing


def kept(host: Host, model: Any) -> list[str]:
    """Return the names that are in such a model."""
    with host.app.app_context():
        return sorted(host.db.session.scalars(select(model.name)))


def authorize(action: str, repository: str) -> str | None:
    assert repository != "*" and not repository.endswith("/*"), "it is never asked about patterns"
    user = request.headers.get("X-User")
    if user is None:
        abort(401)
    if repository.startswith(OWNERS.get(user, "/")) or (user == "reader" and action == "read"):
        return user
    return None


def authorize_namespace(action: str, pattern: str) -> str | None:
    user = request.headers.get("X-User")
    if user is None:
        abort(401)
    assert pattern == "*" or pattern.endswith("/*")
    if pattern.startswith(OWNERS.get(user, "//")) or user == "root" or (user == "reader" and action == "read"):
        return user
    return None


def load(name: str) -> Repository | None:
    assert name != "*" and not name.endswith("/*"), "it is never asked about patterns"
    return None if name.endswith("/missing") else Repository(description="An app", star_count=7)
