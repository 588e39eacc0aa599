"""A browser, and host apps that answer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser

from ..conftest import serving
from ..support.host import Host
from .visit import CHROMIUM, Visit, be_strict, chromium, visiting

MakeVisit = Callable[..., Visit]


@pytest.fixture(scope="package")  # its event loop must not be there any more for the tests of other folders
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt install chromium)")
    with chromium() as browser:
        yield browser


@pytest.fixture
def database_uri(request: pytest.FixtureRequest) -> str:
    """SQLite, unless a test asks for another: what the pages show does not depend on it."""
    uri: str = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_uri")
    return uri


@pytest.fixture
def site(make_host: Callable[..., Host], request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host app that answers over HTTP, with a strict Content-Security-Policy; a parameter is config of it."""
    with serving(make_host, **getattr(request, "param", {})) as host:
        be_strict(host)
        yield host


@pytest.fixture
def visit_as(browser: Browser, site: Host) -> Iterator[MakeVisit]:
    """A function that begins visits with options of `visiting`; in none of them anything may go wrong."""
    visits: list[Visit] = []
    with ExitStack() as stack:

        def begin(**options: Any) -> Visit:
            visits.append(stack.enter_context(visiting(browser, site, **options)))
            return visits[-1]

        yield begin
        assert not [fault for each in visits for fault in each.faults]


@pytest.fixture
def visit(visit_as: MakeVisit) -> Visit:
    return visit_as()
