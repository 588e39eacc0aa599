"""Connections of our own, opened as the host opens its connections.

A push or a request of ours arrives while the host's session often holds a connection of the host's pool. If our own
transaction then waited for a second one, a few threads would be enough to exhaust the pool and wait for each other
until `pool_timeout`. So our transactions have a small pool of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import NullPool, Pool, QueuePool, SingletonThreadPool, StaticPool

POOL_SIZE = 2
"""Connections per process. A worker needs two; each web request holds one for some milliseconds."""

ISOLATION_LEVEL: Final = "READ COMMITTED"
"""Of our own transactions on PostgreSQL, whatever the host uses. They lock the rows that they depend on."""


class _OwnEngine(OptionEngine):
    """The host's engine, with its dialect and its listeners, but with another pool."""

    if not TYPE_CHECKING:
        pool = None  # replaces the property that returns the host's pool


def own_engine(host: Engine) -> Engine:
    """Return an engine that connects as `host` does, from a pool of its own; listeners on `host` hear it as well.

    Its connections are closed when `host` is disposed of. Its errors do not show parameters, which may be secret. A
    pool that consists of a single connection, as an in-memory SQLite database needs, is shared with the host.
    """
    engine = _OwnEngine(host, {})
    engine.hide_parameters = True
    engine.pool = host.pool if isinstance(host.pool, StaticPool | SingletonThreadPool) else _own_pool(host.pool)
    if host.dialect.name == "postgresql":

        @event.listens_for(engine.pool, "connect")
        def connected(connection: Any, _: object) -> None:
            host.dialect.set_isolation_level(connection, ISOLATION_LEVEL)

        if "isolation_level" in host.get_execution_options():  # which is set on each connection that is taken

            @event.listens_for(engine, "begin")
            def begins(connection: Connection) -> None:
                connected(connection.connection.dbapi_connection, None)

    @event.listens_for(host, "engine_disposed")
    def dispose(disposed: Engine) -> None:
        if disposed is host:  # the event of our engine comes here as well
            engine.dispose()

    return engine


def _own_pool(pool: Pool) -> Pool:
    """A pool that opens, checks and resets its connections as `pool` does, listeners included."""
    alike: dict[str, Any] = {
        "recycle": pool._recycle,
        "pre_ping": pool._pre_ping,
        "reset_on_return": pool._reset_on_return,
        "dialect": pool._dialect,
        "_dispatch": pool.dispatch,
    }
    if isinstance(pool, NullPool):
        return NullPool(pool._creator, **alike)
    return QueuePool(pool._creator, pool_size=POOL_SIZE, max_overflow=0, **alike)
