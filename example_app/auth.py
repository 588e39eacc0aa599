"""Who is who, and whose a repository is: the first part of its name decides.

Clients sign in by HTTP basic auth with each request, browsers once, and are known by the session from then on.

`alice` owns `acme` and `acme/*`, `bob` owns `bob` and `bob/*`.
"""

from __future__ import annotations

import hmac
from time import monotonic

from flask import current_app, request, session
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized

USERS = {"alice": "alice", "bob": "bob"}
MAX_WRONG, WINDOW_S = 10, 60
"""Wrong passwords that one address may send within so many seconds."""
OWNERS = {"acme": "alice", "bob": "bob"}


def owner_of(repository: str) -> str:
    """The name of the user who owns `repository`, whether it exists or not; empty: nobody does."""
    return OWNERS.get(repository.partition("/")[0], "")


def namespaces_of(user: str | None) -> list[str]:
    """The namespaces that a user owns."""
    return [namespace for namespace, owner in OWNERS.items() if owner == user]


def visitor() -> str | None:
    """The user who has signed in on the page to do so with this browser, or None."""
    name = session.get("user")
    return name if name in USERS else None


def enter(user: str, password: str) -> bool:
    """Sign a browser in if the password is right; nothing of the session before remains, whoever began it."""
    if not _is_password(user, password):
        return False
    session.clear()
    session["user"] = user
    return True


def leave() -> None:
    """Sign the browser out."""
    session.clear()


def signed_in() -> str | None:
    """The user who sent the request with a name and a password, or None when it came without credentials.

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
    """Whether the password is right; raises `TooManyRequests` (429) after too many wrong ones from one address.

    Each process counts for itself. Behind a proxy all visitors have its address, unless you add Werkzeug's `ProxyFix`.
    """
    address, now = request.remote_addr or "", monotonic()
    wrong: dict[str, list[float]] = current_app.extensions.setdefault("wrong_passwords", {})
    for each, times in list(wrong.items()):
        wrong[each] = [time for time in times if now - time < WINDOW_S]
        if not wrong[each]:
            wrong.pop(each, None)
    if len(wrong.get(address, ())) >= MAX_WRONG:
        raise TooManyRequests("too many wrong passwords: wait a minute", retry_after=WINDOW_S)
    expected = USERS.get(user, "")
    right = bool(expected) and hmac.compare_digest(expected.encode(), password.encode())
    if not right:
        wrong.setdefault(address, []).append(now)
    return right
