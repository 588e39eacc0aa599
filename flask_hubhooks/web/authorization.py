"""Who may do what: the host's authorizer, and the defence against requests that another site has a browser send."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import request
from flask_wtf.csrf import validate_csrf
from werkzeug.wrappers import Response as AnyResponse
from wtforms import ValidationError as CSRFInvalid

from ..records.webhooks import Owner
from ..registry import storable
from ..state import Authorizer, State, current_state
from .documents import Viewer
from .problems import Problem, not_found, not_json

logger = logging.getLogger(__name__)

BROWSER_SCHEMES = frozenset({"basic", "digest", "negotiate", "ntlm"})
"""Kinds of `Authorization` that browsers send by themselves, also when another site makes them send a request."""


@dataclass
class Call:
    """A request that the host's authorizer let through."""

    state: State
    repository: str
    user: str
    details: dict[str, Any]
    """The `Repository.snapshot` of what the host knows."""
    viewer: Viewer
    counted: bool = False
    """Whether `count_send` has counted it: a request that is repeated after a conflict counts once."""

    @property
    def owner(self) -> Owner:
        return Owner(self.user, self.repository, self.state.config, self.state.secrets)


def authorized(action: str, repository: str) -> Call:
    """The request of somebody who may "read" or "write"; raises 403 or 404, and whatever the host's authorizer does."""
    state = current_state()
    authorize = state.handlers.authorizer
    if authorize is None:
        raise Problem(403, "The registry has no authorizer, so nobody may use its webhooks.")
    if len(repository) > 255 or "\0" in repository:
        raise not_found()
    with state.visiting_host_session():
        try:
            user = user_of(authorize(action, repository))
        except WrongAnswer as wrong:
            wrong.log(authorize, action, repository)
            raise Problem(500, "The registry could not identify you. Its log says why.") from None
        if user is None:
            if action == "write" and _may("read", repository, authorize):
                raise Problem(403, "You may read this repository's webhooks, but not change them.")
            raise not_found()
        details = state.handlers.details_of(repository)
        if details is None:
            raise not_found()
        may_write = action == "write" or _may("write", repository, authorize)
    return Call(state, repository, user, details, Viewer(state, may_write))


class Answered(Exception):
    """The authorizer answered the request itself, such as with a redirect to a sign-in page."""

    def __init__(self, response: AnyResponse) -> None:
        super().__init__("the authorizer returned a response")
        self.response = response


class WrongAnswer(TypeError):
    """The authorizer returned neither a user nor a denial nor a response."""

    def __init__(self, answer: object) -> None:
        kind = f"{type(answer).__module__}.{type(answer).__qualname__}".removeprefix("builtins.")
        shown = f" {answer!r}" if type(answer) in (bool, int, float) else ""  # what others show may be secret
        shown = " with a NUL character" if isinstance(answer, str) else shown
        super().__init__(f"{kind}{shown}")

    def log(self, authorize: Authorizer, action: str, repository: str) -> None:
        named = getattr(authorize, "__qualname__", type(authorize).__qualname__)
        logger.error(
            "the authorizer %s.%s returned a value of type %s for %r on %r: it must return the user's name as a "
            "non-empty string, None or False to deny, or a Response",
            getattr(authorize, "__module__", ""),
            named,
            self,
            action,
            repository,
        )


def user_of(answer: object) -> str | None:
    """Read the authorizer's answer: the user's name, or None where it denies.

    Raises `Answered` for a response and `WrongAnswer` for anything else.
    """
    if answer is None or answer is False:
        return None
    if isinstance(answer, str) and "\0" not in answer:
        seen = any(each.isprintable() and not each.isspace() for each in answer)  # "\u200b" is no name, as "" is none
        return storable(answer.strip()) if seen else None
    if isinstance(answer, AnyResponse):
        raise Answered(answer)
    raise WrongAnswer(answer)


def _may(action: str, repository: str, authorize: Authorizer) -> bool:
    """Ask the authorizer about another action than the request's own: whatever names no user means no."""
    try:
        return user_of(authorize(action, repository)) is not None
    except WrongAnswer as wrong:
        wrong.log(authorize, action, repository)
        return False
    except Exception:  # it may abort, redirect or fail for users who may only read
        return False


def refuse_foreign_origin(state: State) -> None:
    """Refuse what another site had a browser send: the host may authorize by cookie.

    Where the request names the registry's own host its scheme counts as well: behind a proxy that ends TLS every
    request looks like plain HTTP.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    external, here = _origin(state.config.external_url), _origin(request.host_url)
    same_host = external.partition("://")[2] == here.partition("://")[2]
    own = {external} if same_host else {external, here}
    if site not in (None, "same-origin", "none") or (origin and origin.lower() not in own):
        raise Problem(403, "Requests that change something must come from the registry's own pages.")


def refuse_forms() -> None:
    """Refuse a POST that a form of another site could send, with the visitor's cookies; raises 415.

    Not every browser or proxy passes on what `refuse_foreign_origin` looks at. Browsers ask us before they send JSON,
    a header such as X-CSRFToken, a PATCH or a DELETE from another site, and we let no other site send them.
    """
    scheme = request.headers.get("Authorization", "").strip().partition(" ")[0].lower()
    if request.method != "POST" or request.is_json or (scheme and scheme not in BROWSER_SCHEMES):
        return
    try:
        validate_csrf(request.headers.get("X-CSRFToken"))
    except CSRFInvalid:
        raise not_json() from None


def _origin(url: str) -> str:
    """The origin of a URL as browsers write it: in lower case, without the scheme's own port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower().removesuffix(":443" if parts.scheme == "https" else ":80")
