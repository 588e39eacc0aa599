"""What people do with webhooks, from the first one to its end, with a mouse."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.web.pages import webhooks, words

from ..support.host import Host
from ..support.receivers import Receiver, http
from .conftest import MakeVisit
from .visit import Visit

CI, DEPLOY = "https://ci.example.com/hook", "https://deploy.example.com/hook"


def fill_in(visit: Visit, *urls: str, name: str = "Pipeline") -> None:
    """Fill in the form that creates a webhook."""
    visit.open()
    visit.field("Webhook name").fill(name)
    visit.field("Destination URL").fill(urls[0])
    for number, url in enumerate(urls[1:], 2):
        visit.button("+ Add another URL").click()
        visit.field(f"Destination URL {number}").fill(url)


def test_create(site: Host, visit_as: MakeVisit) -> None:
    """The form makes a chain; its secret is shown this once, and copied by a button."""
    visit = visit_as(permissions=["clipboard-read", "clipboard-write"])
    fill_in(visit, CI, DEPLOY)
    visit.sees("Several URLs make a chain")
    visit.button("Create").click()
    visit.heading("Webhook Pipeline was created")
    secret = visit.page.get_by_label("Secret", exact=True).and_(visit.page.locator("pre")).inner_text()
    assert secret.startswith("whsec_")
    visit.page.get_by_role("region", name="Secret").get_by_role("button", name="Copy").click()
    visit.sees("Copied")
    assert visit.page.evaluate("navigator.clipboard.readText()") == secret
    assert "WEBHOOK_SECRET" in visit.page.get_by_label("Verification in Python").inner_text()

    [webhook] = site.api("GET", "acme/app/webhooks/").get_json()["results"]
    assert [each["hook_url"] for each in webhook["hooks"]] == [CI, DEPLOY]
    for path in ("", f"{webhook['id']}/", f"{webhook['id']}/history/", f"{webhook['id']}/rotate-secret/"):
        visit.open(path)
        assert secret not in visit.page.content()


@pytest.mark.parametrize("database_uri", ["sqlite", "postgresql"], indirect=True)
def test_a_chain_advances_before_the_eyes(site: Host, visit: Visit) -> None:
    """A push comes to the open history, and its chain moves on there: without reloading, and with the focus kept."""
    with Receiver() as ci, Receiver() as deploy:
        webhook = site.create(ci.url, deploy.url, name="Pipeline")
        visit.page.clock.install()
        visit.open(f"{webhook['id']}/history/")
        visit.sees("No deliveries yet")
        visit.page.evaluate("window.stayed = true")

        site.push(tag="v1", pusher="alice")
        visit.wait_a_minute()
        row = visit.page.get_by_role("row").filter(has_text="v1")
        expect(row).to_contain_text("Under way")
        link = row.get_by_role("link", name=deploy.url)
        link.focus()
        site.deliver()
        visit.wait_a_minute()
        expect(row).to_contain_text("Awaiting callback")
        said = {"description": "387 tests PASSED", "context": "Acme CI", "target_url": "https://ci.acme.com/1"}
        assert site.call_back(ci.requests[0].body, **said).status_code == 200
        visit.wait_a_minute()
        expect(row).to_contain_text("Callback: success · Acme CI · 387 tests PASSED")
        told = row.get_by_role("link", name="https://ci.acme.com/1")
        expect(told).to_have_attribute("rel", "noopener noreferrer nofollow")
        expect(link).to_be_focused()
        site.deliver()
        visit.wait_a_minute()
        expect(row.get_by_text("Awaiting callback", exact=True)).to_be_visible()
        site.call_back(deploy.requests[0].body)
        visit.wait_a_minute()
        expect(row).to_contain_text("Succeeded")
        expect(visit.page.get_by_role("status")).to_have_text("v1: Succeeded")
        expect(link).to_be_focused()
        assert visit.page.evaluate("window.stayed")


def test_a_failed_attempt_is_looked_at_and_sent_again(site: Host, visit: Visit) -> None:
    """From the history to the attempt: its cause, status, headers and body; redelivering shows that it went well."""
    body = b"<h1>No space left</h1>"
    with Receiver(http(507, body, "X-Disk: sda1"), 200) as receiver:
        webhook = site.create(receiver.url, name="Pipeline")
        site.push(tag="v1")
        site.deliver()
        visit.open(f"{webhook['id']}/history/")
        visit.page.get_by_role("row").filter(has_text="v1").get_by_role("link").click()
        visit.heading("Delivery of v1 to Pipeline")
        visit.sees("HTTP 507")
        visit.sees(str(site.history(webhook)[0]["cause"]))
        visit.sees("Next attempt")
        expect(visit.field("Response body")).to_have_text(body.decode())
        for headers in visit.page.get_by_text("headers").all():
            headers.click()
        visit.sees("sda1")
        visit.sees("webhook-signature")
        payload = json.loads(visit.field("Payload").and_(visit.page.locator("pre")).inner_text())
        assert payload["push_data"]["tag"] == "v1" and "***" in payload["callback_url"]

        visit.page.clock.install()
        visit.button("Redeliver").click()
        visit.sees("The delivery is being sent again.")
        site.deliver()
        visit.wait_a_minute()
        visit.sees("HTTP 200")
        visit.sees("Succeeded")
        visit.page.reload()
        assert len(receiver.requests) == 2 and len(visit.posts) == 1


def test_what_the_menu_offers(site: Host, visit: Visit) -> None:
    """A test is sent, the secret rotated, the webhook paused and resumed; it is deleted once asked for twice."""
    with Receiver() as receiver:
        webhook = site.create(receiver.url, name="Pipeline")
        visit.open()
        visit.choose("Pipeline", "Send test")
        visit.sees("A test push was sent.")
        site.deliver()
        assert json.loads(receiver.requests[0].body)["push_data"]["tag"] == "hubhooks-test"
        visit.link("Webhooks").click()
        visit.choose("Pipeline", "Rotate secret")
        visit.button("Rotate secret").click()
        visit.heading("New secret of Pipeline")
        rotated = visit.field("Secret").and_(visit.page.locator("pre")).inner_text()
        assert rotated.startswith("whsec_") and rotated != webhook["secret"]
        visit.link("All webhooks").click()
        visit.choose("Pipeline", "Pause")
        visit.sees("The webhook is paused")
        visit.choose("Pipeline", "Resume")
        visit.sees("The webhook is active again, and sends what was held.")
        visit.choose("Pipeline", "View history")
        visit.sees("hubhooks-test")
        visit.link("Webhooks").click()
        visit.choose("Pipeline", "Delete")
        visit.heading("Delete Pipeline?")
        visit.link("Cancel").click()
        visit.choose("Pipeline", "Delete")
        visit.button("Delete").click()
        visit.sees("The webhook was deleted.")
        visit.sees("This repository has no webhooks yet.")


def test_edit(site: Host, visit: Visit) -> None:
    """URLs are put in another order, a filter is tried while it is typed, a header added, and all of it saved."""
    webhook = site.create(CI, DEPLOY, name="Pipeline")
    for tag in ("v1", "v2-rc1", "nightly"):
        site.push(tag=tag)
    visit.open()
    visit.choose("Pipeline", "Edit")
    visit.page.evaluate("window.stayed = true")
    visit.field("Webhook name").fill("Release")
    visit.button("Move URL 2 up").click()
    expect(visit.field("Destination URL 1")).to_have_value(DEPLOY)
    visit.field("Tag filter").press_sequentially("v* !*-rc*")
    visit.sees("Matches 1 of the recent tags: ✓ v1")
    expect(visit.field("Tag filter")).to_be_focused()
    visit.button("+ Add a header").click()
    visit.field("Name of header 1").fill("Authorization")
    visit.field("Value of header 1").fill("Bearer 81d0")
    visit.field("Callback from the last URL").select_option("Not expected")
    assert visit.page.evaluate("window.stayed")
    visit.button("Save").click()
    visit.sees("The webhook was saved.")
    saved = site.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()
    assert [each["hook_url"] for each in saved["hooks"]] == [DEPLOY, CI]
    assert [each["id"] for each in saved["hooks"]] == [each["id"] for each in webhook["hooks"]][::-1]
    assert saved["name"] == "Release" and saved["tag_filter"] == ["v*", "!*-rc*"]
    assert saved["headers"] == {"Authorization": None} and saved["expect_final_callback"] is False
    visit.open(f"{webhook['id']}/")
    assert "81d0" not in visit.page.content()


def test_a_form_that_expired_loses_nothing(site: Host, visit: Visit) -> None:
    """Where the session has ended meanwhile, what was typed stands there again, and is saved when it is sent again."""
    fill_in(visit, CI, DEPLOY)
    visit.page.context.clear_cookies()
    visit.button("Create").click()
    visit.sees("The form has expired")
    assert site.api("GET", "acme/app/webhooks/").get_json()["count"] == 0
    expect(visit.field("Webhook name")).to_have_value("Pipeline")
    expect(visit.field("Destination URL 2")).to_have_value(DEPLOY)
    visit.button("Create").click()
    visit.heading("Webhook Pipeline was created")


def test_going_back_sends_nothing(site: Host, visit: Visit) -> None:
    """Back from a page that was made by sending a form, and forth again, nothing is sent a second time."""
    fill_in(visit, CI)
    visit.button("Create").click()
    visit.heading("Webhook Pipeline was created")
    visit.page.go_back()
    visit.heading("Webhooks")
    visit.choose("Pipeline", "Pause")
    visit.sees("The webhook is paused")
    visit.page.go_back()
    visit.heading("Webhooks")
    visit.page.go_forward()
    visit.page.reload()
    assert len(visit.posts) == 2
    assert site.api("GET", "acme/app/webhooks/").get_json()["count"] == 1


def test_reading_is_not_disturbed(site: Host, visit: Visit) -> None:
    """New attempts come to the list, and the one that is read stays as it is; the first comes where there was none."""
    with Receiver(503) as receiver:
        webhook = site.create(receiver.url)
        site.push()
        visit.page.clock.install()
        visit.open(f"{webhook['id']}/history/{site.history(webhook)[0]['id']}/")
        visit.sees("Not sent yet.")
        site.deliver()
        visit.wait_a_minute()
        expect(visit.page.get_by_role("heading", name="Attempt 1")).to_be_visible()
        visit.page.get_by_text("headers", exact=False).first.click()
        header = visit.page.get_by_text("webhook-signature")
        expect(header).to_be_visible()
        visit.page.evaluate("getSelection().selectAllChildren(document.querySelector('dl.headers'))")
        site.make_due()
        site.deliver()
        visit.wait_a_minute()
        second = visit.page.get_by_role("link", name="#2 HTTP 503")
        expect(second).to_be_visible()
        expect(header).to_be_visible()
        assert "webhook-signature" in visit.page.evaluate("getSelection().toString()")
        expect(visit.page.get_by_role("heading", name="Attempt 1")).to_be_visible()
        second.click()
        expect(visit.page.get_by_role("heading", name="Attempt 2")).to_be_visible()
        site.make_due()
        site.deliver()
        visit.wait_a_minute()
        expect(visit.page.get_by_role("link", name="#3 HTTP 503")).to_be_visible()
        expect(visit.page.get_by_role("heading", name="Attempt 2")).to_be_visible()


def test_how_long_ago(site: Host, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative times go on in their place: what stands beside them is not built anew."""
    webhook = site.create(CI)
    site.push(tag="v1")
    visit.page.clock.install()
    visit.open(f"{webhook['id']}/history/")
    row = visit.page.get_by_role("row").filter(has_text="v1")
    row.evaluate("(row) => { row.cells[0].kept = true; }")
    monkeypatch.setattr(words, "utcnow", lambda: utcnow() + timedelta(minutes=3))
    visit.wait_a_minute()
    expect(row).to_contain_text("3 minutes ago")
    assert row.evaluate("(row) => row.cells[0].kept")


