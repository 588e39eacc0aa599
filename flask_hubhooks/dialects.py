"""One interface to what SQLite and PostgreSQL do differently: times, the clock, locks and bulk inserts."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from typing import Any

import orjson
from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    DateTime,
    Dialect,
    Insert,
    Integer,
    Table,
    Text,
    TypeDecorator,
    Uuid,
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
from sqlalchemy.types import NULLTYPE, TypeEngine

DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, NoConnectionLeft)
"""SQLAlchemy's errors after which waiting may help: no connection, a lock, a standby that takes no writes yet."""

CONFLICT_TRIES = 3
"""How often a transaction is run that PostgreSQL ends so that others can continue."""


def is_conflict(fault: BaseException) -> bool:
    """Whether PostgreSQL ended this transaction so that others could continue: it can be run again.

    It was the victim of a deadlock (40P01) or could not be serialized (40001).
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
    """The database's clock plus a number of seconds, in milliseconds or finer; it advances within a transaction.

    `func.now()` will not do: it counts whole seconds on SQLite, and is the start of the transaction on PostgreSQL.
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
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')"


class _ArrayAsText(TypeDecorator[Sequence[Any]]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> str:
        return f"{{{','.join([each.hex if isinstance(each, uuid.UUID) else str(each) for each in value or ()])}}}"


def array_parameter(name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """A parameter for PostgreSQL that is a list of numbers or UUIDs of a type.

    It goes as text, since psycopg takes seven times as long for an array's elements.
    """
    return cast(bindparam(name, type_=_ArrayAsText()), ARRAY(type_))


class _OneOf(FunctionElement[Any]):
    type = NULLTYPE  # a boolean would be compared with 1 on SQLite, which then finds nothing by an index
    inherit_cache = True


def one_of(searched: ColumnElement[Any], parameter: str) -> ColumnElement[Any]:
    """Whether a column equals one of the values of a parameter, which is a list.

    PostgreSQL gets the list as one array. A statement with one place for each value would be another statement for each
    number of values, for SQLAlchemy, psycopg and PostgreSQL to read anew.
    """
    return _OneOf(searched, bindparam(parameter, expanding=True))


@compiles(_OneOf)
def _in(element: _OneOf, compiler: Any, **kwargs: Any) -> str:
    searched, values = element.clauses
    return str(compiler.process(searched.in_(values), **kwargs))


@compiles(_OneOf, "postgresql")
def _any(element: _OneOf, compiler: Any, **kwargs: Any) -> str:
    searched, values = element.clauses
    if isinstance(searched.type, (Integer, Uuid)):
        array = array_parameter(str(values.key), searched.type)
    else:
        array = bindparam(values.key, type_=ARRAY(searched.type))
    return str(compiler.process(searched == any_(array), **kwargs))


def set_up_worker(session: Session, idle_s: float, tables: Iterable[Table]) -> None:
    """Set up a worker's transaction on PostgreSQL.

    It ends after it has been idle for some seconds, which releases its locks: otherwise a machine that lost its power,
    or a suspended process, would keep its rows locked for two hours, until TCP gives up the connection.

    Its statements reuse their plans: PostgreSQL would otherwise plan each one anew, because its parameters are arrays,
    and that takes longer than claiming and recording a single delivery. But PostgreSQL keeps such a plan until it
    analyzes a table, and one that was made for ten rows reads all of ten thousand. So all plans are made anew when one
    of these tables has doubled or halved in size.
    """
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        return
    schema = connection.get_execution_options().get("schema_translate_map", {}).get(None)
    quote = connection.dialect.identifier_preparer.quote
    names = [".".join(quote(each) for each in (schema, table.name) if each) for table in tables]
    sizes = session.scalars(_SET_UP_WORKER, {"idle_ms": str(round(idle_s * 1000)), "names": names}).one()
    planned_for = connection.info.setdefault(_PLANNED_FOR, sizes)
    if any(not before / 2 <= now <= 2 * before for before, now in zip(planned_for, sizes, strict=True)):
        session.execute(text("DISCARD PLANS"))
        connection.info[_PLANNED_FOR] = sizes


_PLANNED_FOR = "hubhooks planned for"
"""In the `info` of a connection: the sizes of the tables, in bytes, when its plans were made."""
_SET_UP_WORKER = text(
    "SELECT ARRAY("
    "SELECT coalesce(pg_relation_size(to_regclass(name)), 0) FROM unnest(CAST(:names AS text[])) AS name), "
    "set_config('idle_in_transaction_session_timeout', :idle_ms, true), "
    "set_config('plan_cache_mode', 'force_generic_plan', true)"
)


def limit_statements(session: Session, seconds: float) -> None:
    """Have PostgreSQL end statements of the transaction that take longer, for example because they wait for a lock."""
    if session.get_bind().dialect.name == "postgresql":
        limit = text("SELECT set_config('statement_timeout', :ms, true)")
        session.execute(limit, {"ms": str(round(seconds * 1000))})


@contextmanager
def raising_locked() -> Iterator[None]:
    """Raise `Locked` if a statement with NOWAIT finds a row locked (55P03)."""
    try:
        yield
    except OperationalError as fault:
        if _sqlstate(fault) == "55P03":
            raise Locked from None
        raise


class Locked(Exception):
    """Another transaction has locked rows that this one needs. We do not wait for it: a host's may last long."""


def lock_repository(session: Session, repository: str) -> None:
    """Keep others from changing the webhooks of a repository or another scope until the commit.

    Raises `Locked` if it is locked already. SQLite has one writer at a time anyway.
    """
    if not try_lock_repository(session, repository):
        raise Locked


def try_lock_repository(session: Session, repository: str) -> bool:
    """Lock the repository as `lock_repository` does; returns whether that was possible."""
    return session.get_bind().dialect.name != "postgresql" or bool(
        session.scalar(text(f"SELECT pg_try_advisory_xact_lock({_LOCK_KEY})"), {"repository": repository})
    )


def wait_for_repository(session: Session, repository: str) -> None:
    """Lock the repository as `lock_repository` does, and wait until that is possible."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"), {"repository": repository})


def share_lock(session: Session, scope: str) -> None:
    """Keep others from locking a namespace or the registry as `lock_repository` does; others may share the lock."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({_LOCK_KEY})"), {"repository": scope})


