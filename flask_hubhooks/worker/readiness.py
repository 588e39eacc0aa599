"""Waits for what a worker needs: the tables in the database, the keys for their secrets, and Redis."""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Callable
from itertools import chain, repeat

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from sqlalchemy import inspect, select
from sqlalchemy.orm import selectinload

from ..crypto.secret_box import SecretUnreadable
from ..dialects import DATABASE_AWAY
from ..outages import Outage, in_one_line
from ..records.models import Base, Webhook
from ..records.webhooks import warn_if_unreachable
from ..state import State

logger = logging.getLogger(__name__)

NEWEST = 100
"""How many of the newest webhooks are looked at when a worker starts."""
RETRY_DELAYS_S = (0.5, 1.0, 2.0, 5.0)
"""Between tries to reach a server; the last one repeats."""

# psycopg reports a refused connection only in words. In another language than English, we keep waiting.
_REFUSED = re.compile(r"authentication failed|(database|role) \".*\" does not exist|no pg_hba.conf entry|no password")


class CannotWork(Exception):
    """Waiting does not help; the text says what is wrong."""


def await_servers(state: State, *, patient: bool = True) -> None:
    """Wait until the database has all tables and Redis answers, before anything else.

    Raises `CannotWork` if a server refuses us, for example because of a wrong password, if a table or column is
    missing, or if we lack the keys; also if a server is down, unless `patient`.
    """
    hopeless = _refused if patient else lambda fault: True
    _await(state.database_outage, lambda: check_tables(state), hopeless)
    _await(state.database_outage, lambda: _check_webhooks(state), hopeless)
    _await(state.redis_outage, state.redis.ping, hopeless)


def await_redis(state: State) -> None:
    """Wait until a Redis that has answered before answers again, whatever errors it raises meanwhile."""
    _await(state.redis_outage, state.redis.ping, lambda fault: False)


def _await(outage: Outage, check: Callable[[], object], hopeless: Callable[[Exception], bool]) -> None:
    for delay_s in chain(RETRY_DELAYS_S, repeat(RETRY_DELAYS_S[-1])):
        try:
            check()
            return outage.over()
        except outage.faults as fault:
            if hopeless(fault):
                raise CannotWork(f"Cannot use {outage.server}: {in_one_line(fault)}") from None
            outage.noticed(fault)
        time.sleep(delay_s)


def _refused(fault: Exception) -> bool:
    """Return whether the server is up and refuses us, so that waiting does not help."""
    if isinstance(fault, RedisError | OSError):
        return isinstance(fault, AuthenticationError | ResponseError | FileNotFoundError | PermissionError)
    if isinstance(getattr(fault, "orig", None), sqlite3.Error):  # a file cannot come up later, unlike a server
        return "locked" not in str(fault)
    return not isinstance(fault, DATABASE_AWAY) or bool(_REFUSED.search(str(fault)))


def check_tables(state: State) -> None:
    """Raise `CannotWork` if the database lacks one of our tables or columns."""
    found, schema = inspect(state.engine), state.db.metadata.schema
    for table in Base.metadata.sorted_tables:
        exists = found.has_table(table.name, schema)
        existing = {each["name"] for each in found.get_columns(table.name, schema)} if exists else set()
        for column in table.columns:
            if column.name not in existing:
                missing = f"column {table.name}.{column.name}" if existing else f"table {table.name}"
                raise CannotWork(f"The database lacks the {missing}. Run your migrations, or db.create_all().")


def _check_webhooks(state: State) -> None:
    """Look at the newest webhooks: can our keys decrypt their secrets, and can callbacks arrive?

    Raises `CannotWork` if the keys can decrypt none of them.
    """
    newest = select(Webhook).where(Webhook.deleted_id == 0).order_by(Webhook.id.desc()).limit(NEWEST)
    with state.reading() as session:
        webhooks = session.scalars(newest.options(selectinload(Webhook.hooks))).all()
    for each in webhooks:
        if warn_if_unreachable(state.config.external_url, each):
            break  # one warning is enough
    unreadable = [each for each in webhooks if not _is_readable(state, each)]
    if not unreadable:
        return
    hint = "Check SECRET_KEY, SECRET_KEY_FALLBACKS and HUBHOOKS_ENCRYPTION_KEYS."
    if len(unreadable) == len(webhooks):
        raise CannotWork(f"The webhooks' secrets cannot be decrypted. {hint}")
    logger.warning(
        "the secrets of %d of the newest %d webhooks cannot be decrypted, so their deliveries are held. %s",
        len(unreadable),
        len(webhooks),
        hint,
    )


def _is_readable(state: State, webhook: Webhook) -> bool:
    try:
        state.secrets.decrypt(webhook.encrypted_secret)
    except SecretUnreadable:
        return False
    return True
