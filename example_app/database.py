"""The database, SQLite or PostgreSQL, ready for a web process and workers that start and write together."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event, text
from sqlalchemy.orm import DeclarativeBase

# What lets only one process at a time make the tables; the number is any that no other lock uses.
ALONE = {"postgresql": "SELECT pg_advisory_xact_lock(7236501)", "sqlite": "BEGIN IMMEDIATE"}


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


def create_tables() -> None:
    """Make the missing tables, the extension's too; of processes that start together one makes them."""
    with db.engine.begin() as connection:
        if lock := ALONE.get(connection.dialect.name):
            connection.execute(text(lock))
        db.metadata.create_all(connection)


def prepare_sqlite() -> None:
    """If the current app's database is SQLite, let it be read while written, and wait for a lock."""
    if db.engine.dialect.name == "sqlite":
        event.listen(db.engine, "connect", _set_pragmas)


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 10000")
    with suppress(sqlite3.OperationalError):  # "locked": another process is just doing it, for all of us
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()