_LOCK_KEY = "hashtextextended('hubhooks ' || :repository, 0)"


def insert_rows(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows that have the same columns.

    PostgreSQL gets them as one JSON parameter: for the attempts of a batch that saves both sides a tenth of all their
    work for a delivery. Raises `UnicodeError` if a text is not valid Unicode.
    """
    if session.get_bind().dialect.name == "postgresql":
        try:
            encoded = orjson.dumps(rows, default=_json_value).decode()
        except orjson.JSONEncodeError as error:  # a `TypeError`
            raise UnicodeError(str(error)) from None
        session.execute(_insert_json(table, tuple(rows[0])), {"rows": encoded})
    else:
        session.execute(table.insert(), rows)


@cache
def _insert_json(table: Table, names: tuple[str, ...]) -> Insert:
    given = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
    columns = given.table_valued(*(column(name, table.c[name].type) for name in names))
    return table.insert().from_select(names, select(columns.render_derived(with_types=True)))


def _json_value(value: object) -> str:
    """What orjson cannot encode, as PostgreSQL reads it."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    raise TypeError


def utcnow() -> datetime:
    """The time of this machine's clock, aware, in UTC."""
    return datetime.now(timezone.utc)


def time_ordered_uuid() -> uuid.UUID:
    """A version 7 UUID (RFC 9562): it begins with the milliseconds, so that new rows are close in an index."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def first_uuid(moment: datetime) -> uuid.UUID:
    """The UUID below all that `time_ordered_uuid` makes from a moment on, and above those it made before."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)
