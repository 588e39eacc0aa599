"""The OpenAPI 3.1 document of all our routes, made from the routes themselves: `GET /hubhooks/openapi.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from apispec import APISpec
from flask import Blueprint

from ...config import Config
from ...records.models import ID_LIMIT
from ...state import current_state
from ..pipeline import Handler, Route, json_response, route
from . import words
from .answers import ID, SCHEMAS, TEXT, UUID, JSONSchema, ref
from .requests import Requests

_PARAMETER = re.compile(r"<(?:(\w+):)?(\w+)>")
_KINDS: dict[str | None, JSONSchema] = {
    "int": ID | {"maximum": ID_LIMIT},
    "uuid": UUID,
    "path": TEXT | {"minLength": 1, "maxLength": 255},
    None: TEXT | {"minLength": 1},
}
"""What a URL converter of Flask takes."""


def add_route(blueprint: Blueprint, routes: Sequence[Route]) -> None:
    """Serve the document of these routes, and of its own, to everybody."""
    every = list(routes)

    @lru_cache(maxsize=8)
    def made(config: Config) -> dict[str, Any]:
        return document(every, config)

    get = Handler(lambda: json_response(made(current_state().config)))
    every.append(route(blueprint, "/hubhooks/openapi.json", "openapi", GET=get))


def document(routes: Sequence[Route], config: Config) -> dict[str, Any]:
    """The document of these routes, within the limits of a config. Raises `KeyError` for one without `words`."""
    requests = Requests(config)
    spec = APISpec(
        title=words.TITLE,
        version=_version(),
        openapi_version="3.1.0",
        plugins=[requests],
        info={"description": words.ABOUT},
        servers=[{"url": config.external_url}],
        tags=[{"name": name, "description": about} for name, about in words.TAGS.items()],
    )
    _add_components(spec)
    for each in routes:
        operations = {
            method.lower(): _operation(words.OPERATIONS[each.name, method], handler, requests, config)
            for method, handler in each.handlers.items()
        }
        spec.path(_PARAMETER.sub(r"{\2}", each.rule), operations=operations, parameters=_path_parameters(each.rule))
    return spec.to_dict()


def _version() -> str:
    try:
        return version("flask_hubhooks")
    except PackageNotFoundError:  # it runs from a folder, and was never installed
        return "0"


def _add_components(spec: APISpec) -> None:
    for name, schema in SCHEMAS.items():
        spec.components.schema(name, schema)
    for name, about in words.HEADERS.items():
        kind = {"type": "integer", "minimum": 0} if name == "Retry-After" else TEXT
        spec.components.header(name, {"description": about, "required": True, "schema": kind})
    for status, about in words.PROBLEMS.items():
        spec.components.response(f"Problem{status}", _problem(status, about))
    spec.components.response("SignIn", {"description": words.SIGN_IN_FIRST})
    spec.components.security_scheme(
        "registry", {"type": "apiKey", "in": "header", "name": "Authorization", "description": words.SIGN_IN}
    )


def _problem(status: int, about: str) -> JSONSchema:
    response: JSONSchema = {
        "description": about,
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
    headers = {405: ["Allow"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status)
    return response | {"headers": _headers(headers)} if headers else response


def _headers(names: Sequence[str]) -> JSONSchema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _path_parameters(rule: str) -> list[JSONSchema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": words.PARAMETERS[name],
            "schema": _KINDS[converter or None],
        }
        for converter, name in _PARAMETER.findall(rule)
    ]


def _operation(said: words.Words, handler: Handler, requests: Requests, config: Config) -> JSONSchema:
    operation: JSONSchema = {
        "operationId": said.operation_id,
        "summary": said.summary,
        "tags": [said.tag],
        "security": [{"registry": []}] if handler.access else [],
        "parameters": [*(requests.query(handler.query) if handler.query else []), *_if_match(said)],
        "responses": _responses(said, handler),
    }
    if handler.body:
        operation["requestBody"] = {
            "description": f"At most {config.max_body_bytes} bytes, nested {config.max_json_depth} deep.",
            "required": not handler.optional,
            "content": {"application/json": {"schema": requests.body(handler.body)}},
        }
    return operation


def _if_match(said: words.Words) -> list[JSONSchema]:
    about = {"name": "If-Match", "in": "header", "description": words.IF_MATCH, "schema": TEXT}
    return [about] if said.if_match else []


def _responses(said: words.Words, handler: Handler) -> JSONSchema:
    done: JSONSchema = {"description": said.summary if not said.answer else _about(said.answer)}
    if said.answer:
        done["content"] = {"application/json": {"schema": ref(said.answer)}}
    if said.headers:
        done["headers"] = _headers(said.headers)
    refused = {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in _refused(said, handler)}
    if handler.access:
        refused["401"] = {"$ref": "#/components/responses/SignIn"}
    return {str(said.status): done, **dict(sorted(refused.items()))}


def _about(answer: str) -> str:
    return str(SCHEMAS[answer]["description"])


def _refused(said: words.Words, handler: Handler) -> list[int]:
    """Statuses of the problems that an operation may answer with."""
    return [405, *said.problems, *_by_access(handler), *_by_input(said, handler)]


def _by_access(handler: Handler) -> Iterator[int]:
    if handler.access:
        yield from (403, 404, 503)


def _by_input(said: words.Words, handler: Handler) -> Iterator[int]:
    if handler.query or handler.body:
        yield 400
    if handler.body:
        yield 413
    if handler.body and handler.access:
        yield 415
    if said.if_match:
        yield 412
