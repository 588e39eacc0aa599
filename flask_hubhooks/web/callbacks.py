"""Where receivers post what became of a delivery: `POST /u/<repository>/hook/<token>/`."""

from __future__ import annotations

from functools import partial

from flask import Blueprint, Response

from ..announce import announce
from ..crypto.callback_tokens import BadToken
from ..records.callbacks import CallbackRefused, decide, lock_called_back
from ..state import current_state
from ..wakeups import wake
from .pipeline import Handler, Route, carried_out, json_response, parse_json, read_body, route
from .problems import Problem
from .schemas import CallbackSchema

_CALLBACK = CallbackSchema()


def add_routes(blueprint: Blueprint) -> list[Route]:
    post = Handler(partial(carried_out, post_callback), body=_CALLBACK)
    return [route(blueprint, "/u/<path:repository>/hook/<token>/", "callback", POST=post)]


def post_callback(repository: str, token: str) -> Response:
    """Take a callback, whatever its Content-Type says; the token in the URL is all the authority it needs.

    The repository in the URL does not count: it may have another name by now.
    """
    state = current_state()
    try:
        delivery_id, round_ = state.tokens.read(token)
    except BadToken:
        raise _unknown() from None
    callback = parse_json(read_body(), _CALLBACK)
    with state.writing() as session:
        delivery = lock_called_back(session, delivery_id)
        if delivery is None:
            raise _unknown()
        try:
            changes = decide(session, delivery, round_, callback)
        except CallbackRefused as refused:
            raise Problem(refused.status_code, f"Nothing was changed: {refused}.") from None
    if changes.more_due:
        wake(state)
    announce(state, changes)
    return json_response({"delivery": str(delivery_id), "state": callback.state})


def _unknown() -> Problem:
    return Problem(404, "There is no such callback URL: post to the callback_url of the payload as it is.")
