"""Connections of our own, opened in the same way as the host's.

When a push or a request for us arrives, the host's session often holds a connection of the host's pool. If our own
transaction waited for a second one, a few threads would be enough to exhaust the pool and wait for each other until
`pool_timeout`. So our transactions have a small pool of their own. Loaders that run for a push have another one: a slow
loader keeps other loaders waiting, but no transaction of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import NullPool, Pool, QueuePool, SingletonThreadPool, StaticPool

POOL_SIZE = 2
"""Connections per pool and process. A worker needs two; each web request holds one for some milliseconds."""
OWN_WAIT_S, LOADER_WAIT_S = 30.0, 5.0
"""How long our transactions and loaders wait for a connection. Without a loader a push lacks its details."""
SOURCE_WAIT_S = 0.3
"""How long a source waits for a connection, and for each statement: a registry wants its answer within a second."""

ISOLATION_LEVEL: Final = "READ COMMITTED"
"""The isolation level of our own transactions on PostgreSQL, whatever level the host uses: they lock the rows that they
depend on."""


class _OwnEngine(OptionEngine):
    """The host's engine with its dialect and listeners, but with another pool."""

    if not TYPE_CHECKING:
        pool = None  # replaces the property that returns the host's pool


def own_engine(host: Engine) -> Engine:
    """Return the engine for our own transactions. Its errors do not show parameters, which may be secret."""
    return _transaction_engine(host, OWN_WAIT_S)


def source_engine(host: Engine) -> Engine:
    """Return the engine for the pushes of sources. It waits neither for others' locks nor for a busy database."""
    engine = _transaction_engine(host, SOURCE_WAIT_S)
    if engine.pool is not host.pool:
        setting = "SET LOCAL statement_timeout" if host.dialect.name == "postgresql" else "PRAGMA busy_timeout"

        @event.listens_for(engine, "begin")
        def limit_waiting(connection: Connection) -> None:
            connection.exec_driver_sql(f"{setting} = {round(SOURCE_WAIT_S * 1000)}")

    return engine


def _transaction_engine(host: Engine, wait_s: float) -> Engine:
    engine = _engine_beside(host, wait_s)
    engine.hide_parameters = True
    if host.dialect.name == "postgresql":

        @event.listens_for(engine, "begin")  # the host's execution options set their level when a connection is taken
        def begins(connection: Connection) -> None:
            if driver := connection.connection.dbapi_connection:
                host.dialect.set_isolation_level(driver, ISOLATION_LEVEL)

    return engine


def loader_engine(host: Engine) -> Engine:
    """Return the engine for loaders that run for a push, at the host's isolation level."""
    return _engine_beside(host, LOADER_WAIT_S)


def _engine_beside(host: Engine, wait_s: float) -> Engine:
    """Return an engine that connects as `host` does, but has its own pool; listeners on `host` get its events too.

    Its connections are closed when `host` is disposed of. A pool with a single connection, as an in-memory SQLite
    database needs, is shared with the host.
    """
    if isinstance(host.pool, StaticPool | SingletonThreadPool):
        return OptionEngine(host, {})  # uses the host's present pool: disposing replaces it
    engine = _OwnEngine(host, {})
    engine.pool = _own_pool(host.pool, wait_s)

    @event.listens_for(host, "engine_disposed")
    def dispose(disposed: Engine) -> None:
        if disposed is host:  # and not our engine, whose events come here too
            engine.pool.dispose()
            engine.pool = _own_pool(host.pool, wait_s)

    return engine


def _own_pool(pool: Pool, wait_s: float) -> Pool:
    """Return a pool that opens, checks and resets connections as `pool` does."""
    alike: dict[str, Any] = {
        "recycle": pool._recycle,
        "pre_ping": pool._pre_ping,
        "reset_on_return": pool._reset_on_return,
        "dialect": pool._dialect,
    }
    own: Pool
    if isinstance(pool, NullPool):
        own = NullPool(pool._creator, **alike)
    else:
        own = QueuePool(pool._creator, pool_size=POOL_SIZE, max_overflow=0, timeout=wait_s, **alike)
    own.dispatch = pool.dispatch  # the same object, so that listeners which the host adds later get our events
    return own
