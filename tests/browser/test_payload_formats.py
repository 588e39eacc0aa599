"""Choosing a payload format in the form of a webhook, and seeing what would be sent."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from ..support.host import Host
from .conftest import MakeVisit
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
    switch = visit.page.get_by_role("button", name="Switch to harbor")
    expect(switch).to_be_visible()
    assert not violations(visit.page)
    visit.fits(NARROW, SMALLEST, WIDE)
    switch.click()
    choice = visit.page.get_by_label("Payload for")
    expect(choice).to_have_value("harbor")
    expect(choice).to_be_focused()
    visit.field("Webhook name").press("Enter")
    visit.sees("The webhook was saved.")
    [hook] = site.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"]
    assert (hook["payload_format"], hook["hints"]) == ("harbor", [])


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_preview(site: Host, visit_as: MakeVisit, script: bool) -> None:
    """The preview of a chosen format is shown in the form, with what was typed and the hint; nothing is saved."""
    visit = visit_as(java_script_enabled=script)
    visit.open()
    visit.field("Destination URL").fill(KEEL)
    visit.field("Webhook name").fill("Keel")
    visit.button("Preview requests").click()
    visit.sees("For a sample push. Nothing has been sent.")
    visit.sees("This looks like a URL of Keel")
    visit.page.get_by_role("button", name="Switch to harbor").click()
    expect(visit.page.get_by_text("For a sample push")).to_have_count(0)
    visit.button("Preview requests").click()
    expect(visit.page.get_by_label("Payload of URL 1")).to_contain_text('"type": "PUSH_ARTIFACT"')
    expect(visit.page.get_by_role("heading", name="Requests")).to_be_focused()
    visit.page.get_by_text("8 headers").click()
    visit.sees("webhook-signature")
    expect(visit.field("Webhook name")).to_have_value("Keel")
    if script:  # without it axe cannot run
        assert not violations(visit.page)
    visit.fits(NARROW, SMALLEST, WIDE)
    assert site.api("GET", "acme/app/webhooks/").get_json()["count"] == 0
    visit.button("Create").click()
    visit.heading("Webhook Keel was created")
