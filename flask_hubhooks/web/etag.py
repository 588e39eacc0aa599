"""`ETag` and `If-Match` (RFC 9110), so that two editors do not overwrite each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flask import Response, request

from .pipeline import json_response
from .problems import Problem


def tagged(content: Mapping[str, Any], status: int = 200, *, more: Mapping[str, Any] | None = None) -> Response:
    """Answer with a document and its ETag; `more` is added to it, and does not count."""
    response = json_response({**content, **(more or {})}, status)
    response.set_etag(version(content))
    return response


def require_match(content: Mapping[str, Any]) -> None:
    """Raise 412 where the request's `If-Match` names another version of the document."""
    if "If-Match" in request.headers and not request.if_match.contains(version(content)):
        raise Problem(412, "It was changed since you read it: read it again, and then change it.")


def version(content: Mapping[str, Any]) -> str:
    """The document's ETag: another one once somebody has edited it."""
    return hashlib.sha256(json.dumps(_edited(content), sort_keys=True).encode()).hexdigest()[:32]


def _edited(content: Any) -> Any:
    """The document without what changes by itself."""
    if isinstance(content, Mapping):
        return {key: _edited(value) for key, value in content.items() if key != "failing_since"}
    return [_edited(each) for each in content] if isinstance(content, list) else content
