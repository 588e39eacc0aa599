"""What a worker needs to work at all: the tables in the database, and Redis."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from itertools import chain, repeat

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from sqlalchemy import inspect

from ..dialects import DATABASE_AWAY
from ..outages import Outage, in_one_line
from ..records.models import Base
from ..state import State

WAITS_S = (0.5, 1.0, 2.0, 5.0)
"""Between tries to reach a server; the last is repeated."""

# PostgreSQL's driver tells of a connection that was refused in words alone. In another language, we wait.
_REFUSED = re.compile(r"authentication failed|(database|role) \".*\" does not exist|no pg_hba.conf entry|no password")


class CannotWork(Exception):
    """There is no use in waiting; the text says what is wrong."""


def await_servers(state: State, *, patient: bool = True) -> None:
    """Before anything else, wait until the database has all tables and Redis answers.

    A server that is not there yet, or starting, is waited for, unless not `patient`. Raises `CannotWork` where a
    server refuses us, as by a wrong password or database, or where a table or column is missing.
    """
    hopeless = _refused if patient else lambda fault: True
    _await(state.database_outage, lambda: _check_tables(state), hopeless)
    _await(state.redis_outage, state.redis.ping, hopeless)


def await_redis(state: State) -> None:
    """Wait until Redis, which has answered before, does so again, whatever it says meanwhile."""
    _await(state.redis_outage, state.redis.ping, lambda fault: False)


def _await(outage: Outage, check: Callable[[], object], hopeless: Callable[[Exception], bool]) -> None:
    for wait_s in chain(WAITS_S, repeat(WAITS_S[-1])):
        try:
            check()
            return outage.over()
        except outage.faults as fault:
            if hopeless(fault):
                raise CannotWork(f"{outage.server} cannot be used: {in_one_line(fault)}") from None
            outage.noticed(fault)
        time.sleep(wait_s)


def _refused(fault: Exception) -> bool:
    """Whether it is no use to wait: the server is there, and does not want us or what we ask for."""
    if isinstance(fault, RedisError | OSError):
        return isinstance(fault, AuthenticationError | ResponseError | FileNotFoundError | PermissionError)
    if isinstance(getattr(fault, "orig", None), sqlite3.Error):  # a file, which nobody starts
        return "locked" not in str(fault)
    return not isinstance(fault, DATABASE_AWAY) or bool(_REFUSED.search(str(fault)))


def _check_tables(state: State) -> None:
    found, schema = inspect(state.engine), state.db.metadata.schema
    for table in Base.metadata.sorted_tables:
        is_there = found.has_table(table.name, schema)
        there = {each["name"] for each in found.get_columns(table.name, schema)} if is_there else set()
        for column in table.columns:
            if column.name not in there:
                missing = f"the column {table.name}.{column.name}" if there else f"the table {table.name}"
                raise CannotWork(f"the database lacks {missing}: run your migrations, or db.create_all()")
