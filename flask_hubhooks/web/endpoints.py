"""Declares and serves the API's endpoints. Reads the requests and makes the responses of all routes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import groupby
from time import monotonic, sleep
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, request
from marshmallow import Schema, ValidationError, fields
from werkzeug.datastructures import Headers, MultiDict
from werkzeug.exceptions import Forbidden, RequestEntityTooLarge, Unauthorized
from werkzeug.wrappers import Response as AnyResponse

from ..dialects import CONFLICT_TRIES, DATABASE_AWAY, Locked, is_conflict
from ..outages import explained
from ..records.history import BadCursor
from ..records.scopes import REGISTRY, is_pattern, scope_of_namespace
from ..records.webhooks import Refused
from ..state import current_state
from .authorization import Answered, Call, authorized, check_served, refuse_foreign_origin, refuse_forms
from .document_fields import Document
from .problems import Problem, invalid, not_found, not_json

logger = logging.getLogger(__name__)

ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
LOCKED_RETRY_S = 0.05
MAX_JSON_DEPTH = 16
"""Objects and lists within each other in a request."""
MAX_LOCKED_S = 4.0
"""How long a request is repeated that finds its repository locked."""

WEBHOOKS_OF = {
    "repository": "/v2/repositories/<path:repository>/webhooks/",
    "namespace": "/v2/namespaces/<path:namespace>/webhooks/",
    "registry": "/v2/registry/webhooks/",
}
"""Where the webhooks of each kind of scope are served."""

View = Callable[..., Response]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass
class Endpoint:
    """Declares the function below it as one method of a route of the API.

    Routes, checks, answers and the OpenAPI document follow from it; the operation is named after the function. All
    methods of a rule are declared one after the other. The rule of an endpoint with `access` continues each of
    `WEBHOOKS_OF`.

    The function is called with the `Call`, what `query` or `body` loads, and the ids in the URL. It returns a value
    that `returns` serializes. An endpoint without `access` is open to everybody: its function is called with the
    parts of the URL alone, reads the body itself, and may return a response.
    """

    method: str
    rule: str
    _: KW_ONLY
    summary: str
    tag: str = "webhooks"
    access: Literal["read", "write"] | None = None
    security: str = ""
    """How clients without `access` show who they are: the name of a security scheme in the OpenAPI document."""
    query: Schema | None = None
    body: Schema | None = None
    body_optional: bool = False
    """An empty body counts as an empty object."""
    max_body_bytes: int | None = None
    """None: `HUBHOOKS_MAX_BODY_BYTES`."""
    returns: Document | None = None
    """None: the response has no body."""
    status: int = 200
    etag: bool = False
    if_match: bool = False
    """The function calls `require_match`."""
    location: str = ""
    """The path of the new resource, below the webhooks of its scope; `{id}` is the id in the response."""
    problems: tuple[int, ...] = ()
    """Statuses of problems that do not follow from the other arguments."""
    usage: str = ""
    """Explains the route in a 405, after the allowed methods."""
    function: Callable[..., Any] = field(init=False)

    def __call__(self, function: FunctionT) -> FunctionT:
        self.function = function
        ENDPOINTS.append(self)
        return function

    def answer(self, **ids: Any) -> Response:
        """Answer a request: authorize it, check its input, call the function, serialize the value."""
        if self.access is None:
            return run_with_retries(lambda: self._response(None, self.function(**ids), ids))
        scope = scope_in(ids)
        ids = {name: value for name, value in ids.items() if name not in ("repository", "namespace")}
        if self.access == "write":
            refuse_foreign_origin(current_state())
        try:
            call = authorized(self.access, scope)
        except (Unauthorized, Forbidden) as refusal:  # the authorizer aborted
            if refusal.response is None and _asks_for_json():
                raise _problem_of(refusal) from None
            raise
        if self.access == "write":
            refuse_forms()
        given = [read_query(self.query)] if self.query else []
        given += [read_json(self.body, optional=self.body_optional)] if self.body else []
        return run_with_retries(lambda: self._response(call, self.function(call, *given, **ids), ids))

    def _response(self, call: Call | None, value: Any, ids: Mapping[str, Any]) -> Response:
        if self.returns is None:
            return Response(status=self.status)
        if isinstance(value, Response):
            return value
        content = call.viewer.document(self.returns, value) if call else self.returns.dump(value)
        response = json_response(content, self.status)
        if self.etag:
            response.set_etag(version(content))
        if call and self.location:
            response.headers["Location"] = api_url(call, self.location.format_map({**ids, "id": content["id"]}))
        return response


ENDPOINTS: list[Endpoint] = []
"""All endpoints of the API, in the order of their declaration."""


def add_endpoints(blueprint: Blueprint) -> None:
    """Put the API's routes on the blueprint; a route is named after its first endpoint."""
    for rule, group in groupby(ENDPOINTS, lambda each: each.rule):
        endpoints = list(group)
        name, views = endpoints[0].function.__name__, {each.method: each.answer for each in endpoints}
        if endpoints[0].access is None:
            add_route(blueprint, rule, name, views, usage=endpoints[0].usage)
            continue
        for kind, path in WEBHOOKS_OF.items():
            add_route(blueprint, path + rule, name if kind == "repository" else f"{name}_of_{kind}", views, scope_in)


