"""The pages with JavaScript off: by links and forms alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from ..support.host import Host
from ..support.receivers import Receiver
from .conftest import MakeVisit
from .test_flow import CI, DEPLOY, fill_in
from .visit import Visit


@pytest.fixture
def visit(visit_as: MakeVisit) -> Visit:
    return visit_as(java_script_enabled=False)


def test_create_and_edit(site: Host, visit: Visit) -> None:
    """URLs are added, moved and removed, a filter is tried by a button, and what was typed stays all the while."""
    fill_in(visit, CI, DEPLOY)
    visit.button("Create").click()
    visit.heading("Webhook Pipeline was created")
    for tag in ("v1", "nightly"):
        site.push(tag=tag)
    visit.link("All webhooks").click()
    visit.choose("Pipeline", "Edit")
    visit.field("Webhook name").fill("Release")
    visit.button("Move URL 1 down").click()
    visit.button("+ Add another URL").click()
    visit.field("Destination URL 3").fill("https://third.example.com/")
    visit.button("Remove URL 1").click()
    visit.field("Tag filter").fill("v*")
    visit.button("Try the filter").click()
    visit.sees("Matches 1 of the recent tags: ✓ v1")
    visit.button("Save").click()
    visit.sees("The webhook was saved.")
    [saved] = site.api("GET", "acme/app/webhooks/").get_json()["results"]
    assert saved["name"] == "Release" and saved["tag_filter"] == ["v*"]
    assert [each["hook_url"] for each in saved["hooks"]] == [CI, "https://third.example.com/"]


def test_the_rest(site: Host, visit: Visit) -> None:
    """The history is read and filtered, a delivery sent again, a webhook paused, resumed and deleted."""
    with Receiver(500, 200) as receiver:
        webhook = site.create(receiver.url, name="Pipeline")
        site.push(tag="v1")
        site.deliver()
        visit.open()
        visit.choose("Pipeline", "View history")
        visit.page.get_by_role("combobox").select_option("Succeeded")
        visit.button("Filter").click()
        visit.sees("Nothing matches the filter.")
        visit.link("Show all").click()
        visit.page.get_by_role("row").filter(has_text="v1").get_by_role("link").click()
        visit.sees("HTTP 500")
        expect(visit.button("Copy")).to_have_count(0)
        visit.button("Redeliver").click()
        visit.sees("The delivery is being sent again.")
        site.deliver()
        visit.page.reload()
        visit.sees("HTTP 200")
    visit.link("Webhooks").click()
    visit.choose("Pipeline", "Pause")
    visit.sees("The webhook is paused")
    visit.choose("Pipeline", "Resume")
    visit.choose("Pipeline", "Delete")
    visit.button("Delete").click()
    visit.sees("The webhook was deleted.")
    assert site.api("GET", f"acme/app/webhooks/{webhook['id']}/").status_code == 404
