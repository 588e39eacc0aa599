"""What answers over HTTP: the API, the callbacks and the pages."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app

from . import callbacks, openapi, pages  # noqa: F401 - these declare endpoints
from .api import deliveries, webhooks  # noqa: F401
from .endpoints import add_endpoints


def add_routes(blueprint: Blueprint) -> None:
    """Put every route on the blueprint."""
    add_endpoints(blueprint)
    pages.add_routes(blueprint)

    @blueprint.url_value_preprocessor
    def exempt_from_csrf(*_: Any) -> None:
        """Keep the host's `CSRFProtect` from our routes: the API needs no token, and the pages check it themselves.

        This runs before its check.
        """
        if (csrf := current_app.extensions.get("csrf")) is not None:
            csrf.exempt(blueprint)