def scope_in(parts: Mapping[str, Any]) -> str:
    """Return the scope that the parts of an API's URL name; raises 404 for one that is not served."""
    repository = parts.get("repository")
    if repository is not None and is_pattern(repository):
        raise not_found()
    scope = scope_of_namespace(parts["namespace"]) if "namespace" in parts else repository or REGISTRY
    check_served(scope)
    return scope


def add_route(
    blueprint: Blueprint,
    rule: str,
    name: str,
    views: Mapping[str, View],
    check: Callable[[Mapping[str, Any]], object] | None = None,
    answer_problem: Callable[[Problem], Response] = Problem.response,
    usage: str = "",
) -> None:
    """Serve `rule` with a view for each method, with and without its final slash, and never with a redirect.

    `check` gets the parts of the URL first, whatever the method, and may raise a `Problem`. Routing errors never reach
    a blueprint, so the route takes every method and answers 405 itself.
    """

    def answer(**arguments: Any) -> AnyResponse:
        try:
            if check:
                check(arguments)
            response = _view(views, usage)(**arguments)
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
        answer,
        methods=ALL_METHODS,
        strict_slashes=False,
        merge_slashes=False,
        provide_automatic_options=False,
    )


def _view(views: Mapping[str, View], usage: str) -> View:
    method = "GET" if request.method == "HEAD" else request.method
    if method in views:
        return views[method]
    allowed = sorted({*views, "OPTIONS", *(["HEAD"] if "GET" in views else [])})
    headers = {"Allow": ", ".join(allowed)}
    if method == "OPTIONS":
        return lambda **_: Response(status=204, headers=headers)
    refusal = f"{request.method} is not allowed here. Allowed: {headers['Allow']}."
    raise Problem(405, f"{refusal} {usage}".rstrip(), headers=headers)


def run_with_retries(answer: Callable[[], Response]) -> Response:
    """Answer, and repeat that if the transaction conflicts with another one or the repository is locked.

    Between the tries it holds no connection, since there are few. Raises 503 if the repository stays locked or the
    database is unavailable, and 400 for input that the records refuse.
    """
    tries, locked_until = 0, monotonic() + MAX_LOCKED_S
    while True:
        try:
            return answer()
        except Locked:
            if monotonic() >= locked_until:
                raise Problem(
                    503, "These webhooks are being changed. Try again.", headers={"Retry-After": "5"}
                ) from None
            sleep(LOCKED_RETRY_S)
        except Refused as refused:
            raise invalid(refused.errors) from None
        except BadCursor as bad:
            raise invalid({"cursor": [str(bad)]}) from None
        except DATABASE_AWAY as fault:
            tries += 1
            if tries == CONFLICT_TRIES or not is_conflict(fault):
                logger.exception("%s %s is answered with 503: %s", request.method, request.endpoint, explained(fault))
                raise Problem(
                    503, "The registry's database is unavailable. Try again later.", headers={"Retry-After": "5"}
                ) from None


# Requests


def _asks_for_json() -> bool:
    """Whether the client prefers JSON to HTML. One that takes anything gets the host's own error pages."""
    kinds = ["text/html", "application/json", "application/problem+json"]
    return request.accept_mimetypes.best_match(kinds, "text/html") != "text/html"


