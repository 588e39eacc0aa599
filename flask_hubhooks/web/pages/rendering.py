"""How pages are made of templates, and what all of them know."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flask import Response, current_app, make_response, redirect, render_template, request, url_for
from flask_wtf.csrf import generate_csrf
from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, PrefixLoader
from markupsafe import Markup

from ...dialects import utcnow
from ...state import current_state
from ..authorization import Call
from ..problems import Problem
from . import words
from .translation import direction, language, ngettext
from .translation import gettext as _

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
"""Statuses after which the visitor may go on with the repository's webhooks."""


def templates() -> BaseLoader:
    """Our templates, in whose place a host may put its own; by `!hubhooks/page.html` it still extends ours."""
    return ChoiceLoader([FileSystemLoader(FOLDER), PrefixLoader({"!hubhooks": FileSystemLoader(FOLDER / "hubhooks")})])


@lru_cache(maxsize=16)
def _environment(hosts: Environment) -> Environment:
    """The host's Jinja environment, in which our own templates have Jinja's usual delimiters, whatever the host's are.

    Files of the host's have the host's delimiters, also where they take the place of ours.
    """
    environment = hosts.overlay()
    ours = hosts.overlay(**USUAL_SYNTAX)

    def compiled(source: Any, name: str | None = None, filename: str | None = None, *options: Any) -> Any:
        is_ours = filename is not None and Path(filename).is_relative_to(FOLDER)
        return (ours if is_ours else hosts).compile(source, name, filename, *options)

    environment.compile = compiled  # type: ignore[assignment,method-assign]
    return environment


def page(call: Call, template: str, status: int = 200, **context: Any) -> Response:
    """A page for who may read a repository's webhooks."""
    known = {
        "repository": call.repository,
        "repository_url": call.details["repo_url"],
        "may_write": call.viewer.may_write,
        "notice": words.notice(request.args.get("notice", "")),
        "csrf_token": generate_csrf,
    }
    return _rendered(template, status, **known, **context)


def problem_page(problem: Problem) -> Response:
    """An error as a page, in the layout of the others."""
    title = words.problem(problem.status)
    known = {"problem": problem, "title": title, "back": _back(problem.status), "repository": None, "notice": None}
    response = _rendered("problem.html", problem.status, **known)
    response.headers.extend(dict(problem.headers))
    return response


def _back(status: int) -> Mapping[str, Any] | None:
    """What leads on from an error: to what it is about, or past a webhook that is gone to the repository's others."""
    here = request.view_args or {}
    if status in REPEATABLE:
        return here
    return {"repository": here["repository"]} if status in (403, 404) and "webhook_id" in here else None


def see(endpoint: str, *, notice: str | None = None, **arguments: Any) -> Response:
    """Lead to another page after something was done there, so that reloading does not do it again."""
    return make_response(redirect(url_for(endpoint, **arguments, notice=notice), 303))


def _rendered(template: str, status: int, **context: Any) -> Response:
    """A template with what it knows in names of ours, lest they hide what the host's layout knows."""
    known = SimpleNamespace(
        words=words,
        when=when,
        next_try=next_try,
        isolated=isolated,
        until=until,
        language=language(),
        direction=direction(),
        layout=current_state().config.layout,
        **context,
    )
    # `_`, `gettext` and `ngettext` are the host's: its layout may have texts of its own
    found = _environment(current_app.jinja_env).get_template(f"hubhooks/{template}")
    text = render_template(found, hubhooks=known, hubhooks_say=_, hubhooks_say_number=ngettext)
    response = make_response(text, status)
    response.headers["X-Frame-Options"] = "SAMEORIGIN"
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def when(text: str) -> Markup:
    """A time of the API's as how long ago it was, and exactly where a pointer rests on it."""
    time = _parsed(text)
    exactly = f"{time:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(text, exactly, words.ago(time))


def next_try(delivery: Mapping[str, Any]) -> Markup:
    """When a delivery is tried next; its time may have come already."""
    if _parsed(delivery["next_attempt_at"]) <= utcnow():
        return _("Next attempt now")
    return _("Next attempt %(when)s", when=when(delivery["next_attempt_at"]))


def _parsed(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def isolated(text: str) -> Markup:
    """Text that others typed, whose direction ends where it does; what changes it is left out, since it may not end."""
    return Markup("<bdi>{}</bdi>").format(words.plain(text))


def until(text: str) -> Markup:
    """A time of the API's, exactly."""
    return Markup('<time datetime="{}">{}</time>').format(text, f"{_parsed(text):%Y-%m-%d %H:%M} UTC")
