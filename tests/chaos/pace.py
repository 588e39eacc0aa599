"""The engine's waits, shortened: this is the only place that reaches into it."""

from __future__ import annotations

import sys
from types import ModuleType

from sqlalchemy import BindParameter, ClauseElement, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.visitors import iterate

from flask_hubhooks.records import request_headers
from flask_hubhooks.records.models import hooks
from flask_hubhooks.state import State
from flask_hubhooks.worker import breaker, claims, dispatcher, retry, tag_order
from flask_hubhooks.worker import process as worker

DEADLINE_S = 3
MAX_WAIT_S = 2.0
LEASE_MARGIN_S = 6.0
"""What this is longer than the wait is for writing: the machine is not quicker than at other times."""
LEASE_S = DEADLINE_S + LEASE_MARGIN_S
LEASE_LEFT_S = LEASE_S - MAX_WAIT_S
"""How long nobody else sends a delivery, at least, after its POST has begun."""
SCHEDULE_S = (1, 1, 2, 2, 3, 3, 3, 3, 3)
OUTRANKED_S = 2.0
OPEN_S = (0.5, 1.0, 2.0)
BACK_OFF_S = (0.1, 0.2, 0.5)
LINGER_S = 0.5
"""Shorter than the retries, as in earnest: nobody but the beat finds what is due once it is quiet."""


def quicken(name: str) -> None:
    """Shorten all that in this process, and have its requests name the worker that sends them.

    Raises `AssertionError` where the engine has not got it, or has it in another place as well.
    """
    _shorten_leases()
    _replace(claims, "LEASE_MARGIN_S", LEASE_MARGIN_S)
    _replace(dispatcher, "MAX_WAIT_S", MAX_WAIT_S)
    _replace(dispatcher, "BACK_OFF_S", BACK_OFF_S)
    _replace(request_headers, "USER_AGENT", name)
    _replace(retry, "SCHEDULE_S", SCHEDULE_S)
    _replace(tag_order, "OUTRANKED_S", OUTRANKED_S)
    _replace(breaker, "OPEN_S", OPEN_S)
    _replace(worker, "LINGER_S", LINGER_S)


def _replace(module: ModuleType, name: str, value: object) -> None:
    has_it = [each for key, each in sys.modules.items() if key.startswith("flask_hubhooks") and hasattr(each, name)]
    assert has_it == [module], f"{name} is in {[each.__name__ for each in has_it]}, not in {module.__name__} alone"
    assert type(getattr(module, name)) is type(value), name
    setattr(module, name, value)


def _shorten_leases() -> None:
    """Statements are built when their module is imported, with the lease in them."""
    for statement in (claims._TAKE_OF_ONE, claims._TAKE_OF_MANY):
        assert isinstance(statement, ClauseElement)
        for part in iterate(statement):
            if isinstance(part, BindParameter) and part.value == claims.LEASE_MARGIN_S:
                part.value = LEASE_MARGIN_S
        taken = statement.compile(dialect=postgresql.dialect()).params.values()  # type: ignore[no-untyped-call]
        assert LEASE_MARGIN_S in taken and 45.0 not in taken, "the lease of claims was not shortened"


def shorten_timeouts(state: State) -> None:
    """Give all hooks less time than owners can."""
    with state.writing() as session:
        session.execute(update(hooks).values(timeout_s=DEADLINE_S))