def _problem_of(refusal: Unauthorized | Forbidden) -> Problem:
    headers = Headers(refusal.get_headers())
    challenges = {"WWW-Authenticate": found} if (found := headers.getlist("WWW-Authenticate")) else {}
    return Problem(refusal.code, str(refusal.description), headers=challenges)


def read_body(limit: int | None = None) -> bytes:
    """Return the request's body; raises 413 if it is larger than `limit`.

    Without `limit` the host's limit and `HUBHOOKS_MAX_BODY_BYTES` both hold.
    """
    if limit is None:
        host_limit, limit = request.max_content_length, current_state().config.max_body_bytes
        limit = limit if host_limit is None else min(host_limit, limit)
    request.max_content_length = limit + 1  # Werkzeug silently cuts off a chunked body there
    with suppress(RequestEntityTooLarge):
        body = request.get_data()
        if len(body) <= limit:
            return body
    raise Problem(413, f"The body is larger than {limit} bytes.")


def read_json(schema: Schema, *, optional: bool = False) -> Any:
    """Load the request's JSON body; raises 413, 415, or 400 with the errors by field.

    If the body is `optional`, an empty one counts as an empty object.
    """
    body = read_body()
    if optional and not body:
        return loaded(schema, {})
    if not request.is_json:
        raise not_json()
    return parse_json(body, schema)


def read_query(schema: Schema) -> Any:
    """Load the request's query; raises 400 with the errors by parameter."""
    lists = {name for name, field in schema.fields.items() if isinstance(field, fields.List)}
    given = query_arguments()
    return loaded(schema, given.to_dict() | {name: given.getlist(name) for name in lists})


def query_arguments() -> MultiDict[str, str]:
    """Return the request's query as it was sent; raises 400 if it is not UTF-8."""
    try:
        return request.args
    except UnicodeDecodeError:
        raise Problem(400, "The query is not UTF-8.") from None


def parse_json(body: bytes, schema: Schema) -> Any:
    """Load JSON; raises 400 with the errors by field."""
    try:
        content = json.loads(body, parse_constant=_no_constant)
        deep = _depth(content) > MAX_JSON_DEPTH
    except RecursionError:
        deep = True
    except ValueError:
        raise Problem(400, "The body is not valid JSON.") from None
    if deep:
        raise Problem(400, f"The JSON is nested more than {MAX_JSON_DEPTH} levels deep.")
    if not isinstance(content, dict):
        raise Problem(400, "The body must be a JSON object.")
    return loaded(schema, content)


def _depth(content: Any) -> int:
    if not isinstance(content, dict | list):
        return 0
    within = content.values() if isinstance(content, dict) else content
    return 1 + max(map(_depth, within), default=0)


def loaded(schema: Schema, content: Any) -> Any:
    """Load content with a schema; raises 400 with the errors by field."""
    try:
        return schema.load(content)
    except ValidationError as error:
        raise invalid(error.messages_dict) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


# Responses


def json_response(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, ensure_ascii=False), status, content_type="application/json")


def api_url(call: Call, path: str = "", query: Mapping[str, object] | None = None) -> str:
    """Return the absolute URL of a path below the webhooks of a scope. It never depends on the Host header."""
    below = f"repositories/{quote(call.scope)}"
    if is_pattern(call.scope):
        below = "registry" if call.scope == REGISTRY else f"namespaces/{quote(call.scope.removesuffix('/*'))}"
    url = f"{call.state.config.external_url}/v2/{below}/webhooks/{path}"
    return f"{url}?{urlencode(query, safe=':')}" if query else url


def require_match(content: Mapping[str, Any]) -> None:
    """Raise 412 if the request's `If-Match` names another version of the document (RFC 9110)."""
    # A proxy that compresses makes our tag weak. It is a hash of the content, so the weak form names the same version.
    if "If-Match" in request.headers and not request.if_match.contains_weak(version(content)):
        raise Problem(412, "This has changed since you read it. Read it again, then repeat your change.")


def version(content: Any) -> str:
    """Return a document's ETag, which changes once somebody has edited what it shows."""
    return hashlib.sha256(json.dumps(_edited(content), sort_keys=True).encode()).hexdigest()[:32]


def _edited(content: Any) -> Any:
    """Return the document without the fields that change by themselves or are shown only once."""
    if isinstance(content, Mapping):
        return {key: _edited(value) for key, value in content.items() if key not in ("failing_since", "secret")}
    return [_edited(each) for each in content] if isinstance(content, list) else content
