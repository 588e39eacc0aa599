"""The parts of one app's registration, in `app.extensions["hubhooks"]`."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, cast
from weakref import WeakSet

from flask import Flask, current_app, has_request_context
from flask.ctx import RequestContext
from flask_sqlalchemy import SQLAlchemy
from redis import Redis
from sqlalchemy import Connection, Engine, delete, event, false, table
from sqlalchemy.exc import TimeoutError as NoConnectionLeft
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from werkzeug.test import create_environ
from werkzeug.wrappers import Response

from .config import Config
from .crypto.callback_tokens import CallbackTokens
from .crypto.secret_box import SecretBox
from .engines import loader_engine, own_engine, source_engine
from .outages import DATABASE_FAULTS, REDIS_FAULTS, Outage, in_one_line
from .redis_client import connect
from .registry import ImagePush, Repository
from .sources import Source

logger = logging.getLogger(__name__)

Authorizer = Callable[[str, str], str | Literal[False] | Response | None]

REDIS_TIMEOUT_S = 0.4  # for connecting and for the first answer: a push waits less than 1 s


@dataclass
class Handlers:
    """Functions of the host, each set by the decorator of its name on `HubHooks`."""

    authorizer: Authorizer | None = None
    namespace_authorizer: Authorizer | None = None
    repository_loader: Callable[[str], Repository | None] | None = None
    push_adapter: Callable[..., ImagePush | None] | None = None
    sources: dict[str, Source] = field(default_factory=dict)


_loading: ContextVar[bool] = ContextVar("hubhooks_loading", default=False)
_LOADERS_ARE_SLOW = (
    ": all connections are taken; a loader that waits for another service should do so before it reads from "
    "db.session, or call db.session.close() first"
)


class State:
    """The parts that belong to one app: made when they are first used, so that each process has its own."""

    def __init__(
        self,
        app: Flask,
        db: SQLAlchemy,
        handlers: Handlers,
        config: Config,
        join_session: bool,
        url_prefix: str,
    ) -> None:
        self.app = app
        self.db = db
        self.handlers = handlers
        self.config = config
        self.join_session = join_session
        self.url_prefix = url_prefix
        """That of the blueprint, which is part of `config.external_url`, without a final slash."""
        passwords: list[str | bytes] = [
            app.config["SECRET_KEY"],
            *(key for key in reversed(app.config.get("SECRET_KEY_FALLBACKS") or ()) if key),  # "" is no secret
        ]
        self.tokens = CallbackTokens(passwords[::-1])
        self.secrets = SecretBox(config.encryption_keys, passwords)
        self.redis_outage = Outage("Redis", REDIS_FAULTS)
        self.database_outage = Outage("the database", DATABASE_FAULTS)
        self.missed_worker_since: datetime | Literal[False] | None = False
        """When the last worker was seen, as of the latest log entry about that; None: there never was one."""
        self._engines: dict[tuple[Callable[[Engine], Engine], Engine], Engine] = {}
        self._engines_lock = threading.Lock()
        self._closes_at_exit = False
        _states.add(self)

    @cached_property
    def redis(self) -> Redis:
        """The client for waking workers. It gives up soon, since a push waits for it."""
        return connect(self.config, connect_timeout_s=REDIS_TIMEOUT_S, timeout_s=REDIS_TIMEOUT_S)

    @cached_property
    def engine(self) -> Engine:
        """The engine of our own transactions. Its first use needs an app context."""
        return self._transaction_engine(own_engine)

    @cached_property
    def source_engine(self) -> Engine:
        """The engine for what sources send. Its first use needs an app context."""
        return self._transaction_engine(source_engine)

    def _transaction_engine(self, make: Callable[[Engine], Engine]) -> Engine:
        engine = self._engine_beside(self.db.engine, make)
        return engine.execution_options(**self._table_options) if self._table_options else engine

    def _engine_beside(self, host: Engine, make: Callable[[Engine], Engine]) -> Engine:
        """Return the engine that `make` makes from an engine of the host, once per process."""
        with self._engines_lock:
            if (make, host) not in self._engines:
                self._engines[make, host] = make(host)
            return self._engines[make, host]

    @property
    def _table_options(self) -> dict[str, Any]:
        """Execution options for statements to find our tables in the schema of the host's metadata."""
        schema = self.db.metadata.schema
        return {"schema_translate_map": {None: schema}} if schema else {}

    @contextmanager
    def reading(self, engine: Engine | None = None) -> Iterator[Session]:
        """A session of our own, separate from the host's."""
        with Session(engine or self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()  # a rollback would have psycopg forget all prepared statements of the connection

    @contextmanager
    def writing(self, engine: Engine | None = None) -> Iterator[Session]:
        """A short transaction of our own: it commits at the end, or rolls back on an exception."""
        with Session(engine or self.engine, expire_on_commit=False) as session, session.begin():
            _take_write_lock(session.connection(), {})
            yield session

    @contextmanager
    def in_host_transaction(self) -> Iterator[Session]:
        """A session of ours within the host's transaction, which the host commits or rolls back.

        The host's pending changes are flushed first. An exception rolls back only what this session did. In autocommit
        it is a transaction of our own, which commits at the end.
        """
        host = self.db.session()
        host.flush()
        connection = host.connection()
        if autocommits(connection):
            with self.writing() as session:
                yield session
            return
        _take_write_lock(connection, self._table_options)
        with Session(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as session:
            if self._table_options:

                @event.listens_for(session, "do_orm_execute")
                def find_tables(executed: ORMExecuteState) -> None:
                    executed.update_execution_options(**self._table_options)

            with session.begin():
                yield session

    @contextmanager
    def visiting_host_session(self) -> Iterator[None]:
        """End a transaction that the block begins in the host's session only to read.

        The host's authorizer and loader leave it open, and on SQLite its lock may keep our own transaction waiting. On
        PostgreSQL it does no harm and stays open. So does a transaction that was open before, or that has written:
        these are the host's to end. After an exception it stays open too: no transaction of ours follows, and a
        response that the authorizer raised or returned may still use what it loaded.
        """
        session = self.db.session()
        if self.db.engine.dialect.name != "sqlite" or session.in_transaction():
            yield
            return
        begun: list[tuple[Any, int | None]] = []  # the driver's connections, each with its number of changed rows

        def begins(_: Session, transaction: SessionTransaction, connection: Connection) -> None:
            if not transaction.nested:
                driver = connection.connection.dbapi_connection
                begun.append((driver, getattr(driver, "total_changes", None)))

        def ended(_: Session, transaction: SessionTransaction) -> None:
            if transaction.parent is None:
                begun.clear()

        event.listen(session, "after_begin", begins)
        event.listen(session, "after_transaction_end", ended)
        try:
            yield
        finally:
            event.remove(session, "after_begin", begins)
            event.remove(session, "after_transaction_end", ended)
        wrote = any(changes is None or driver.total_changes != changes for driver, changes in begun)
        if not (wrote or session.new or session.dirty or session.deleted):
            session.rollback()

    def details_of(
        self,
        repository: str,
        savepoint: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        needs_request: bool = True,
    ) -> dict[str, Any] | None:
        """Return the `Repository.snapshot` of the host's details, or None if the host has no such repository.

        If the loader fails, the error is logged, and the repository counts as an existing, private one without details;
        `savepoint` rolls back what the loader did to a session that it shares with us. The same holds for a push that
        the loader itself sends: calling the loader again would never end.

        Where there is no request, the loader runs in one for HUBHOOKS_EXTERNAL_URL if it `needs_request`.
        """
        loader = self.handlers.repository_loader
        if loader is None:
            return Repository().snapshot()
        if _loading.get():
            logger.warning(
                "the repository_loader sent a push to %r: it is recorded as private, without details", repository
            )
            return Repository(is_private=True).snapshot()
        loading = _loading.set(True)
        try:
            with savepoint():
                if has_request_context() or not needs_request:
                    loaded = loader(repository)
                else:
                    loaded = copy_context().run(self._load_in_request, loader, repository)
            return loaded.snapshot() if loaded else None
        except Exception as error:
            logger.exception(
                "the repository_loader failed for %r: it counts as private, without details: %s%s",
                repository,
                in_one_line(error),
                _LOADERS_ARE_SLOW if isinstance(error, NoConnectionLeft) else "",
            )
            return Repository(is_private=True).snapshot()
        finally:
            _loading.reset(loading)

    def _load_in_request(self, loader: Callable[[str], Repository | None], repository: str) -> Repository | None:
        """Call the loader in a new request, with which `url_for(…, _external=True)` works. Call it in a copied context.

        The request is never popped: that would call the host's `teardown_request` functions, which may end the
        transaction of its session. It goes away with the copied context.
        """
        self._request().push()
        return loader(repository)

    def _request(self) -> RequestContext:
        """A request to the root of the app, as it is seen from outside."""
        root = self.config.external_url.removesuffix(self.url_prefix)
        return self.app.request_context(create_environ(base_url=f"{root}/"))

    def details_for_push(self, repository: str, *, needs_request: bool = True) -> dict[str, Any] | None:
        """Load the details of a repository that was pushed to, as `details_of` does.

        The pusher's session may be in its commit, where it can execute nothing, and may hold a connection of the host's
        pool, so that waiting for a second one could last forever. So the loader runs in an app context of its own, and
        its `db.session` takes a connection of the pool for loaders.
        """
        registry = self.db.session.registry
        pushers = registry() if registry.has() else None
        session = self.db.session.session_factory()
        host_bind = session.get_bind

        def own_bind(*args: Any, **kwargs: Any) -> Engine | Connection:
            bind = host_bind(*args, **kwargs)
            return self._engine_beside(bind, loader_engine) if isinstance(bind, Engine) else bind

        session.get_bind = own_bind  # type: ignore[method-assign]
        try:
            with self.app.app_context() as context:  # at its end Flask-SQLAlchemy closes the session
                registry.set(session)
                if not needs_request:
                    context.url_adapter = self._request().url_adapter  # so that `url_for` works without a request
                return self.details_of(repository, needs_request=needs_request)
        finally:
            if pushers and not (registry.has() and registry() is pushers):  # the host's scope is not the app context
                registry.set(pushers)

    def close_at_exit(self) -> None:
        """Close the connections to the database when this process exits. Call it in an app context.

        Not earlier: others in the process may be using the same pools.
        """
        if self._closes_at_exit:
            return
        self._closes_at_exit = True
        for engine in self.db.engines.values():
            atexit.register(engine.dispose)  # ours close with the host's

    def forget_connections(self) -> None:
        """Leave all open connections to the parent process."""
        self._engines_lock = threading.Lock()  # another thread of the parent may hold it
        # No app context here: the host's teardown would end the parent's transactions on the parent's connections.
        hosts = self.db._app_engines.get(self.app, {}).values()
        for engine in (*self._engines.values(), *hosts):  # in this order: ours close with the host's
            engine.dispose(close=False)


def autocommits(connection: Connection) -> bool:
    """Whether each statement on PostgreSQL commits by itself: then there is no transaction to join."""
    driver = connection.connection.dbapi_connection
    return connection.dialect.name == "postgresql" and bool(getattr(driver, "autocommit", False))


_TAKE_WRITE_LOCK = delete(table("hubhooks_push")).where(false())


def _take_write_lock(connection: Connection, options: dict[str, Any]) -> None:
    """On SQLite, begin the transaction as a writer; elsewhere rows are locked one by one.

    A transaction that reads first and writes later fails at once ("database is locked") if another one has written in
    between, however long the busy timeout is. A write that changes nothing takes the lock first. It also makes the
    driver begin a transaction, without which a savepoint would commit by itself.
    """
    if connection.dialect.name == "sqlite":
        connection.execute(_TAKE_WRITE_LOCK, execution_options=options)


_states: WeakSet[State] = WeakSet()


def _forget_connections() -> None:
    """Keep a forked child from using its parent's connections, which would mix up the answers to both."""
    for state in list(_states):
        state.forget_connections()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_connections)


def current_state() -> State:
    """The state of the current app. Raises `RuntimeError` if HubHooks is not registered on it."""
    state: Any = current_app.extensions.get("hubhooks")
    if state is None:
        raise RuntimeError("HubHooks is not registered on this app: call app.register_blueprint(hubhooks)")
    return cast(State, state)
