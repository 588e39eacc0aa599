"""What every request to a route of ours goes through before its handler, and what its answer has in common."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from flask import Blueprint, Response, request
from flask_wtf.csrf import validate_csrf
from marshmallow import Schema, ValidationError, fields
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse
from wtforms import ValidationError as CSRFInvalid

from ..dialects import CONFLICT_TRIES, DATABASE_AWAY, Locked, is_conflict
from ..outages import explained
from ..records.history import BadCursor
from ..records.webhooks import Owner, Refused
from ..registry import storable
from ..state import Authorizer, State, current_state
from .documents import Viewer
from .problems import Problem, invalid, not_found

logger = logging.getLogger(__name__)

BROWSER_SCHEMES = frozenset({"basic", "digest", "negotiate", "ntlm"})
"""Kinds of `Authorization` that browsers send by themselves, also with what another site has them send."""
LOCKED_S, LOCKED_MOST_S = 0.05, 4.0
"""How soon, and for how long in all, a request is carried out again that finds its repository locked."""
ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

Function = Callable[..., Response]


@dataclass(frozen=True)
class Handler:
    """What answers a method of a route; `query` and `body` are what it takes, and `access` what it asks of whom."""

    answer: Function
    query: Schema | None = None
    body: Schema | None = None
    optional: bool = False
    """An empty body counts as an empty object."""
    access: str = ""
    """ "read" or "write", as the host's authorizer knows it; "" for a route that everybody may use."""


@dataclass(frozen=True)
class Route:
    """A URL rule of the blueprint, and its handlers by method."""

    rule: str
    name: str
    handlers: Mapping[str, Handler]


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
    """Whether `rate.count_send` has counted it: what is carried out again is the same request."""

    @property
    def owner(self) -> Owner:
        return Owner(self.user, self.repository, self.state.config, self.state.secrets)


def route(
    blueprint: Blueprint,
    rule: str,
    name: str,
    answer_problem: Callable[[Problem], Response] = Problem.response,
    **handlers: Handler,
) -> Route:
    """Serve `rule` with a handler for each method, with and without its final slash, and never with a redirect.

    Routing errors never reach a blueprint, so the view takes every method and answers 405 itself.
    """

    def view(**arguments: Any) -> AnyResponse:
        try:
            response = _handler(handlers)(**arguments)
        except Problem as problem:
            response = answer_problem(problem)
        except Answered as answered:
            return answered.response
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    blueprint.add_url_rule(
        rule,
        name,
        view,
        methods=ALL_METHODS,
        strict_slashes=False,
        merge_slashes=False,
        provide_automatic_options=False,
    )
    return Route(rule, name, handlers)


def _handler(handlers: Mapping[str, Handler]) -> Function:
    method = "GET" if request.method == "HEAD" else request.method
    if method in handlers:
        return handlers[method].answer
    allowed = sorted({*handlers, "OPTIONS", *(["HEAD"] if "GET" in handlers else [])})
    headers = {"Allow": ", ".join(allowed)}
    if method == "OPTIONS":
        return lambda **_: Response(status=204, headers=headers)
    raise Problem(405, f"{request.method} is not possible here; {headers['Allow']} are.", headers=headers)


def reads(function: Function, query: Schema | None = None) -> Handler:
    """The handler of a request that reads: `function` is called with a `Call`, and the query where it takes one."""

    def answer(repository: str, **ids: Any) -> Response:
        call = authorized("read", repository)
        return carried_out(function, call, *([read_query(query)] if query else []), **ids)

    return Handler(answer, query=query, access="read")


def writes(function: Function, body: Schema | None = None, *, optional: bool = False) -> Handler:
    """The handler of a request that changes something: `function` is called with a `Call`, and the body it takes."""

    def answer(repository: str, **ids: Any) -> Response:
        refuse_foreign_origin(current_state())
        call = authorized("write", repository)
        refuse_forms()
        return carried_out(function, call, *([read_json(body, optional=optional)] if body else []), **ids)

    return Handler(answer, body=body, optional=optional, access="write")


def carried_out(function: Function, *arguments: Any, **ids: Any) -> Response:
    """What a function answers; it is called again if PostgreSQL undid it for the sake of another transaction.

    It is also called again, for some seconds, while what it needs is locked: between the calls it has no connection,
    of which we have few. Raises 503 where it stays locked, and where the database cannot be used.
    """
    tries, locked_until = 0, monotonic() + LOCKED_MOST_S
    while True:
        tries += 1
        try:
            return function(*arguments, **ids)
        except Locked:
            if monotonic() >= locked_until:
                raise _locked() from None
            sleep(LOCKED_S)
            tries -= 1
        except Refused as refused:
            raise invalid(refused.errors) from None
        except BadCursor as bad:
            raise invalid({"cursor": [str(bad)]}) from None
        except DATABASE_AWAY as fault:
            if tries == CONFLICT_TRIES or not is_conflict(fault):
                logger.exception("%s %s is answered with 503: %s", request.method, request.endpoint, explained(fault))
                raise _away() from None


