"""The pages by keyboard alone."""

from __future__ import annotations

from playwright.sync_api import expect

from ..support.host import Host
from .visit import Visit

CI, DEPLOY = "https://ci.example.com/hook", "https://deploy.example.com/hook"


def test_create(site: Host, visit: Visit) -> None:
    """The form is filled in and sent by Tab and Enter; a URL that is added has the focus."""
    visit.open()
    keys = visit.page.keyboard
    visit.tab_to("Webhook name")
    keys.type("Pipeline")
    visit.tab_to("Destination URL")
    keys.type(CI)
    visit.tab_to("+ Add another URL")
    keys.press("Enter")
    expect(visit.field("Destination URL 2")).to_be_focused()
    keys.type(DEPLOY)
    visit.tab_to("Destination URL 1", "Shift+Tab")
    keys.press("Enter")
    visit.heading("Webhook Pipeline was created")
    [webhook] = site.api("GET", "acme/app/webhooks/").get_json()["results"]
    assert [each["hook_url"] for each in webhook["hooks"]] == [CI, DEPLOY]


def test_menu(site: Host, visit: Visit) -> None:
    """Enter and Space open a menu, Tab leads through it, and Escape closes it and leads back to what opened it."""
    site.create(CI, name="Pipeline")
    visit.open()
    for key in ("Enter", "Space"):
        visit.tab_to("Actions for Pipeline")
        visit.page.keyboard.press(key)
        visit.tab_to("Edit")
        expect(visit.link("Edit")).to_be_visible()
        visit.page.keyboard.press("Escape")
        expect(visit.link("Edit")).to_be_hidden()
        expect(visit.menu("Pipeline")).to_be_focused()
    visit.page.keyboard.press("Enter")
    visit.tab_to("Delete")
    visit.page.keyboard.press("Enter")
    visit.heading("Delete Pipeline?")
    visit.tab_to("Delete")
    visit.page.keyboard.press("Enter")
    visit.sees("The webhook was deleted.")


def test_order(site: Host, visit: Visit) -> None:
    """A URL is moved by its buttons, the focus goes with it, and Enter in a field saves rather than moves."""
    webhook = site.create(CI, DEPLOY, "https://third.example.com/", name="Pipeline")
    visit.open(f"{webhook['id']}/")
    visit.tab_to("Move URL 1 down")
    visit.page.keyboard.press("Enter")
    expect(visit.field("Destination URL 2")).to_have_value(CI)
    expect(visit.field("Destination URL 2")).to_be_focused()
    visit.tab_to("Move URL 2 down")
    visit.page.keyboard.press("Space")
    expect(visit.field("Destination URL 3")).to_be_focused()
    visit.page.keyboard.press("Enter")
    visit.sees("The webhook was saved.")
    [saved] = site.api("GET", "acme/app/webhooks/").get_json()["results"]
    assert [each["hook_url"] for each in saved["hooks"]] == [DEPLOY, "https://third.example.com/", CI]
