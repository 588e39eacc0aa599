"""The pages: repositories, what is in one and how to pull it, and signing in.

Those of the webhooks are the extension's own. They stand in our `base.html`, too, and so have the same head and tabs.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, abort, current_app, make_response, redirect, render_template, request, url_for
from sqlalchemy import select
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from example_app import auth, models, repositories
from example_app.database import db
from example_app.errors import RegistryError
from example_app.registry import files_of
from example_app.repositories import NameTaken

# A path on this host. Browsers read a backslash as a slash, two slashes as another host, and skip line breaks and tabs.
LOCAL = re.compile(r"/(?!/)[!-\[\]-~]*")
CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"

pages = Blueprint("pages", __name__)


@pages.app_context_processor
def known_to_base() -> dict[str, Any]:
    """What `base.html` needs to know, on the pages of the webhooks as well."""
    return {"visitor": auth.visitor(), "owner_of": auth.owner_of, "namespaces_of": auth.namespaces_of}


@pages.after_app_request
def protect(response: Response) -> Response:
    """Keep foreign scripts and frames out of every page, and the pages out of caches, for not all may see them."""
    if response.mimetype == "text/html":
        response.headers.add("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers["Cache-Control"] = "no-store"
    return response


@pages.errorhandler(HTTPException)
def show_error(error: HTTPException) -> AnyResponse:
    """An error as a page, also that of a form without a valid token."""
    return make_response(render_template("error.html", error=error), error.code or 500)


@pages.get("/")
def list_repositories() -> str:
    """The repositories that the visitor may see."""
    rows = db.session.scalars(select(models.Repository).order_by(models.Repository.name))
    return render_template("repositories.html", rows=[row for row in rows if _may_see(row)])


@pages.get("/r/<path:repository>/", strict_slashes=False)
def show_repository(repository: str) -> str:
    """The tags of a repository and how to pull them; what the visitor may not see does not exist."""
    row = models.find(repository)
    if row is None or not _may_see(row):
        abort(404)
    registry = urlsplit(current_app.config["HUBHOOKS_EXTERNAL_URL"]).netloc
    return render_template(
        "repository.html", repository=repository, row=row, tags=_digests_by_tag(repository), registry=registry
    )


@pages.get("/settings/<path:repository>/", strict_slashes=False)
def show_settings(repository: str) -> AnyResponse:
    """The forms to rename and to delete a repository, for its owner."""
    return _settings(repository)


@pages.post("/rename/<path:repository>")
def rename(repository: str) -> AnyResponse:
    """Rename a repository and go to its page."""
    _have_owner(repository)
    name = request.form.get("name", "").strip()
    if auth.owner_of(name) != auth.visitor():
        return _settings(repository, 403, name=name, name_error="You can only use a name in a namespace of your own.")
    try:
        repositories.rename(repository, name)
    except NameTaken as error:
        return _settings(repository, 409, name=name, name_error=str(error))
    except RegistryError as error:
        if error.error != "NAME_INVALID":
            raise
        return _settings(repository, 400, name=name, name_error="A repository cannot have this name.")
    return redirect(url_for(".show_repository", repository=name), 303)


@pages.post("/delete/<path:repository>")
def delete(repository: str) -> AnyResponse:
    """Delete a repository whose name was typed to confirm it."""
    _have_owner(repository)
    if request.form.get("confirm", "").strip() != repository:
        return _settings(repository, 400, confirm_error=f"Type {repository} to confirm.")
    repositories.delete(repository)
    return redirect(url_for(".list_repositories"), 303)


@pages.get("/sign-in")
def sign_in() -> str:
    """The form to sign in with."""
    return render_template("sign_in.html", next=request.args.get("next", ""), user="")


@pages.post("/sign-in")
def enter() -> AnyResponse:
    """Sign in, and go on to where the visitor came from."""
    user, following = request.form.get("user", ""), request.form.get("next", "")
    if not auth.enter(user, request.form.get("password", "")):
        return make_response(render_template("sign_in.html", next=following, user=user, wrong=True), 400)
    return redirect(following if LOCAL.fullmatch(following) else url_for(".list_repositories"), 303)


@pages.post("/sign-out")
def leave() -> AnyResponse:
    """Sign out."""
    auth.leave()
    return redirect(url_for(".list_repositories"), 303)


def _settings(repository: str, status: int = 200, **values: str) -> AnyResponse:
    _have_owner(repository)
    return make_response(render_template("settings.html", repository=repository, **values), status)


def _have_owner(repository: str) -> None:
    """Let only the owner of an existing repository go on; others may sign in, or learn nothing."""
    visitor = auth.visitor()
    if visitor is None:
        abort(redirect(url_for(".sign_in", next=url_for(".show_settings", repository=repository)), 303))
    if auth.owner_of(repository) != visitor or models.find(repository) is None:
        abort(404)


def _may_see(row: models.Repository) -> bool:
    return not row.is_private or auth.owner_of(row.name) == auth.visitor()


def _digests_by_tag(repository: str) -> dict[str, str]:
    """What each tag names, sorted by tag."""
    files, digests = files_of(repository), {}
    for tag in files.tags():
        with suppress(RegistryError):  # somebody has just deleted it
            digests[tag] = files.manifest(tag).digest
    return digests