def _away() -> Problem:
    return Problem(503, "The registry's database cannot be used now: try again.", headers={"Retry-After": "5"})


def _locked() -> Problem:
    return Problem(503, "This repository is being changed: try again.", headers={"Retry-After": "5"})


def authorized(action: str, repository: str) -> Call:
    """The request of somebody who may "read" or "write"; raises 403 or 404, and whatever the host's authorizer does."""
    state = current_state()
    authorize = state.handlers.authorizer
    if authorize is None:
        raise Problem(403, "The registry has set no authorizer, so nobody may use its webhooks.")
    if len(repository) > 255 or "\0" in repository:
        raise not_found()
    with state.visiting_host_session():
        try:
            user = user_of(authorize(action, repository))
        except WrongAnswer as wrong:
            wrong.log(authorize, action, repository)
            raise Problem(500, "The registry cannot tell who you are: its log says why.") from None
        if user is None:
            if action == "write" and _may("read", repository, authorize):
                raise Problem(403, "You may read the webhooks of this repository, not change them.")
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
        raise _no_json() from None


def _no_json() -> Problem:
    return Problem(415, "Send JSON, with Content-Type: application/json, even if the body is empty.")


def _origin(url: str) -> str:
    """The origin of a URL as browsers write it: in lower case, without the scheme's own port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower().removesuffix(":443" if parts.scheme == "https" else ":80")


def read_body() -> bytes:
    """The request's body; raises 413 where it is too large."""
    host_limit, limit = request.max_content_length, current_state().config.max_body_bytes
    limit = limit if host_limit is None else min(host_limit, limit)
    request.max_content_length = limit + 1  # Werkzeug cuts a chunked body off there, and says nothing
    with suppress(RequestEntityTooLarge):
        body = request.get_data()
        if len(body) <= limit:
            return body
    raise Problem(413, f"The body is over {limit} bytes.")


def read_json(schema: Schema, *, optional: bool = False) -> Any:
    """The request's JSON body, checked by `schema`; raises 413, 415, or 400 with the errors by field.

    Where it is `optional`, an empty body is an empty object.
    """
    body = read_body()
    if optional and not body:
        return loaded(schema, {})
    if not request.is_json:
        raise _no_json()
    return parse_json(body, schema)


def read_query(schema: Schema) -> Any:
    """The request's query, checked by `schema`; raises 400 with the errors by parameter."""
    lists = {name for name, field in schema.fields.items() if isinstance(field, fields.List)}
    given = query_arguments()
    return loaded(schema, given.to_dict() | {name: given.getlist(name) for name in lists})


def query_arguments() -> MultiDict[str, str]:
    """The request's query as it was sent; raises 400 where it is not UTF-8."""
    try:
        return request.args
    except UnicodeDecodeError:
        raise Problem(400, "The query is not UTF-8.") from None


def parse_json(body: bytes, schema: Schema) -> Any:
    """Parse and check JSON that a client sent; raises 400 with the errors by field."""
    limit = current_state().config.max_json_depth
    try:
        content = json.loads(body, parse_constant=_no_constant)
        deep = _depth(content) > limit
    except RecursionError:
        deep = True
    except ValueError:
        raise Problem(400, "The body is not valid JSON.") from None
    if deep:
        raise Problem(400, f"The body is JSON with more than {limit} objects or lists within each other.")
    if not isinstance(content, dict):
        raise Problem(400, "The body must be a JSON object.")
    return loaded(schema, content)


def _depth(content: Any) -> int:
    if not isinstance(content, dict | list):
        return 0
    within = content.values() if isinstance(content, dict) else content
    return 1 + max(map(_depth, within), default=0)


def loaded(schema: Schema, content: Any) -> Any:
    """What a schema makes of content; raises 400 with the errors by field."""
    try:
        return schema.load(content)
    except ValidationError as error:
        raise invalid(error.messages_dict) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False)
    return Response(body, status, dict(headers or {}), content_type="application/json")


def api_url(call: Call, *path: object, query: Mapping[str, object] | None = None) -> str:
    """The absolute URL of what the API has of a repository's webhooks; never built from the Host header."""
    within = ("v2", "repositories", call.repository, "webhooks", *path)
    url = "/".join([call.state.config.external_url, *(quote(str(part)) for part in within)]) + "/"
    return f"{url}?{urlencode(query, safe=':')}" if query else url
