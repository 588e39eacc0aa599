"""What SQLite and PostgreSQL do differently, made the same: times, the clock, locks and bulk inserts."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    DateTime,
    Dialect,
    Insert,
    Table,
    Text,
    TypeDecorator,
    any_,
    bindparam,
    cast,
    column,
    func,
    select,
    text,
)
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NULLTYPE

DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, NoConnectionLeft)
"""What SQLAlchemy raises where waiting may help: no connection, a lock, a standby that takes no writes yet."""


CONFLICT_TRIES = 3
"""How often a transaction is run that PostgreSQL ends for the sake of others."""


def is_conflict(fault: BaseException) -> bool:
    """Tell whether PostgreSQL ended this transaction so that others could go on: running it again will do.

    That is the victim of a deadlock (40P01), or one that cannot be serialized (40001).
    """
    return _sqlstate(fault) in ("40P01", "40001")


def _sqlstate(fault: BaseException) -> str | None:
    cause = getattr(fault, "orig", None)
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # psycopg, psycopg2


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite, which has no time zones, stores it as naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(timezone.utc)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


class now_plus(FunctionElement[datetime]):  # noqa: N801 RUF100 - reads as the SQL function it is
    """The database's clock plus a number of seconds; it moves on within a transaction, in milliseconds or finer.

    `func.now()` will not do: on SQLite it counts whole seconds, on PostgreSQL it is when the transaction began.
    """

    type = UTCDateTime()
    inherit_cache = True


@compiles(now_plus, "postgresql")
def _postgresql(element: now_plus, compiler: Any, **kwargs: Any) -> str:
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kwargs)}))"


@compiles(now_plus, "sqlite")
def _sqlite(element: now_plus, compiler: Any, **kwargs: Any) -> str:
    # SQLAlchemy stores six digits of a second, SQLite's clock gives three.
    seconds = compiler.process(element.clauses, **kwargs)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {seconds} || ' seconds')"


class among(FunctionElement[Any]):  # noqa: N801 RUF100 - reads as the SQL operator it is
    """Whether a column is among the values of a parameter: `among(column, bindparam("ids", expanding=True))`.

    PostgreSQL takes them as one array: a statement with a place for each would be another one for each number of
    them, which SQLAlchemy, psycopg and PostgreSQL all have to read through anew.
    """

    type = NULLTYPE  # a boolean would be compared with 1 on SQLite, which then finds nothing by an index
    inherit_cache = True


@compiles(among)
def _in(element: among, compiler: Any, **kwargs: Any) -> str:
    searched, values = element.clauses
    return str(compiler.process(searched.in_(values), **kwargs))


@compiles(among, "postgresql")
def _any(element: among, compiler: Any, **kwargs: Any) -> str:
    searched, values = element.clauses
    array = bindparam(values.key, type_=ARRAY(searched.type))
    return str(compiler.process(searched == any_(array), **kwargs))


def limit_idling(session: Session, seconds: float) -> None:
    """Have PostgreSQL end the transaction where nothing more is heard of it for so long, and let go what it locked.

    A machine that lost its power, or a process that was suspended, would otherwise keep its rows from everybody until
    TCP gives the connection up, which takes two hours.
    """
    if session.get_bind().dialect.name == "postgresql":
        limit = text("SELECT set_config('idle_in_transaction_session_timeout', :ms, true)")
        session.execute(limit, {"ms": str(round(seconds * 1000))})


@contextmanager
def not_waiting() -> Iterator[None]:
    """Raise `Locked` where a statement with NOWAIT finds a row locked (55P03)."""
    try:
        yield
    except OperationalError as fault:
        if _sqlstate(fault) == "55P03":
            raise Locked from None
        raise


class Locked(Exception):
    """Another transaction has locked what this one needs; a host's may last long, so waiting takes no connection."""


def lock_repository(session: Session, repository: str) -> None:
    """Keep others from changing the repository's webhooks until the commit; raises `Locked` if somebody else does so.

    On SQLite there is one writer at a time anyway.
    """
    if not try_lock_repository(session, repository):
        raise Locked


def try_lock_repository(session: Session, repository: str) -> bool:
    """Lock the repository as `lock_repository` does, and return whether it could be locked."""
    return session.get_bind().dialect.name != "postgresql" or bool(
        session.scalar(text(f"SELECT pg_try_advisory_xact_lock({_LOCK_KEY})"), {"repository": repository})
    )


def wait_for_repository(session: Session, repository: str) -> None:
    """Lock the repository as `lock_repository` does, and wait until it can be locked."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"), {"repository": repository})


_LOCK_KEY = "hashtextextended('hubhooks ' || :repository, 0)"


def insert_rows(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows that have the same columns.

    PostgreSQL takes them as one JSON parameter of one statement: for the attempts of a batch that spares both
    sides a tenth of all their work for a delivery.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_insert_json(table, tuple(rows[0])), {"rows": json.dumps(rows, default=_json_value)})
    else:
        session.execute(table.insert(), rows)


@cache
def _insert_json(table: Table, names: tuple[str, ...]) -> Insert:
    given = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
    columns = given.table_valued(*(column(name, table.c[name].type) for name in names))
    return table.insert().from_select(names, select(columns.render_derived(with_types=True)))


def _json_value(value: object) -> str:
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def utcnow() -> datetime:
    """This machine's time, aware, in UTC."""
    return datetime.now(timezone.utc)


def time_ordered_uuid() -> uuid.UUID:
    """A version 7 UUID (RFC 9562): milliseconds first, so that new rows sit together in an index."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def first_uuid(moment: datetime) -> uuid.UUID:
    """One that is less than all that `time_ordered_uuid` makes from then on, and greater than those before."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)
