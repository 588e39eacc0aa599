"""What every request to a route of ours goes through before its handler, and what its answer has in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from flask import Blueprint, Response, request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from ..registry import storable
from ..state import State, current_state
from .problems import Problem, invalid, not_found

BODY_LIMIT = 64 * 1024
"""Bytes of a request's body."""
ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Handler = Callable[..., Response]


@dataclass(frozen=True)
class Call:
    """A request that the host's authorizer let through."""

    state: State
    repository: str
    user: str


def route(blueprint: Blueprint, rule: str, name: str, **handlers: Handler) -> None:
    """Serve `rule` with a handler for each method, with and without its final slash, and never with a redirect.

    Routing errors never reach a blueprint, so the view takes every method and answers 405 itself.
    """

    def view(**arguments: Any) -> Response:
        try:
            response = _handler(handlers)(**arguments)
        except Problem as problem:
            response = problem.response()
        response.headers["Cache-Control"] = "no-store"
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


def _handler(handlers: Mapping[str, Handler]) -> Handler:
    method = "GET" if request.method == "HEAD" else request.method
    if method in handlers:
        return handlers[method]
    allowed = sorted({*handlers, "OPTIONS", *(["HEAD"] if "GET" in handlers else [])})
    headers = {"Allow": ", ".join(allowed)}
    if method == "OPTIONS":
        return lambda **_: Response(status=204, headers=headers)
    raise Problem(405, f"{request.method} is not possible here; {headers['Allow']} are.", headers=headers)


def reads(handler: Callable[..., Response]) -> Handler:
    """The handler of a request that reads: it is called with a `Call`."""
    return lambda repository, **ids: handler(_authorized("read", repository), **ids)


def writes(handler: Callable[..., Response]) -> Handler:
    """The handler of a request that changes something: it is called with a `Call`."""

    def guarded(repository: str, **ids: Any) -> Response:
        _refuse_foreign_origin(current_state())
        return handler(_authorized("write", repository), **ids)

    return guarded


def _authorized(action: str, repository: str) -> Call:
    state = current_state()
    authorize = state.handlers.authorizer
    if authorize is None:
        raise Problem(403, "The registry has set no authorizer, so nobody may use its webhooks.")
    if len(repository) > 255 or "\0" in repository:
        raise not_found()
    user = authorize(action, repository)
    if user is None:
        _deny(action, repository, authorize)
    if state.handlers.details_of(repository) is None:
        raise not_found()
    return Call(state, repository, storable(user))


def _deny(action: str, repository: str, authorize: Callable[[str, str], str | None]) -> NoReturn:
    if action == "write" and authorize("read", repository) is not None:
        raise Problem(403, "You may read the webhooks of this repository, not change them.")
    raise not_found()


def _refuse_foreign_origin(state: State) -> None:
    """Refuse what another site had a browser send: the host may authorize by cookie."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = {_origin(state.config.external_url), _origin(request.host_url)}
    if site in ("cross-site", "same-site") or (origin and origin.lower() not in own):
        raise Problem(403, "Requests that change something must come from the registry's own pages.")


def _origin(url: str) -> str:
    """The origin of a URL as browsers write it: in lower case, without the scheme's own port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower().removesuffix(":443" if parts.scheme == "https" else ":80")


def read_body() -> bytes:
    """The request's body; raises 413 where it is over `BODY_LIMIT`."""
    host_limit = request.max_content_length
    limit = BODY_LIMIT if host_limit is None else min(host_limit, BODY_LIMIT)
    request.max_content_length = limit + 1  # Werkzeug cuts a chunked body off there, and says nothing
    with suppress(RequestEntityTooLarge):
        body = request.get_data()
        if len(body) <= limit:
            return body
    raise Problem(413, f"The body is over {limit} bytes.")


def read_json(schema: Schema) -> Any:
    """The request's JSON body, checked by `schema`; raises 413, 415, or 400 with the errors by field."""
    if not request.is_json:
        raise Problem(415, "Send JSON, with Content-Type: application/json.")
    return parse_json(read_body(), schema)


def parse_json(body: bytes, schema: Schema) -> Any:
    """Parse and check JSON that a client sent; raises 400 with the errors by field."""
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem(400, "The body is not valid JSON.") from None
    if not isinstance(content, dict):
        raise Problem(400, "The body must be a JSON object.")
    try:
        return schema.load(content)
    except ValidationError as error:
        raise invalid(error.messages_dict) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False)
    return Response(body, status, dict(headers or {}), content_type="application/json")


def whole_number(name: str, default: int, least: int, most: int) -> int:
    """A query parameter that is a whole number; raises 400 outside of `least` to `most`."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise invalid({name: [f"Must be a whole number from {least} to {most}."]})
    return int(text)


def external_url(state: State, *path: object) -> str:
    """An absolute URL of ours, never built from the request's Host header."""
    return "/".join([state.config.external_url, *(quote(str(part)) for part in path)]) + "/"
