"""What answers over HTTP: the API and the callbacks."""

from __future__ import annotations

from flask import Blueprint

from . import api, callbacks


def add_routes(blueprint: Blueprint) -> None:
    """Put every route on the blueprint."""
    api.add_routes(blueprint)
    callbacks.add_routes(blueprint)
