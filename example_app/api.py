"""An API for owners: `PATCH /api/repositories/<name>` renames a repository, `DELETE` deletes it.

Clients sign in by HTTP basic auth. An error is `{"message": …}`.
"""

from __future__ import annotations

import json

from flask import Blueprint
from werkzeug.exceptions import BadRequest, Conflict, HTTPException
from werkzeug.wrappers import Response

from example_app import bodies, repositories
from example_app.auth import owner_of, sign_in_first, signed_in
from example_app.errors import RegistryError
from example_app.repositories import NameTaken

LARGEST_BODY = 4096

api = Blueprint("api", __name__, url_prefix="/api/repositories")


@api.errorhandler(HTTPException)
def answer(error: HTTPException) -> Response:
    """The response for any error, which keeps headers such as `WWW-Authenticate`."""
    response = error.get_response()
    response.content_type = "application/json"
    response.data = json.dumps({"message": error.description})
    return response


@api.patch("/<path:name>")
def rename(name: str) -> dict[str, str]:
    """Rename a repository to the body's `name`."""
    _have_owner(name)
    try:
        new = json.loads(bodies.whole(LARGEST_BODY))["name"]
    except (ValueError, RecursionError, TypeError, KeyError):
        new = None
    if not isinstance(new, str):
        raise BadRequest('the body must be JSON such as {"name": "acme/new"}')
    _have_owner(new)
    try:
        repositories.rename(name, new)
    except NameTaken as error:
        raise Conflict(str(error)) from None
    return {"name": new}


@api.delete("/<path:name>")
def delete(name: str) -> tuple[str, int]:
    """Delete a repository with its content and webhooks."""
    _have_owner(name)
    repositories.delete(name)
    return "", 204


def _have_owner(name: str) -> None:
    user = signed_in()
    if user is None:
        raise sign_in_first()
    if owner_of(name) != user:
        raise RegistryError("DENIED")
