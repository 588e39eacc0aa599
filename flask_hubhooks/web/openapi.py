"""The OpenAPI 3.1 document of the API, assembled from its endpoints and their schemas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_instance
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from flask import Response
from marshmallow import Schema, fields

from ..config import Config
from ..records.models import ID_LIMIT
from ..state import current_state
from ..version import VERSION
from .document_fields import Document, JSONSchema
from .documents import OpenAPIDocument
from .endpoints import ENDPOINTS, MAX_JSON_DEPTH, WEBHOOKS_OF, Endpoint, json_response

TITLE = "Webhooks of the registry's repositories"
ABOUT = """\
The registry decides how clients sign in, for example with an `Authorization` header. Before anything described here it
may answer 401 or redirect to a sign-in page. Clients without read access to a repository get the same 404 as for a
repository that does not exist.

A repository's name is everything in the path up to the last segment `webhooks`, slashes included. So is a namespace's.

Every URL is served with and without its final slash. `HEAD` is answered wherever `GET` is. `OPTIONS` lists the allowed
methods in `Allow`; all other methods are answered with 405. Responses must not be cached. A URL that matches none of
these paths gets the registry's own 404.

## States, statuses and outcomes

A delivery has a `state`, and Docker Hub's word for it, its `status`. The deliveries of a push to one webhook are a run.
The first of them that has neither succeeded nor been skipped decides the run's `outcome`; without one, it succeeded.

| `state` | meaning | `status` | `outcome` of a run that it decides |
|---|---|---|---|
| `waiting` | an earlier hook of the chain comes first | `pending` | |
| `pending` | due, in flight, to be tried again, or held by a pause | `pending` | `under_way` |
| `awaiting_callback` | received; the callback decides | `success` | `under_way` |
| `succeeded` | received, and called back `success` if a callback was expected | `success` | `succeeded` |
| `failed` | refused, given up, or called back `failure` or `error` | `error`, or `success` if received | `failed` |
| `expired` | received, but the callback never came | `success` | `failed` |
| `skipped` | an earlier hook of the chain failed or expired | `error` | |
| `cancelled` | webhook or hook deleted, or superseded by a new push | `error`, or `success` if received | `cancelled` |
"""
TAGS = {
    "webhooks": "Webhooks and their hooks, which are called when a tag is pushed.",
    "deliveries": "The history, tests, redeliveries and recovery.",
    "callbacks": "For receivers: report the outcome of a delivery.",
    "sources": "For registries: tell of pushes.",
    "documentation": "This document.",
}
PARAMETERS: dict[str, JSONSchema] = {
    "repository": {
        "description": "The repository's full name, such as `acme/app`; its slashes may be written as `%2F`.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "namespace": {
        "description": "The namespace, such as `acme` for all repositories below `acme/`. It may have several parts.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[^*?[/]+(/[^*?[/]+)*$"},
    },
    "webhook_id": {
        "description": "The webhook's `id`.",
        "schema": {"type": "integer", "minimum": 1, "maximum": ID_LIMIT},
    },
    "hook_id": {
        "description": "The hook's `id`.",
        "schema": {"type": "integer", "minimum": 1, "maximum": ID_LIMIT},
    },
    "delivery_id": {
        "description": "The delivery's `id`.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "source": {
        "description": "A registry's kind: `distribution`, `zot`, `harbor`, `gitea`, `quay` or one of the app's own.",
        "schema": {"type": "string", "minLength": 1},
    },
    "token": {
        "description": "The token at the end of the payload's `callback_url`. No other authorization is needed.",
        "schema": {"type": "string", "minLength": 1},
    },
}
NAME_ENDS = {"namespace": "OfNamespace", "registry": "OfRegistry"}
"""The ends of the operations' names for webhooks that belong to no repository."""
PROBLEMS = {
    400: "The request is not valid. `errors` has the messages by field.",
    401: "The source's token is missing or wrong.",
    403: "The client has read access only, the request came from another site, or the registry has no authorizer.",
    404: "Not found, or the client has no read access.",
    405: "The method is not allowed for this URL.",
    409: "Not possible at the moment. `detail` says why.",
    410: "The delivery has ended without a callback.",
    412: "The resource has changed since it was read. See `If-Match`.",
    413: "The body is too large.",
    415: "The body was not sent as JSON.",
    429: "Too many tests, redeliveries and recoveries of the repository or namespace within a minute.",
    503: "The registry's database or Redis server is unavailable, or the webhooks are being changed.",
}
PROBLEM_HEADERS = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
HEADERS: dict[str, JSONSchema] = {
    "ETag": {"description": "The version of the resource, for `If-Match`.", "schema": {"type": "string"}},
    "Location": {
        "description": "The absolute URL of the new resource or of the delivery.",
        "schema": {"type": "string"},
    },
    "Allow": {"description": "The allowed methods.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to send the token.", "schema": {"type": "string"}},
    "Retry-After": {"description": "The number of seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
}
PROBLEM: JSONSchema = {
    "type": "object",
    "description": "A problem: what is wrong and what to do (RFC 9457).",
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "errors": {
            "type": "object",
            "description": "Messages by field: a list, or for nested input an object of the same form.",
        },
    },
    "required": ["type", "title", "status", "detail"],
    "additionalProperties": False,
}


