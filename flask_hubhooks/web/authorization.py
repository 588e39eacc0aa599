"""Asks the host's authorizer, and refuses requests that another site makes a browser send."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import request
from flask_wtf.csrf import validate_csrf
from werkzeug.wrappers import Response as AnyResponse
from wtforms import ValidationError as CSRFInvalid

from ..records.scopes import REGISTRY, is_namespace, is_pattern
from ..records.webhooks import Owner
from ..registry import MAX_NAME_LENGTH, Repository, storable
from ..state import Authorizer, State, current_state
from .document_fields import Viewer
from .problems import Problem, not_found, not_json

logger = logging.getLogger(__name__)

BROWSER_SCHEMES = frozenset({"basic", "digest", "negotiate", "ntlm"})
"""Kinds of `Authorization` that browsers send by themselves, also when another site makes them send a request."""


@dataclass
class Call:
    """A request that the host's authorizer let through."""

    state: State
    action: str
    """"read" or "write"."""
    scope: str
    """The repository, or the pattern of a namespace or the registry, whose webhooks it is about."""
    user: str
    details: dict[str, Any]
    """The `Repository.snapshot` of what the host knows; of a pattern, the defaults."""
    viewer: Viewer
    counted: bool = False
    """Whether `count_send` has counted it: a request that is repeated after a conflict counts once."""

    @property
    def owner(self) -> Owner:
        return Owner(self.user, self.scope, self.state.config, self.state.secrets)


def authorized(action: str, scope: str) -> Call:
    """Ask the host whether the visitor may "read" or "write". Raises 403 or 404, and whatever the authorizer raises."""
    state = current_state()
    check_served(scope)
    authorize = state.handlers.namespace_authorizer if is_pattern(scope) else state.handlers.authorizer
    if authorize is None:
        raise Problem(403, "The registry has no authorizer, so nobody may use its webhooks.")
    if len(scope) > MAX_NAME_LENGTH or "\0" in scope:
        raise not_found()
    with state.visiting_host_session():
        try:
            user = user_of(authorize(action, scope))
        except WrongAnswer as wrong:
            wrong.log(authorize, action, scope)
            raise Problem(500, "The registry could not identify you. Its log says why.") from None
        if user is None:
            if action == "write" and _may("read", scope, authorize):
                raise Problem(403, "You may read these webhooks, but not change them.")
            raise not_found()
        details = Repository().snapshot() if is_pattern(scope) else state.details_of(scope)
        if details is None:
            raise not_found()
        may_write = action == "write" or _may("write", scope, authorize)
    return Call(state, action, scope, user, details, Viewer(state, scope, may_write))


def check_served(scope: str) -> None:
    """Raise 404 for a pattern that is not a namespace, and for all of them if the host does not authorize them."""
    if is_pattern(scope):
        is_valid = scope == REGISTRY or is_namespace(scope.removesuffix("/*"))
        if not (is_valid and current_state().handlers.namespace_authorizer):
            raise not_found()


class Answered(Exception):
    """The authorizer answered the request itself, such as with a redirect to a sign-in page."""

    def __init__(self, response: AnyResponse) -> None:
        super().__init__("the authorizer returned a response")
        self.response = response


class WrongAnswer(TypeError):
    """The authorizer returned neither a user nor a denial nor a response."""

    def __init__(self, answer: object) -> None:
        kind = f"{type(answer).__module__}.{type(answer).__qualname__}".removeprefix("builtins.")
        shown = f" {answer!r}" if type(answer) in (bool, int, float) else ""  # other values may be secret
        shown = " with a NUL character" if isinstance(answer, str) else shown
        super().__init__(f"{kind}{shown}")

    def log(self, authorize: Authorizer, action: str, scope: str) -> None:
        named = getattr(authorize, "__qualname__", type(authorize).__qualname__)
        logger.error(
            "the authorizer %s.%s returned a value of type %s for %r on %r: it must return the user's name as a "
            "non-empty string, None or False to deny, or a Response",
            getattr(authorize, "__module__", ""),
            named,
            self,
            action,
            scope,
        )


def user_of(answer: object) -> str | None:
    """Return the user's name from the authorizer's answer, or None if it denies.

    Raises `Answered` for a response and `WrongAnswer` for anything else.
    """
    if answer is None or answer is False:
        return None
    if isinstance(answer, str) and "\0" not in answer:
        visible = any(each.isprintable() and not each.isspace() for each in answer)  # neither "" nor "\u200b" is a name
        return storable(answer.strip()) if visible else None
    if isinstance(answer, AnyResponse):
        raise Answered(answer)
    raise WrongAnswer(answer)


def _may(action: str, scope: str, authorize: Authorizer) -> bool:
    """Ask the authorizer about an action that is not the request's own. Only a user's name means yes."""
    try:
        return user_of(authorize(action, scope)) is not None
    except WrongAnswer as wrong:
        wrong.log(authorize, action, scope)
        return False
    except Exception:  # the authorizer may abort, redirect or fail for users with read access only
        return False


def refuse_foreign_origin(state: State) -> None:
    """Raise 403 for a request that another site made a browser send, since the host may authorize by cookie.

    If the request is for the registry's own host, the scheme counts too: behind a proxy that ends TLS every request
    looks like plain HTTP.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    external, here = _origin(state.config.external_url), _origin(request.host_url)
    same_host = external.partition("://")[2] == here.partition("://")[2]
    own = {external} if same_host else {external, here}
    if site not in (None, "same-origin", "none") or (origin and origin.lower() not in own):
        raise Problem(
            403,
            "Requests that change something must come from the registry's own pages. If this one did, the page was "
            "opened at an address that the registry does not know as its own. Its operator should check "
            "HUBHOOKS_EXTERNAL_URL and, behind a proxy, Werkzeug's ProxyFix.",
        )


def refuse_forms() -> None:
    """Raise 415 for a POST that a form of another site could send with the visitor's cookies.

    Some browsers and proxies drop the headers that `refuse_foreign_origin` checks. JSON, a header such as X-CSRFToken,
    PATCH and DELETE are safe: browsers ask us before they send those from another site, and we never agree.
    """
    scheme = request.headers.get("Authorization", "").strip().partition(" ")[0].lower()
    if request.method != "POST" or request.is_json or (scheme and scheme not in BROWSER_SCHEMES):
        return
    try:
        validate_csrf(request.headers.get("X-CSRFToken"))
    except CSRFInvalid:
        raise not_json() from None


def _origin(url: str) -> str:
    """Return the origin of a URL as browsers write it: in lower case, without the scheme's default port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower().removesuffix(":443" if parts.scheme == "https" else ":80")
