"""A visitor of the pages: Chromium, what is to be seen in it, and what goes wrong in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Response
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, Request, expect, sync_playwright
from playwright.sync_api import Response as Answer

from ..support.host import Host

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    "--no-sandbox",  # for root, as whom CI runs
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STRICT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'"
)
WIDE, NARROW = 1100, 390
"""Widths of a window on a desk and of a phone, in CSS pixels."""

expect.set_options(timeout=10_000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, which each visit gets a context of its own in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def be_strict(host: Host) -> None:
    """Have the host send a strict Content-Security-Policy with each page, as a careful one does."""

    @host.app.after_request
    def _with_policy(response: Response) -> Response:
        response.headers.add("Content-Security-Policy", STRICT_POLICY)
        return response


@contextmanager
def visiting(browser: Browser, host: Host, width: int = WIDE, **options: Any) -> Iterator[Visit]:
    """Alice's visit; `options` are those of a browser's context, such as `color_scheme`."""
    context = browser.new_context(
        base_url=host.state.config.external_url,
        extra_http_headers={"X-User": "alice"},
        viewport={"width": width, "height": 900},
        **options,
    )
    context.set_default_timeout(10_000)
    visit = Visit(context.new_page(), host)
    yield visit
    context.close()


@dataclass
class Visit:
    """One visitor's window, and what went wrong in it: dialogs, errors, what the host's policy had to refuse."""

    page: Page
    host: Host
    faults: list[str] = field(default_factory=list)
    posts: list[str] = field(default_factory=list)
    """The URLs of requests that may change something."""

    def __post_init__(self) -> None:
        self.page.on("dialog", self._refuse)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._record)
        self.page.on("response", self._check)

    def _refuse(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, message: ConsoleMessage) -> None:
        # An answer of 400 or 404 is told there as well, and is what a test asked for.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.faults.append(message.text)

    def _record(self, request: Request) -> None:
        if request.method != "GET":
            self.posts.append(request.url)

    def _check(self, response: Answer) -> None:
        if response.status >= 500:
            self.faults.append(f"{response.status} {response.url}")

    def open(self, path: str = "", repository: str = "acme/app") -> None:
        """Go to a page below a repository's webhooks."""
        self.page.goto(f"/r/{repository}/webhooks/{path}")

    def field(self, label: str) -> Locator:
        return self.page.get_by_label(label, exact=True)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name, exact=True)

    def menu(self, webhook: str) -> Locator:
        """What opens a webhook's menu."""
        return self.field(f"Actions for {webhook}")

    def choose(self, webhook: str, action: str) -> None:
        """Choose from a webhook's menu, on the page of all of them."""
        self.menu(webhook).click()
        self.page.locator("a:visible, button:visible").get_by_text(action, exact=True).click()

    def wait_a_minute(self) -> None:
        """Let a minute pass for the page's script, so that it reads anew what moves; once its clock is installed."""
        self.page.clock.fast_forward(60_000)

    def sees(self, text: str) -> None:
        """Wait until a text is to be seen; raises `AssertionError` where it does not come."""
        expect(self.page.get_by_text(text).locator("visible=true").first).to_be_visible()

    def heading(self, text: str) -> None:
        """Wait for the page with this heading."""
        expect(self.page.get_by_role("heading", level=1)).to_have_text(text)

    def focused(self) -> str:
        """The accessible name of what has the focus, as far as a label or its text gives it."""
        return str(
            self.page.evaluate(
                "(e => e.getAttribute('aria-label') ?? e.labels?.[0]?.textContent.trim() ?? e.textContent.trim())"
                "(document.activeElement)"
            )
        )

    def tab_to(self, name: str, key: str = "Tab") -> None:
        """Press Tab until the focus is on what has that name; raises `AssertionError` where it never is."""
        for _ in range(60):
            if self.focused() == name:
                return
            self.page.keyboard.press(key)
        raise AssertionError(f"{name} cannot be reached by {key}; the focus is on {self.focused()}")

    def resize(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})

    def fits(self, *widths: int) -> None:
        """Raise `AssertionError` where the page must be scrolled sideways in a window so wide, with what sticks out."""
        for width in widths:
            self.resize(width)
            assert not self.page.evaluate(STICKING_OUT), f"{self.page.url} in {width} px"


STICKING_OUT = """() => {
  const root = document.documentElement;
  if (root.scrollWidth <= root.clientWidth && root.clientWidth <= innerWidth) return [];
  const out = (box) => box.width && (box.right > root.clientWidth + 1 || box.left < -1);
  const found = [...document.body.querySelectorAll("*")].filter((each) => out(each.getBoundingClientRect()));
  return [`${root.scrollWidth} px wide`, ...found.map((each) => each.outerHTML.slice(0, 120))];
}"""