def test_what_is_announced(site: Host, visit: Visit) -> None:
    """All that comes at once is announced, and so are a webhook's pausing elsewhere and what was just done."""
    webhook = site.create(CI, name="Pipeline")
    visit.page.clock.install()
    visit.open(f"{webhook['id']}/history/")
    status = visit.page.get_by_role("status")
    site.push(tag="v1")
    site.push(tag="v2")
    visit.wait_a_minute()
    expect(status).to_have_text("v2: Under way; v1: Under way")
    expect(visit.page.get_by_role("img", name="Under way: 2")).to_be_visible()
    site.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False})
    visit.wait_a_minute()
    expect(status).to_contain_text("Paused")
    visit.button("Resume").click()
    visit.heading("History of Pipeline")
    visit.sees("The webhook is active again, and sends what was held.")
    visit.page.clock.run_for(1000)
    expect(status).to_have_text("The webhook is active again, and sends what was held.")
    visit.page.reload()
    visit.heading("History of Pipeline")
    expect(visit.page.get_by_text("The webhook is active again, and sends what was held.")).to_have_count(0)


def test_rows_that_fall_off(site: Host, visit: Visit) -> None:
    """What newer pushes have put off the open page is behind its link to older ones."""
    webhook = site.create(CI)
    site.push(tag="first")
    visit.page.clock.install()
    visit.open(f"{webhook['id']}/history/")
    older = visit.page.get_by_role("link", name="Older")
    expect(older).to_have_count(0)
    for number in range(20):
        site.push(tag=f"v{number}")
    visit.wait_a_minute()
    expect(visit.page.get_by_role("row").filter(has_text="v19")).to_be_visible()
    older.click()
    expect(visit.page.get_by_role("row").filter(has_text="first")).to_be_visible()


