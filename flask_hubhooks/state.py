"""What one app's registration holds, in `app.extensions["hubhooks"]`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from .broker import connect
from .config import Config
from .database import take_write_lock
from .delivery.signing import SecretBox
from .delivery.tokens import CallbackTokens
from .outages import DATABASE_FAULTS, REDIS_FAULTS, Outage
from .registry import ImagePush, Repository

logger = logging.getLogger(__name__)

Authorizer = Callable[[str, str], str | Literal[False] | Response | None]

REDIS_TIMEOUT_S = 0.4  # connecting and the first answer each take this at most: a push waits less than 1 s


@dataclass
class Handlers:
    """What the host decides; each is set by the decorator of its name on `HubHooks`."""

    authorizer: Authorizer | None = None
    repository_loader: Callable[[str], Repository | None] | None = None
    push_adapter: Callable[..., ImagePush | None] | None = None

    def details_of(
        self, repository: str, savepoint: AbstractContextManager[object] | None = None
    ) -> dict[str, Any] | None:
        """The `Repository.snapshot` of what the host knows; None where it says there is no such repository.

        A loader that fails is logged and costs only the details: the repository counts as existing. What it did
        to the session it shares with us is undone by `savepoint`.
        """
        if self.repository_loader is None:
            return Repository().snapshot()
        try:
            with savepoint or nullcontext():
                loaded = self.repository_loader(repository)
            return loaded.snapshot() if loaded else None
        except Exception:
            logger.exception("the repository_loader failed for %r: its details are left empty", repository)
            return Repository().snapshot()


class State:
    """The parts that belong to one app: made when they are first used, so that each process has its own."""

    def __init__(self, app: Flask, db: SQLAlchemy, handlers: Handlers, config: Config, join_session: bool) -> None:
        self.db = db
        self.handlers = handlers
        self.config = config
        self.join_session = join_session
        passwords: list[str | bytes] = [
            app.config["SECRET_KEY"],
            *(key for key in reversed(app.config.get("SECRET_KEY_FALLBACKS") or ()) if key),  # everybody knows ""
        ]
        self.tokens = CallbackTokens(passwords[::-1])
        self.secrets = SecretBox(config.encryption_keys, passwords)
        self.redis_outage = Outage("Redis", REDIS_FAULTS)
        self.database_outage = Outage("the database", DATABASE_FAULTS)

    @cached_property
    def redis(self) -> Redis:
        """The client that wakes workers: it gives up soon, since a push waits for it."""
        return connect(self.config, connect_timeout_s=REDIS_TIMEOUT_S, timeout_s=REDIS_TIMEOUT_S)

    @property
    def engine(self) -> Engine:
        """The host's engine, with its connections; but errors do not tell what was sent, which may be secret."""
        engine = self.db.engine.execution_options()
        engine.hide_parameters = True
        return engine

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session of our own, apart from the host's."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A short transaction of our own: it commits at the end, or rolls back on an exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            take_write_lock(session)
            yield session


def current_state() -> State:
    """The state of the current app; raises `RuntimeError` where HubHooks is not registered on it."""
    state: Any = current_app.extensions.get("hubhooks")
    if state is None:
        raise RuntimeError("HubHooks is not registered on this app: call app.register_blueprint(hubhooks)")
    return cast(State, state)
