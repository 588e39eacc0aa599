"""Everything that is served over HTTP: the API, the callback URL and the pages."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app

from . import callbacks, openapi, pages, sources  # noqa: F401 - these declare endpoints
from .api import deliveries, previews, webhooks  # noqa: F401
from .endpoints import add_endpoints


def add_routes(blueprint: Blueprint) -> None:
    """Put every route on the blueprint."""
    add_endpoints(blueprint)
    pages.add_routes(blueprint)

    @blueprint.url_value_preprocessor
    def exempt_from_csrf(*_: Any) -> None:
        """Exempt our routes from the host's `CSRFProtect`, before it checks the request.

        The API needs no token, and the pages check it themselves.
        """
        if (csrf := current_app.extensions.get("csrf")) is not None:
            csrf.exempt(blueprint)
