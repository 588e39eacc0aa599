"""Choosing a payload format in the form of a webhook."""

from __future__ import annotations

from playwright.sync_api import expect

from ..support.host import Host
from .test_every_page import SMALLEST, violations
from .visit import NARROW, WIDE, Visit

KEEL = "https://keel.example.com/v1/webhooks/harbor"


def test_template(site: Host, visit: Visit) -> None:
    """A chosen template has its field at once, with the focus, and is saved as it was typed."""
    visit.open()
    visit.field("Webhook name").fill("Own")
    visit.field("Destination URL").fill("https://own.example.com/")
    visit.page.get_by_label("Payload for").select_option("Template of your own")
    expect(visit.field("Template in JSON")).to_be_focused()
    visit.page.keyboard.type('{"tag": "{tag}"}')
    assert not violations(visit.page)
    visit.fits(NARROW, SMALLEST, WIDE)
    visit.page.keyboard.press("Tab")
    visit.field("Webhook name").press("Enter")
    visit.heading("Webhook Own was created")
    [webhook] = site.api("GET", "acme/app/webhooks/").get_json()["results"]
    assert [(each["payload_format"], each["template"]) for each in webhook["hooks"]] == [
        ("template", '{"tag": "{tag}"}')
    ]


def test_hint(site: Host, visit: Visit) -> None:
    """Where a URL looks like a receiver that needs another payload, one button switches to it."""
    webhook = site.create(KEEL, name="Keel")
    visit.open()
    visit.sees("looks like a URL of Keel")
    assert not violations(visit.page)
    visit.link("Choose it").click()
    assert not violations(visit.page)
    visit.fits(NARROW, SMALLEST, WIDE)
    visit.page.get_by_role("button", name="Switch to harbor").click()
    choice = visit.page.get_by_label("Payload for")
    expect(choice).to_have_value("harbor")
    expect(choice).to_be_focused()
    visit.field("Webhook name").press("Enter")
    visit.sees("The webhook was saved.")
    [hook] = site.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"]
    assert (hook["payload_format"], hook["hints"]) == ("harbor", [])
