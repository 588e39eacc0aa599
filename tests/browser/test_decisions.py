"""Deciding a delivery of a chain by hand."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from ..support.host import Host
from ..support.receivers import Receiver
from .conftest import MakeVisit
from .test_every_page import SMALLEST, violations
from .visit import NARROW, WIDE


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_decide_a_chain(site: Host, visit_as: MakeVisit, script: bool) -> None:
    """An owner marks the first delivery as succeeded, so that the next URL is called, and that one as failed."""
    with Receiver() as first, Receiver() as second:
        webhook = site.create(first.url, second.url, name="Pipeline")
        site.push(tag="v1")
        site.deliver()
        visit = visit_as(java_script_enabled=script)
        visit.open(f"{webhook['id']}/history/")
        visit.link(first.url).click()
        if script:
            assert not violations(visit.page)
        visit.fits(NARROW, SMALLEST, WIDE)
        visit.field("Description (optional)").fill("Approved for production")
        visit.button("Mark as succeeded").click()
        visit.sees("Your decision was recorded.")
        visit.sees("Callback: success \u00b7 alice \u00b7 Approved for production")
        expect(visit.button("Mark as succeeded")).to_have_count(0)
        site.deliver()
        assert len(second.requests) == 1
    visit.page.reload()
    visit.link(second.url).click()
    visit.button("Mark as failed").click()
    visit.sees("Callback: failure \u00b7 alice")
    assert site.states(webhook) == ["succeeded", "failed"]


def test_a_callback_comes_first(site: Host, visit_as: MakeVisit) -> None:
    """What is typed stays while the page refreshes, and the form goes when the receiver calls back."""
    with Receiver() as receiver:
        webhook = site.create(receiver.url, expect_final_callback=True)
        site.push()
        site.deliver()
        visit = visit_as()
        visit.page.clock.install()
        visit.open(f"{webhook['id']}/history/{site.history(webhook)[0]['id']}/")
        description = visit.field("Description (optional)")
        description.fill("Looks good")
        visit.wait_a_minute()
        expect(description).to_have_value("Looks good")
        assert site.call_back(receiver.requests[0].body).status_code == 200
        visit.wait_a_minute()
        expect(description).to_have_count(0)
