"""Errors as the OCI distribution specification wants them: `{"errors": [{"code", "message", "detail"}]}`."""

from __future__ import annotations

import json

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

# The specification's codes: the HTTP status each one usually has, and a message.
CODES = {
    "BLOB_UNKNOWN": (404, "this repository has no such blob"),
    "BLOB_UPLOAD_INVALID": (400, "the upload cannot go on like this"),
    "BLOB_UPLOAD_UNKNOWN": (404, "this repository has no such upload"),
    "DENIED": (403, "this is not yours"),
    "DIGEST_INVALID": (400, "the digest is malformed or not that of the content"),
    "MANIFEST_BLOB_UNKNOWN": (404, "the manifest names content that this repository does not have"),
    "MANIFEST_INVALID": (400, "the manifest is not a valid one"),
    "MANIFEST_UNKNOWN": (404, "this repository has no such manifest"),
    "NAME_INVALID": (400, "this cannot be the name of a repository"),
    "NAME_UNKNOWN": (404, "there is no such repository"),
    "SIZE_INVALID": (400, "the content has not the length it should have"),
    "UNAUTHORIZED": (401, "sign in first"),
    "UNSUPPORTED": (400, "this registry cannot do that"),
}
BY_STATUS = {400: "SIZE_INVALID", 401: "UNAUTHORIZED", 413: "SIZE_INVALID", 416: "SIZE_INVALID", 429: "TOOMANYREQUESTS"}


class RegistryError(HTTPException):
    """An error with one of the specification's codes; `status` replaces the code's usual HTTP status."""

    def __init__(self, error: str, detail: str = "", status: int | None = None) -> None:
        usual_status, message = CODES[error]
        super().__init__(message)
        self.code = status or usual_status
        self.error = error
        self.detail = detail


def answer(error: HTTPException) -> Response:
    """The response for any HTTP error, which keeps headers of its own such as `WWW-Authenticate`."""
    code = error.error if isinstance(error, RegistryError) else BY_STATUS.get(error.code or 500, "UNKNOWN")
    detail = error.detail if isinstance(error, RegistryError) else ""
    response = error.get_response()
    response.content_type = "application/json"
    response.data = json.dumps({"errors": [{"code": code, "message": error.description, "detail": detail}]})
    return response
