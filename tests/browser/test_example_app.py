"""The example registry's pages in a browser."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect
from werkzeug.serving import make_server

from example_app import create_app
from example_app.database import db
from example_app.image import build_image

from ..example.test_example_app import push, settings
from .test_every_page import violations
from .visit import NARROW, WIDE


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The URL of the registry, to which `acme/app:1.0` and `acme/taken:1.0` were pushed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(settings(tmp_path) | {"HUBHOOKS_EXTERNAL_URL": url})
        for name in ("acme/app", "acme/taken"):
            push(app.test_client(), build_image({"a": b"a"}), "1.0", name)
        server = make_server("127.0.0.1", listener.getsockname()[1], app, threaded=True, fd=listener.fileno())
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield url
        server.shutdown()
        thread.join()
        server.server_close()
        with app.app_context():
            db.engine.dispose()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_settings(browser: Browser, registry: str, color_scheme: Literal["light", "dark"]) -> None:
    """A repository is renamed and deleted on its settings page, in which axe finds nothing, errors shown or not."""
    found = {}
    with closing(browser.new_context(base_url=registry, color_scheme=color_scheme)) as context:
        page = context.new_page()

        def check(name: str) -> None:
            for width in (NARROW, WIDE):
                page.set_viewport_size({"width": width, "height": 900})
                found[f"{name}, {width} px"] = violations(page)

        page.goto("/settings/acme/app/")
        page.get_by_label("Name", exact=True).fill("alice")
        page.get_by_label("Password").fill("alice")
        page.get_by_role("main").get_by_role("button").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Settings of acme/app")
        check("settings")
        page.get_by_label("New name").fill("acme/taken")
        page.get_by_role("button", name="Rename").click()
        expect(page.get_by_role("alert")).to_have_text("The name acme/taken is taken.")
        check("taken")
        page.get_by_role("link", name="Settings").click()
        page.get_by_label("Type acme/app to confirm").fill("acme")
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("alert")).to_have_text("Type acme/app to confirm.")
        check("not confirmed")
        page.get_by_label("New name").fill("acme/new")
        page.get_by_role("button", name="Rename").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("acme/new")
        page.get_by_role("link", name="Settings").click()
        page.get_by_label("Type acme/new to confirm").fill("acme/new")
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Repositories")
        expect(page.get_by_text("acme/new")).to_have_count(0)
        check("repositories")
    assert not {name: each for name, each in found.items() if each}
