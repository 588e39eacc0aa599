"""The pages under `/r/<repository>/webhooks/`: which route is answered by what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response
from marshmallow import Schema

from ...state import current_state
from ..pipeline import Handler, authorized, carried_out, query_arguments, read_query, refuse_foreign_origin, route
from ..problems import Problem
from ..schemas import ChainHistorySchema, DeliveryPageSchema, WebhooksPageSchema
from . import deliveries, webhooks
from .forms import EXPIRED, is_expired, read_form
from .rendering import problem_page, templates


def add_routes(blueprint: Blueprint) -> None:
    """Put the pages on the blueprint, and their templates."""
    blueprint.jinja_loader = templates()
    every = "/r/<path:repository>/webhooks/"
    one = every + "<int:webhook_id>/"
    delivery = one + "history/<uuid:delivery_id>/"

    def add(rule: str, name: str, **handlers: Handler) -> None:
        route(blueprint, rule, f"pages_{name}", problem_page, **handlers)

    add(
        every,
        "webhooks",
        GET=shows(webhooks.show_all, WebhooksPageSchema()),
        POST=submits(webhooks.create, expired=webhooks.create_expired),
    )
    add(
        one,
        "edit",
        GET=shows(webhooks.show_form, action="write"),
        POST=submits(webhooks.edit, expired=webhooks.edit_expired),
    )
    add(one + "pause/", "pause", POST=submits(webhooks.pause))
    add(one + "resume/", "resume", POST=submits(webhooks.resume))
    add(one + "test/", "test", POST=submits(deliveries.send_test))
    add(
        one + "rotate-secret/",
        "rotate_secret",
        GET=shows(webhooks.confirm_rotation, action="write"),
        POST=submits(webhooks.rotate_secret),
    )
    add(
        one + "delete/",
        "delete",
        GET=shows(webhooks.confirm_delete, action="write"),
        POST=submits(webhooks.delete),
    )
    add(one + "history/", "history", GET=shows(deliveries.show_history, ChainHistorySchema()))
    add(delivery, "delivery", GET=shows(deliveries.show, DeliveryPageSchema()))
    add(delivery + "redeliver/", "redeliver", POST=submits(deliveries.redeliver))


def shows(function: Callable[..., Response], query: Schema | None = None, action: str = "read") -> Handler:
    """The handler of a page: `function` is called with a `Call`, and the query where it takes one."""

    def answer(repository: str, **ids: Any) -> Response:
        query_arguments()
        call = authorized(action, repository)
        return carried_out(function, call, *([read_query(query)] if query else []), **ids)

    return Handler(answer, query=query, access=action)


def submits(function: Callable[..., Response], *, expired: Callable[..., Response] | None = None) -> Handler:
    """The handler of a form: `function` is called with a `Call` and what was sent.

    For a form without the token of the visitor's session `expired` is, which shows what was typed again.
    """

    def answer(repository: str, **ids: Any) -> Response:
        refuse_foreign_origin(current_state())
        query_arguments()
        call = authorized("write", repository)
        form = read_form()
        return carried_out(_unless_expired(form, function, expired), call, form, **ids)

    return Handler(answer, access="write")


def _unless_expired(
    form: Any, function: Callable[..., Response], expired: Callable[..., Response] | None
) -> Callable[..., Response]:
    if not is_expired(form):
        return function
    if expired is None:
        raise Problem(400, EXPIRED)
    return expired
