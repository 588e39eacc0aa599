"""The OpenAPI 3.1 document of the API, assembled from its endpoints and their schemas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
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
from .documents import Document, JSONSchema, OpenAPIDocument
from .endpoints import ENDPOINTS, MAX_JSON_DEPTH, Endpoint, json_response

TITLE = "Webhooks of the registry's repositories"
ABOUT = """\
How a client signs in is the registry's choice: where it is not by an `Authorization` header, the registry tells. It may
answer 401, or redirect to a page to sign in, before anything that stands here. Who may not read a repository's webhooks
gets the same 404 as for what does not exist.

Every URL is served with and without its final slash. `HEAD` is answered wherever `GET` is, `OPTIONS` everywhere, with
the methods that are possible in `Allow`; all other methods are answered with 405. Nothing may be cached. A URL that
matches none of these gets the registry's own 404.
"""
TAGS = {
    "webhooks": "What is called when a tag is pushed, and its hooks.",
    "deliveries": "The history, and what sends again.",
    "callbacks": "For receivers: what became of a delivery.",
    "documentation": "This document.",
}
PARAMETERS: dict[str, JSONSchema] = {
    "repository": {
        "description": "The repository's whole name, slashes and all: `acme/app`, as it is or with `%2F`.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
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
    "token": {
        "description": "The token that ends the payload's `callback_url`: it is all the authority that is needed.",
        "schema": {"type": "string", "minLength": 1},
    },
}
PROBLEMS = {
    400: "The request is not valid: `errors` says it by field.",
    403: "The client may read, not change; or another site had its browser send this; or nobody may use webhooks here.",
    404: "There is no such thing here, or the client may not read it.",
    405: "Another method than those of this URL.",
    409: "Not now: `detail` says why.",
    410: "The delivery has ended without a callback.",
    412: "It was changed since it was read: see `If-Match`.",
    413: "The body is too large.",
    415: "The body is not sent as JSON.",
    429: "Too many tests, redeliveries and recoveries of this repository within a minute.",
    503: "The registry's database or its Redis cannot be used now, or the repository is being changed.",
}
PROBLEM_HEADERS = {405: "Allow", 429: "Retry-After", 503: "Retry-After"}
HEADERS: dict[str, JSONSchema] = {
    "ETag": {"description": "The version that was read or made, for `If-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "The absolute URL of what was made or sent.", "schema": {"type": "string"}},
    "Allow": {"description": "The methods that are possible here.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
}
PROBLEM: JSONSchema = {
    "type": "object",
    "description": "What is wrong and what to do (RFC 9457).",
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "errors": {"type": "object", "description": "Messages by field: a list, or within a field the same again."},
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
    return json_response(document(current_state().config))


@lru_cache(maxsize=8)
def document(config: Config) -> dict[str, Any]:
    """Return the document of all endpoints, within the limits of a config."""
    plugin = _Plugin(schema_name_resolver=_schema_name)
    spec = APISpec(
        title=TITLE,
        version=_version(),
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
        "SignIn", {"description": "The registry asks the client to sign in: what it says is its own."}
    )
    spec.components.security_scheme(
        "registry",
        {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "How a client signs in is the registry's choice; often it takes this header.",
        },
    )
    for rule, endpoints in groupby(ENDPOINTS, lambda each: each.rule):
        spec.path(
            re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule),
            operations={each.method.lower(): _operation(each, plugin.converter, config) for each in endpoints},
            parameters=[
                {"name": name, "in": "path", "required": True} | PARAMETERS[name]
                for name in re.findall(r"(\w+)>", rule)
            ],
        )
    content = spec.to_dict()
    for name in ("WebhookWanted", "WebhookChange"):
        content["components"]["schemas"][name]["properties"]["hooks"]["maxItems"] = config.max_hooks
    return content


def _version() -> str:
    try:
        return version("flask_hubhooks")
    except PackageNotFoundError:  # it runs from a folder, and was never installed
        return "0"


def _headers(names: Sequence[str]) -> JSONSchema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _operation(endpoint: Endpoint, converter: OpenAPIConverter, config: Config) -> JSONSchema:
    name = endpoint.function.__name__
    first, *more = name.split("_")
    operation: JSONSchema = {
        "operationId": first + "".join(each.title() for each in more),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "security": [{"registry": []}] if endpoint.access else [],
        "parameters": _query_parameters(endpoint.query, converter) if endpoint.query else [],
        "responses": _responses(endpoint, converter),
    }
    if endpoint.if_match:
        operation["parameters"].append(
            {
                "name": "If-Match",
                "in": "header",
                "description": "An `ETag` that was read: the request is refused with 412 where it was changed since.",
                "schema": {"type": "string"},
            }
        )
    if endpoint.body:
        operation["requestBody"] = {
            "description": f"At most {config.max_body_bytes} bytes, nested {MAX_JSON_DEPTH} deep.",
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
    """Describes schemas by their docstrings, documents as complete, and what schemas check as a whole."""

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
    """Return a schema's name among the components: `Webhook` answers, `WebhookWanted` and `WebhookChange` ask."""
    instance = resolve_schema_instance(schema)
    name = type(instance).__name__
    if isinstance(instance, Document):
        return name.removesuffix("Document")
    name = name.removesuffix("Schema")
    if instance.partial:
        return f"{name}Change"
    return "".join([f"{name}Wanted", *(f"Without{each.title()}" for each in sorted(instance.exclude))])
