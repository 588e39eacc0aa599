"""Who is who, by HTTP basic auth, and whose a repository is: the first part of its name decides.

`alice` owns `acme` and `acme/*`, `bob` owns `bob` and `bob/*`.
"""

from __future__ import annotations

import hmac

from flask import request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

USERS = {"alice": "alice", "bob": "bob"}
OWNERS = {"acme": "alice", "bob": "bob"}


def owner_of(repository: str) -> str:
    """The name of the user who owns `repository`, whether it exists or not; empty: nobody does."""
    return OWNERS.get(repository.partition("/")[0], "")


def signed_in() -> str | None:
    """The user who sent the request, or None when it came without credentials.

    Raises `Unauthorized` when the credentials are wrong. Skopeo and Podman send an empty name with an empty
    password when they have none.
    """
    given = request.authorization
    if given is None or (given.type == "basic" and not given.username and not given.password):
        return None
    if given.type != "basic" or not _is_password(given.username or "", given.password or ""):
        raise sign_in_first()
    return given.username


def sign_in_first() -> Unauthorized:
    """The error, 401, that makes a client ask for a name and a password."""
    return Unauthorized("sign in first", www_authenticate=WWWAuthenticate("basic", {"realm": "example registry"}))


def _is_password(user: str, password: str) -> bool:
    expected = USERS.get(user, "")
    return bool(expected) and hmac.compare_digest(expected.encode(), password.encode())
