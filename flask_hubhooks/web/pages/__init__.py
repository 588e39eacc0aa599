"""The routes of the pages under `/r/<repository>/webhooks/`.

A repository's name is everything up to the last segment `webhooks`. The pages of a namespace are at its pattern, such
as `/r/acme/*/webhooks/`, and those of the registry at `/r/*/webhooks/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, make_response, redirect, url_for
from marshmallow import Schema
from werkzeug.routing import BaseConverter

from ...state import current_state
from ..authorization import authorized, refuse_foreign_origin
from ..endpoints import View, add_route, query_arguments, read_query, run_with_retries
from ..problems import Problem
from ..schemas import DeliveryPageSchema, HistoryPageSchema, RecoverPageSchema, WebhooksPageSchema
from . import deliveries, webhooks
from .forms import EXPIRED, is_expired, read_form
from .rendering import problem_page, templates


def add_routes(blueprint: Blueprint) -> None:
    """Put the pages and their templates on the blueprint."""
    blueprint.jinja_loader = templates()
    every = "/r/<path:repository>/webhooks/"
    one = every + "<int:webhook_id>/"
    delivery = one + "history/<uuid:delivery_id>/"

    def add(rule: str, name: str, **views: View) -> None:
        add_route(blueprint, rule, f"pages_{name}", views, answer_problem=problem_page)

    add(
        every,
        "webhooks",
        GET=shows(webhooks.show_all, WebhooksPageSchema()),
        POST=submits(webhooks.create, expired=True),
    )
    add(
        one,
        "edit",
        GET=shows(webhooks.show_form, action="write"),
        POST=submits(webhooks.edit, expired=True),
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
    add(
        one + "recover/",
        "recover",
        GET=shows(deliveries.show_recovery, RecoverPageSchema(), action="write"),
        POST=submits(deliveries.recover),
    )
    add(one + "history/", "history", GET=shows(deliveries.show_history, HistoryPageSchema()))
    blueprint.record(lambda setup: setup.app.url_map.converters.update(hubhooks_repository=_RepositoryPage))
    blueprint.add_url_rule("/<hubhooks_repository:repository>", "pages_repository", _see_webhooks, strict_slashes=False)
    add(delivery, "delivery", GET=shows(deliveries.show, DeliveryPageSchema()))
    add(delivery + "pin/", "pin", POST=submits(deliveries.pin_key))
    add(delivery + "redeliver/", "redeliver", POST=submits(deliveries.redeliver))
    add(delivery + "decide/", "decide", POST=submits(deliveries.decide))


class _RepositoryPage(BaseConverter):
    """The default `repo_url` of a repository, `/r/<repository>/`, which may be a page of the host's.

    Werkzeug tries static parts of a rule first, then converters with less weight. So this is all one part, and every
    rule of the host's that fits comes before it, whether it is registered earlier or later.
    """

    regex = "r/[^/].*"
    weight = 1_000_000

    def to_python(self, value: str) -> str:
        return value.removeprefix("r/").rstrip("/")

    def to_url(self, value: str) -> str:
        return f"r/{super().to_url(value)}/"


def _see_webhooks(repository: str) -> Response:
    """Redirect to the webhooks of a repository. They ask the authorizer; the host may have a page here one day."""
    response = make_response(redirect(url_for(".pages_webhooks", repository=repository)))
    response.headers["Cache-Control"] = "no-store"
    return response


def shows(function: Callable[..., Response], query: Schema | None = None, action: str = "read") -> View:
    """The view of a page: `function` is called with a `Call`, the query if it takes one, and the ids in the URL."""

    def answer(repository: str, **ids: Any) -> Response:
        query_arguments()
        call = authorized(action, repository)
        given = [read_query(query)] if query else []
        return run_with_retries(lambda: function(call, *given, **ids))

    return answer


def submits(function: Callable[..., Response], *, expired: bool = False) -> View:
    """The view of a form: `function` is called with a `Call`, what was sent, and the ids in the URL.

    A form that lacks the CSRF token of the visitor's session is refused, unless the function takes `expired` forms:
    then it shows the form again, with what was typed.
    """

    def answer(repository: str, **ids: Any) -> Response:
        refuse_foreign_origin(current_state())
        query_arguments()
        call = authorized("write", repository)
        form = read_form()
        if is_expired(form) and not expired:
            raise Problem(400, EXPIRED)
        return run_with_retries(lambda: function(call, form, **ids))

    return answer