def test_a_menu_closes_when_it_is_left(site: Host, visit: Visit) -> None:
    """A menu that Tab leads out of does not cover what comes next, and a full bar of outcomes fits 320 px."""
    for name in ("one", "two"):
        site.create(CI, name=name)
    for number in range(20):
        site.push(tag=f"v{number}")
    visit.page.set_viewport_size({"width": 320, "height": 800})
    visit.open()
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    menu = visit.page.locator("details.menu").first
    menu.locator("summary").press("Enter")
    expect(menu.get_by_role("link", name="Delete")).to_be_visible()
    menu.get_by_role("link", name="Delete").focus()
    visit.page.keyboard.press("Tab")
    expect(menu.get_by_role("link", name="Delete")).to_be_hidden()


def test_an_example_that_is_read_stays(site: Host, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload on the empty page is not built anew as time goes on, and so stays where it was scrolled to."""
    noon = utcnow().replace(hour=12)
    monkeypatch.setattr(webhooks, "utcnow", lambda: noon)
    visit.page.clock.install()
    visit.open()
    example = visit.page.get_by_label("Example payload")
    example.evaluate("(element) => { element.kept = true; }")
    monkeypatch.setattr(webhooks, "utcnow", lambda: noon + timedelta(minutes=3))
    for _ in range(2):  # the second is asked for once the first is shown
        with visit.page.expect_response("**/webhooks/"):
            visit.wait_a_minute()
    assert example.evaluate("(element) => element.kept")


def test_what_is_selected_stays(site: Host, visit: Visit) -> None:
    """A selection over several rows stays whole until it is given up; then what came meanwhile is shown."""
    visit.page.clock.install()
    webhook = site.create(CI)
    for tag in ("v1", "v2"):
        site.push(tag=tag)
    visit.open(f"{webhook['id']}/history/")
    visit.page.evaluate("getSelection().selectAllChildren(document.querySelector('tbody'))")
    selected = visit.page.evaluate("getSelection().toString()")
    site.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False})
    site.deliver()
    visit.wait_a_minute()
    visit.sees("Paused")
    assert "v1" in selected and visit.page.evaluate("getSelection().toString()") == selected
    visit.page.evaluate("getSelection().removeAllRanges()")
    visit.wait_a_minute()
    expect(visit.page.get_by_role("row").filter(has_text="v1")).to_contain_text("Held: the webhook is paused.")


def test_adding_while_a_filter_is_tried(site: Host, visit: Visit) -> None:
    """A line that is added while the preview of a filter is still to come is added without a new page."""
    webhook = site.create(CI)
    visit.page.clock.install()
    visit.open(f"{webhook['id']}/")
    visit.page.evaluate("window.stayed = true")
    visit.field("Tag filter").fill("v*")
    with visit.page.expect_response("**/webhooks/*/"):
        visit.page.evaluate("document.getElementById('add-url').click()")
        visit.wait_a_minute()
    expect(visit.field("Destination URL 2")).to_be_focused()
    expect(visit.field("Tag filter")).to_have_value("v*")
    assert visit.page.evaluate("window.stayed")
    assert len(visit.posts) == 1