@Endpoint(
    "GET",
    "/hubhooks/openapi.json",
    summary="Read this document",
    tag="documentation",
    returns=OpenAPIDocument(),
)
def read_openapi() -> Response:
    state = current_state()
    kinds = WEBHOOKS_OF if state.handlers.namespace_authorizer else ("repository",)
    return json_response(document(state.config, tuple(kinds)))


@lru_cache(maxsize=8)
def document(config: Config, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Build the document of all endpoints for these kinds of scopes, with the limits of a config."""
    plugin = _Plugin(schema_name_resolver=_schema_name)
    spec = APISpec(
        title=TITLE,
        version=VERSION,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": ABOUT},
        servers=[{"url": config.external_url}],
        tags=[{"name": name, "description": about} for name, about in TAGS.items()],
    )
    spec.components.schema("Problem", PROBLEM)
    for name, header in HEADERS.items():
        spec.components.header(name, header | {"required": True})
    for status, about in PROBLEMS.items():
        problem: JSONSchema = {
            "description": about,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        headers = {"headers": _headers([PROBLEM_HEADERS[status]])} if status in PROBLEM_HEADERS else {}
        spec.components.response(f"Problem{status}", problem | headers)
    spec.components.response(
        "SignIn",
        {
            "description": "The registry asks the client to sign in. It chooses the content; clients that prefer JSON "
            "to HTML may get a problem."
        },
    )
    spec.components.security_scheme(
        "registry",
        {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "The registry decides how clients sign in, often with this header.",
        },
    )
    spec.components.security_scheme(
        "source",
        {
            "type": "http",
            "scheme": "bearer",
            "description": "The source's token in `HUBHOOKS_SOURCE_TOKENS`. It is also accepted as the whole value of "
            "`Authorization` and as a password of basic authentication, and from Quay as `?token=`. Gitea may sign the "
            "body with it instead (`X-Gitea-Signature`).",
        },
    )
    for rule, group in groupby(ENDPOINTS, lambda each: each.rule):
        endpoints = list(group)
        rules = {kind: WEBHOOKS_OF[kind] + rule for kind in kinds} if endpoints[0].access else {"": rule}
        for kind, full in rules.items():
            spec.path(
                re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", full),
                operations={
                    each.method.lower(): _operation(each, kind, plugin.converter, config) for each in endpoints
                },
                parameters=[
                    {"name": name, "in": "path", "required": True} | PARAMETERS[name]
                    for name in re.findall(r"(\w+)>", full)
                ],
            )
    content = spec.to_dict()
    for name in ("WebhookWanted", "WebhookChange", "PreviewWanted"):
        content["components"]["schemas"][name]["properties"]["hooks"]["maxItems"] = config.max_hooks
    for schema in content["components"]["schemas"].values():
        if "default" in (timeout := schema.get("properties", {}).get("timeout_s", {})):  # of a request
            timeout["maximum"] = config.max_timeout_s
            timeout["default"] = min(timeout["default"], config.max_timeout_s)
    return content


def _headers(names: Sequence[str]) -> JSONSchema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _operation(endpoint: Endpoint, kind: str, converter: OpenAPIConverter, config: Config) -> JSONSchema:
    name, security = endpoint.function.__name__, "registry" if endpoint.access else endpoint.security
    first, *more = name.split("_")
    operation: JSONSchema = {
        "operationId": first + "".join(each.title() for each in more) + NAME_ENDS.get(kind, ""),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "security": [{security: []}] if security else [],
        "parameters": _query_parameters(endpoint.query, converter) if endpoint.query else [],
        "responses": _responses(endpoint, converter),
    }
    if endpoint.if_match:
        operation["parameters"].append(
            {
                "name": "If-Match",
                "in": "header",
                "description": "An `ETag`. If the resource has changed since, the request is refused with 412.",
                "schema": {"type": "string"},
            }
        )
    if endpoint.body:
        operation["requestBody"] = {
            "description": f"At most {endpoint.max_body_bytes} bytes."
            if endpoint.max_body_bytes
            else f"At most {config.max_body_bytes} bytes, nested at most {MAX_JSON_DEPTH} levels deep.",
            "required": not endpoint.body_optional,
            "content": {"application/json": {"schema": converter.resolve_nested_schema(endpoint.body)}},
        }
    return operation


def _query_parameters(query: Schema, converter: OpenAPIConverter) -> list[JSONSchema]:
    parameters: list[JSONSchema] = converter.schema2parameters(query, location="query")
    for parameter in parameters:  # it may be left out, and is never null
        schema = parameter["schema"]
        if schema.get("default", "") is None:
            del schema["default"]
        if isinstance(schema.get("type"), list):
            schema["type"] = schema["type"][0]
        if "enum" in schema:
            schema["enum"] = [each for each in schema["enum"] if each is not None]
    return parameters


def _responses(endpoint: Endpoint, converter: OpenAPIConverter) -> JSONSchema:
    success: JSONSchema = {"description": endpoint.summary}
    if endpoint.returns:
        success = {
            "description": _about(endpoint.returns),
            "content": {"application/json": {"schema": converter.resolve_nested_schema(endpoint.returns)}},
        }
    if headers := [*(["ETag"] if endpoint.etag else []), *(["Location"] if endpoint.location else [])]:
        success["headers"] = _headers(headers)
    statuses = {405, *endpoint.problems}
    if endpoint.access:
        statuses |= {403, 404, 503}
    if endpoint.query or endpoint.body:
        statuses.add(400)
    if endpoint.body:
        statuses |= {413, 415} if endpoint.access else {413}
    if endpoint.if_match:
        statuses.add(412)
    refused = {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}
    if endpoint.access:
        refused["401"] = {"$ref": "#/components/responses/SignIn"}
    return {str(endpoint.status): success, **dict(sorted(refused.items()))}


class _Converter(OpenAPIConverter):
    """Adds docstrings as descriptions, requires all fields of documents, and adds the `json_schema` of schemas."""

    def field2property(self, field: fields.Field[Any]) -> JSONSchema:
        content: JSONSchema = super().field2property(field)
        if "propertyNames" in field.metadata:  # apispec does not know it
            content["propertyNames"] = field.metadata["propertyNames"]
        return content

    def schema2jsonschema(self, schema: Schema) -> JSONSchema:
        schema = resolve_schema_instance(schema)
        content: JSONSchema = {"description": _about(schema)} | super().schema2jsonschema(schema)
        if isinstance(schema, Document):
            content["required"] = list(content["properties"])
        return content | getattr(schema, "json_schema", {})


class _Plugin(MarshmallowPlugin):
    Converter = _Converter
    converter: _Converter


def _about(schema: Schema) -> str:
    return (type(schema).__doc__ or "").partition("\n")[0]


def _schema_name(schema: Any) -> str:
    """Name a component: `Webhook` for a response, `WebhookWanted` and `WebhookChange` for requests."""
    instance = resolve_schema_instance(schema)
    name = type(instance).__name__
    if isinstance(instance, Document):
        return name.removesuffix("Document")
    name = name.removesuffix("Schema")
    if instance.partial:
        return f"{name}Change"
    return "".join([f"{name}Wanted", *(f"Without{each.title()}" for each in sorted(instance.exclude))])
