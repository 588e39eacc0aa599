"""Errors as `application/problem+json` (RFC 9457): raised anywhere, and turned into a response by the route."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from flask import Response

Errors = Mapping[str, Any]
"""Messages by field: a list, or for nested input another mapping."""


class Problem(Exception):
    """An error for the client. `detail` says what is wrong and what to do; `errors` has messages by field."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Errors | None = None,
        headers: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def response(self) -> Response:
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors is not None:
            content["errors"] = self.errors
        body = json.dumps(content)  # ASCII, since errors quote unknown keys, which may hold lone surrogates
        return Response(body, self.status, self.headers, content_type="application/problem+json")


def not_found() -> Problem:
    """The same problem for what does not exist and for what the client may not read."""
    return Problem(404, "Not found, or you do not have access to it.")


def invalid(errors: Errors) -> Problem:
    return Problem(400, "The request is not valid. See the errors.", errors=errors)


def not_json() -> Problem:
    return Problem(415, "Send JSON with Content-Type: application/json, even if the body is empty.")
