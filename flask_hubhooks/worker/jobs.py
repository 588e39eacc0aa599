"""The only RQ job. It has no arguments: the database knows what is due."""

from __future__ import annotations

import os
from functools import cache

from flask import Flask, current_app
from flask.cli import ScriptInfo

from ..state import State, current_state
from ..wakeups import forget_wake, wake
from .dispatcher import Dispatcher


def deliver_due() -> None:
    """Deliver all that is due. Jobs are enqueued under this function's name.

    A plain `rq worker` loads the app from FLASK_APP, once per process.
    """
    with _app().app_context():
        state = current_state()
        with state.redis_outage.watched():  # without Redis, deliveries are still sent
            forget_wake(state)
        if state not in dispatchers:
            dispatchers[state] = Dispatcher(state)
        if dispatchers[state].run():
            wake(state)  # for a free worker to continue


dispatchers: dict[State, Dispatcher] = {}
"""The dispatchers of this process, which keep their threads and connections from job to job."""


def _app() -> Flask:
    if current_app:
        return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]
    return _loaded_app()


@cache
def _loaded_app() -> Flask:
    return ScriptInfo(app_import_path=os.environ.get("FLASK_APP")).load_app()
