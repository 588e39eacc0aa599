"""Renders the templates of the pages."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from flask import Response, current_app, make_response, redirect, render_template, request, url_for
from flask_wtf.csrf import generate_csrf
from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, TemplateNotFound
from markupsafe import Markup

from ...dialects import utcnow
from ...records.scopes import is_pattern
from ...state import State, current_state
from ..authorization import Call
from ..problems import Problem
from . import words
from .translation import direction, language, ngettext
from .translation import gettext as _

logger = logging.getLogger(__name__)

OUR_LAYOUT = "hubhooks/layout.html"
FOLDER = Path(__file__).parent.parent.parent / "templates"
USUAL_SYNTAX: dict[str, Any] = {
    "block_start_string": "{%",
    "block_end_string": "%}",
    "variable_start_string": "{{",
    "variable_end_string": "}}",
    "comment_start_string": "{#",
    "comment_end_string": "#}",
    "line_statement_prefix": None,
    "line_comment_prefix": None,
    "trim_blocks": False,
    "lstrip_blocks": False,
}
REPEATABLE = (400, 409, 412, 413, 429, 503)
"""Statuses after which the visitor can go back and try again."""


def templates() -> BaseLoader:
    """Load our templates. A host may override them, and extend ours as `!hubhooks/page.html`."""
    return ChoiceLoader([FileSystemLoader(FOLDER), PrefixLoader({"!hubhooks": FileSystemLoader(FOLDER / "hubhooks")})])


@lru_cache(maxsize=16)
def _environment(hosts: Environment) -> Environment:
    """Return the host's Jinja environment, in which our own templates use Jinja's default delimiters.

    The host's files use the host's delimiters, even if they override ours.
    """
    environment = hosts.overlay()
    ours = hosts.overlay(**USUAL_SYNTAX)

    def compiled(source: Any, name: str | None = None, filename: str | None = None, *options: Any) -> Any:
        is_ours = filename is not None and Path(filename).is_relative_to(FOLDER)
        return (ours if is_ours else hosts).compile(source, name, filename, *options)

    environment.compile = compiled  # type: ignore[assignment,method-assign]
    return environment


def page(call: Call, template: str, status: int = 200, **context: Any) -> Response:
    """Render a page for a visitor who may read the repository's webhooks."""
    known = {
        "repository": call.scope,
        "is_pattern": is_pattern(call.scope),
        "repository_url": call.details["repo_url"],
        "may_write": call.viewer.may_write,
        "notice": words.notice(request.args.get("notice", "")),
        "csrf_token": generate_csrf,
    }
    return _rendered(template, status, **known, **context)


def problem_page(problem: Problem) -> Response:
    """Render an error in the layout of the other pages."""
    title = words.problem(problem.status)
    known = {"problem": problem, "title": title, "back": _back(problem.status), "repository": None, "notice": None}
    response = _rendered("problem.html", problem.status, **known)
    response.headers.extend(dict(problem.headers))
    return response


def _back(status: int) -> Mapping[str, Any] | None:
    """Return the arguments of the link that leads on from an error, or None if there is none."""
    here = request.view_args or {}
    if status in REPEATABLE:
        return here
    return {"repository": here["repository"]} if status in (403, 404) and "webhook_id" in here else None


def see(endpoint: str, *, notice: str | None = None, **arguments: Any) -> Response:
    """Redirect after a POST, so that reloading does not repeat it."""
    return make_response(redirect(url_for(endpoint, **arguments, notice=notice), 303))


def _rendered(template: str, status: int, **context: Any) -> Response:
    """Render a template. Its variables have names of our own, so that they do not hide those of the host's layout."""
    environment = _environment(current_app.jinja_env)
    known = SimpleNamespace(
        words=words,
        when=when,
        next_try=next_try,
        isolated=isolated,
        until=until,
        language=language(),
        direction=direction(),
        layout=_layout(environment),
        **context,
    )
    # `_`, `gettext` and `ngettext` stay the host's, since its layout may have texts of its own
    found = environment.get_template(f"hubhooks/{template}")
    text = render_template(found, hubhooks=known, hubhooks_say=_, hubhooks_say_number=ngettext)
    response = make_response(text, status)
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def pretty(payload: str) -> str:
    """Indent JSON. Not every payload is JSON, such as one that was not sent."""
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except ValueError:
        return payload


def _layout(environment: Environment) -> str:
    """The template that the pages extend: the host's or, where that is missing, ours. The log says so once."""
    state = current_state()
    name = state.config.layout
    try:
        environment.get_template(name)
    except TemplateNotFound as missing:
        if missing.name != name:
            raise
        if state not in _without_layout:
            _without_layout.add(state)
            logger.error("HUBHOOKS_LAYOUT names no template of the app: %r. The pages use our layout instead.", name)
        return OUR_LAYOUT
    return name


_without_layout: WeakSet[State] = WeakSet()


def when(text: str) -> Markup:
    """Show a time of a document as how long ago it was, with the exact time as a tooltip."""
    time = _parsed(text)
    exactly = f"{time:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(text, exactly, words.ago(time))


def next_try(delivery: Mapping[str, Any]) -> Markup:
    """Say when the next attempt of a delivery is; its time may have come already."""
    if _parsed(delivery["next_attempt_at"]) <= utcnow():
        return _("Next attempt now")
    return _("Next attempt %(when)s", when=when(delivery["next_attempt_at"]))


def _parsed(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def isolated(text: str) -> Markup:
    """Isolate the direction of text that others typed. Characters that change the direction are removed."""
    return Markup("<bdi>{}</bdi>").format(words.plain(text))


def until(text: str) -> Markup:
    """Show the exact time of a document's time."""
    return Markup('<time datetime="{}">{}</time>').format(text, f"{_parsed(text):%Y-%m-%d %H:%M} UTC")
