"""The callback URL, to which receivers post the outcome of a delivery."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from ..announce import announce
from ..crypto.callback_tokens import BadToken
from ..records.callbacks import CallbackRefused, decide, lock_called_back
from ..state import current_state
from ..wakeups import wake
from .documents import CallbackTakenDocument
from .endpoints import Endpoint, parse_json, read_body
from .problems import Problem
from .schemas import CallbackSchema

_CALLBACK = CallbackSchema()


@dataclass(frozen=True)
class CallbackTaken:
    delivery: uuid.UUID
    state: str


@Endpoint(
    "POST",
    "/u/<path:repository>/hook/<token>/",
    summary="Report the outcome of a delivery; any Content-Type is accepted",
    tag="callbacks",
    body=_CALLBACK,
    returns=CallbackTakenDocument(),
    problems=(404, 409, 410, 503),
    usage="This is the callback URL of a delivery, which was left as it is. The receiver reports its result here: it "
    'POSTs JSON such as {"state": "success"}.',
)
def post_callback(repository: str, token: str) -> CallbackTaken:
    """Accept a callback, whatever its Content-Type. The token in the URL authorizes it.

    The repository in the URL is ignored, since it may have been renamed.
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
            raise Problem(refused.status_code, f"Nothing was changed. {refused}") from None
    if changes.more_due:
        wake(state)
    announce(state, changes)
    return CallbackTaken(delivery_id, callback.state)


def _unknown() -> Problem:
    return Problem(404, "Unknown callback URL. Post to the payload's callback_url unchanged.")
