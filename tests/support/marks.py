"""Marks and values that many tests use."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .host import Host

on_postgresql = pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)

MakeHost = Callable[..., Host]
"""The fixture `make_host`."""

URL = "http://127.0.0.1:9/hook"
"""Nothing listens there."""
