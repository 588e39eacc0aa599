"""All that a registry needs to have webhooks."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NoReturn

from flask import abort, current_app, redirect, request, url_for

from example_app import models
from example_app.auth import owner_of, sign_in_first, signed_in, visitor
from example_app.database import db
from flask_hubhooks import HubHooks, Repository
from flask_hubhooks.signals import image_pushed

hubhooks = HubHooks(db, push_signal=image_pushed)


@hubhooks.authorizer
@hubhooks.namespace_authorizer
def authorize(action: str, name: str) -> str | None:
    """Only the owner of a repository, or of a namespace such as `acme/*`, sees its webhooks and changes them."""
    user = signed_in() or visitor()
    if user is None:
        _have_sign_in(name)
    return user if user == owner_of(name) else None


def _have_sign_in(repository: str) -> NoReturn:
    """Lead a browser to the page to sign in, and from there back, or to the repository if it was sending a form."""
    if not (request.path.startswith("/r/") and "text/html" in request.headers.get("Accept", "")):
        raise sign_in_first()
    back = request.full_path if request.method == "GET" else url_for("pages.show_repository", repository=repository)
    abort(redirect(url_for("pages.sign_in", next=back.rstrip("?")), 303))


@hubhooks.repository_loader
def load(name: str) -> Repository | None:
    """What the payload says of a repository."""
    row = models.find(name)
    if row is None:
        return None
    return Repository(
        description=row.description,
        full_description=row.full_description,
        is_private=row.is_private,
        star_count=row.star_count,
        owner=owner_of(name),
        repo_url=f"{current_app.config['HUBHOOKS_EXTERNAL_URL'].rstrip('/')}/r/{name}/",
        date_created=datetime.fromtimestamp(row.created, timezone.utc),
    )
