"""`HubHooks`, the blueprint that a host registers. It only wires the parts together."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import urlsplit

from blinker import Signal
from flask import Blueprint, Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import make_url

from .cli import add_commands
from .config import Config, ConfigError
from .outbox import accept, accept_in_session
from .records import repositories
from .records.models import copy_tables
from .registry import ImagePush, Repository
from .signals import image_pushed, repository_deleted, repository_renamed
from .sources import MAX_SOURCE_LENGTH, SOURCES, Source
from .state import Authorizer, Handlers, State, current_state
from .web import add_routes

logger = logging.getLogger(__name__)

AuthorizerT = TypeVar("AuthorizerT", bound=Authorizer)
Loader = TypeVar("Loader", bound=Callable[[str], Repository | None])
Adapter = TypeVar("Adapter", bound=Callable[..., ImagePush | None])
SourceT = TypeVar("SourceT", bound=Source)


class HubHooks(Blueprint):
    """Webhooks for the repositories of the registry whose app registers this blueprint.

    `db` is the host's Flask-SQLAlchemy. `push_signal` is the blinker signal that the host sends when a tag has been
    pushed, by default our `signals.image_pushed`. With `join_session` a push is recorded in the host's `db.session`
    and commits with it; otherwise in a transaction of its own.

    The blueprint may be registered on several apps. Each has its own state.
    """

    def __init__(self, db: SQLAlchemy, push_signal: Signal | None = None, *, join_session: bool = False) -> None:
        super().__init__(
            "hubhooks",
            "flask_hubhooks",
            static_folder="static",
            static_url_path="/hubhooks/static",
            cli_group="hubhooks",
        )
        self._db = db
        self._push_signal = image_pushed if push_signal is None else push_signal
        self._join_session = join_session
        self._handlers = Handlers()
        self._ignored_keywords: set[str] = set()
        add_routes(self)
        add_commands(self)

    def authorizer(self, function: AuthorizerT) -> AuthorizerT:
        """Decorate `function(action, repository)`, which decides who may "read" or "write" webhooks.

        It returns the user's name. None, False and a name without a visible character deny. It may also abort or
        return a response such as a redirect, which is passed on unchanged. Anything else, including a name with a NUL
        character, is an error in the host and denies with 500. Without an authorizer everything is denied.
        """
        self._handlers.authorizer = function
        return function

    def namespace_authorizer(self, function: AuthorizerT) -> AuthorizerT:
        """Decorate `function(action, pattern)`, which decides who may "read" or "write" webhooks of many repositories.

        The pattern is `acme/*` for the webhooks of the namespace `acme`, which get the pushes of all repositories below
        it, and `*` for those of the whole registry. It answers as an `authorizer` does. Without it there are no such
        webhooks, and their URLs are 404. The `authorizer` is never asked about patterns.
        """
        self._handlers.namespace_authorizer = function
        return function

    def repository_loader(self, function: Loader) -> Loader:
        """Decorate `function(name)`, which returns a `Repository`, or None if there is no such repository."""
        self._handlers.repository_loader = function
        return function

    def push_adapter(self, function: Adapter) -> Adapter:
        """Decorate `function(sender, **kwargs)`, which turns the host's signal into an `ImagePush`.

        It returns None for a signal that is not the push of a tag.
        """
        self._handlers.push_adapter = function
        return function

    def source(self, name: str) -> Callable[[SourceT], SourceT]:
        """Decorate `function(headers, body)`, which reads what a registry posts to `/hubhooks/sources/<name>/`.

        It gets the headers by their names in lower case, and the body's bytes, and returns the `ImagePush`es in them.
        It raises `BadEvent` for a request that is not from such a registry, which is answered with 400. Decorate it
        before you register the blueprint. Raises `ValueError` for a name that is taken or is no lower-case word.
        """
        if name in SOURCES or not re.fullmatch(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_SOURCE_LENGTH - 1}}}", name):
            raise ValueError(f"{name!r} cannot be the name of a source: it is built in, or no lower-case word")

        def decorate(function: SourceT) -> SourceT:
            self._handlers.sources[name] = function
            return function

        return decorate

    def push(self, push: ImagePush) -> None:
        """Record that a tag was pushed to the current app's registry, and call its webhooks.

        Errors of hubhooks itself are logged, not raised, and so is a push of what is not a repository or not a tag.
        Raises `RuntimeError` outside of an app context. With `join_session`, it flushes the host's session, and raises
        the errors of that.
        """
        state = current_state()
        if not isinstance(push, ImagePush):
            logger.error("push not recorded: it is a %s, not an ImagePush", type(push).__qualname__)
        elif self._join_session:
            accept_in_session(state, push)
        else:
            accept(state, push)

    def repository_deleted(self, name: str) -> None:
        """Delete the webhooks of a repository that the host deletes, and cancel the repository's unfinished deliveries.

        The webhooks of its namespaces stay. `acme/*` deletes those of the namespace `acme`, and nothing else below it.

        It always writes in `db.session`, whatever `join_session` is, and is committed or rolled back with it. Call it
        last before your commit: until then that repository's deliveries are locked. In autocommit it commits at once.
        Calling it again changes nothing. Raises `ValueError` for an invalid name, and whatever the database raises.
        """
        with current_state().in_host_transaction() as session:
            repositories.delete(session, name)

    def repository_renamed(self, old: str, new: str) -> None:
        """Move a repository's webhooks, with their history, secrets and callback URLs, to its new name.

        Unfinished deliveries to the webhooks of a namespace that it leaves are cancelled. To rename a namespace, rename
        `acme/*` first, and then its repositories.

        It writes in `db.session` as `repository_deleted` does. If both names have webhooks, it raises
        `RepositoryHasWebhooks`, a `ValueError`, and changes nothing.
        """
        with current_state().in_host_transaction() as session:
            repositories.rename(session, old, new)

    def register(self, app: Flask, options: dict[str, Any]) -> None:  # type: ignore[override]
        """Register the blueprint on an app. Raises `ConfigError` for a config that cannot work."""
        config = Config.from_app(app.config)
        _check_database(app, self._db)
        if not self._join_session and _in_memory(app.config.get("SQLALCHEMY_DATABASE_URI")):
            raise ConfigError(
                "An in-memory SQLite database has only one connection, which the host and hubhooks would share. "
                "Use HubHooks(db, join_session=True) or a database file."
            )
        if unknown := [name for name, _ in config.source_tokens if name not in {*SOURCES, *self._handlers.sources}]:
            raise ConfigError(
                f"HUBHOOKS_SOURCE_TOKENS names {unknown[0]!r}, which is no source. The sources are "
                f"{', '.join([*SOURCES, *self._handlers.sources])}. Decorate a function of your own with "
                "@hubhooks.source(name) before you register the blueprint."
            )
        url_prefix = (options.get("url_prefix") or self.url_prefix or "").rstrip("/")
        if not urlsplit(config.external_url).path.endswith(url_prefix):
            logger.warning(
                "HUBHOOKS_EXTERNAL_URL does not end with the blueprint's url_prefix %s, so callbacks would not arrive. "
                "Set it to %s%s, unless a proxy adds the prefix.",
                url_prefix,
                config.external_url,
                url_prefix,
            )
        app.extensions["hubhooks"] = State(app, self._db, self._handlers, config, self._join_session, url_prefix)
        copy_tables(self._db.metadata)
        self._push_signal.connect(self._on_push)
        if self._push_signal is not image_pushed:
            image_pushed.connect(self._on_other_signal)
        repository_deleted.connect(self._on_repository_deleted)
        repository_renamed.connect(self._on_repository_renamed)
        super().register(app, options)

    def _on_push(self, sender: Any, **kwargs: Any) -> None:
        if not current_app:
            logger.error(
                "push not recorded: its signal was sent outside of an app context. Send it within "
                "`with app.app_context():`."
            )
            return
        if not self._concerns_current_app():
            return
        try:
            adapter = self._handlers.push_adapter
            push = adapter(sender, **kwargs) if adapter else self._push_of(kwargs)
        except Exception:
            logger.exception("push not recorded: its signal could not be read")
            return
        if push is not None:
            self.push(push)

    def _push_of(self, signalled: dict[str, Any]) -> ImagePush | None:
        """Make a push of a signal's keywords, without those that a push does not have."""
        if missing := [name for name in ("repository", "tag") if name not in signalled]:
            logger.error(
                "push not recorded: its signal has no %s, but %s. Give HubHooks a push_adapter for it.",
                " and no ".join(missing),
                ", ".join(signalled) or "nothing",
            )
            return None
        known = {each.name for each in fields(ImagePush)}
        if new := signalled.keys() - known - self._ignored_keywords:
            self._ignored_keywords |= new
            logger.warning(
                "a push signal has keywords that we do not know and ignore from now on: %s. We know %s.",
                ", ".join(sorted(new)),
                ", ".join(sorted(known)),
            )
        return ImagePush(**{name: value for name, value in signalled.items() if name in known})

    def _on_other_signal(self, _sender: Any, **_: Any) -> None:
        if not current_app or self._concerns_current_app():
            logger.error(
                "push not recorded: it was sent as flask_hubhooks.signals.image_pushed, but HubHooks was given another "
                "push_signal. Send that one, or register HubHooks without a push_signal."
            )

    def _on_repository_deleted(self, _sender: Any, *, repository: str) -> None:
        if self._concerns_current_app():
            self.repository_deleted(repository)

    def _on_repository_renamed(self, _sender: Any, *, old: str, new: str) -> None:
        if self._concerns_current_app():
            self.repository_renamed(old, new)

    def _concerns_current_app(self) -> bool:
        """Whether a signal is for this registration; raises `RuntimeError` outside of an app context."""
        state = current_app.extensions.get("hubhooks")
        return isinstance(state, State) and state.handlers is self._handlers


def _check_database(app: Flask, db: SQLAlchemy) -> None:
    """Raise `ConfigError` if there is no default database, or one that is not supported."""
    if app.extensions.get("sqlalchemy") is db:
        with app.app_context():
            urls = {key: engine.url for key, engine in db.engines.items()}
    else:  # it is set up later
        uri = app.config.get("SQLALCHEMY_DATABASE_URI")
        urls = {None: make_url(uri)} if uri else dict.fromkeys(app.config.get("SQLALCHEMY_BINDS") or ())
    if urls and None not in urls:
        raise ConfigError(
            "SQLALCHEMY_DATABASE_URI is not set. hubhooks keeps its tables in the default database and does not use "
            "SQLALCHEMY_BINDS."
        )
    if (url := urls.get(None)) and (name := url.get_backend_name()) not in ("postgresql", "sqlite"):
        raise ConfigError(f"SQLALCHEMY_DATABASE_URI names a {name} database. hubhooks supports PostgreSQL and SQLite.")


def _in_memory(uri: Any) -> bool:
    if not uri:
        return False
    url = make_url(uri)
    named = url.database not in (None, "", ":memory:", "file::memory:") and url.query.get("mode") != "memory"
    return url.get_backend_name() == "sqlite" and not named
