"""Marks and values that many tests use."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from flask_hubhooks.sources import SOURCES

from .host import Host

on_postgresql = pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)

needs_docker_registry = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="docker-registry or skopeo is not installed",
)

MakeHost = Callable[..., Host]
"""The fixture `make_host`."""

TOKENS = {name: f"the-token-of-{name}" for name in SOURCES}
WITH_SOURCES: dict[str, Any] = {
    "HUBHOOKS_REGISTRY_HOST": "registry.example.com",
    "HUBHOOKS_SOURCE_TOKENS": TOKENS,
}
"""The config of a host app that takes events of all registries."""

URL = "http://127.0.0.1:9/hook"
"""Nothing listens there."""
