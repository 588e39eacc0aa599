"""Pinning the key of a receiver whose certificate is refused."""

from __future__ import annotations

import trustme
from playwright.sync_api import expect

from ..support.host import Host
from ..support.receivers import Receiver, tls_context
from .test_every_page import SMALLEST, violations
from .visit import NARROW, WIDE, Visit


def test_pinning(site: Host, visit: Visit) -> None:
    """A failed delivery shows the certificate and a button to pin its key; after that a redelivery succeeds."""
    with Receiver(tls=tls_context(trustme.CA(), "receiver.internal")) as receiver:
        webhook = site.create(receiver.url, name="Internal")
        site.push(tag="v1")
        site.run_job()
        delivery = site.one_delivery(webhook)
        visit.open(f"{webhook['id']}/history/{delivery['id']}/")
        visit.sees("receiver.internal")
        visit.sees(delivery["attempts"][0]["certificate"]["public_key_sha256"])
        assert not violations(visit.page)
        visit.fits(NARROW, SMALLEST, WIDE)
        visit.button("Pin this key").click()
        visit.sees("The key is pinned. Redeliver to try it.")
        visit.sees("This key is pinned.")
        assert not violations(visit.page)
        visit.button("Redeliver").click()
        visit.sees("The delivery is being sent again.")
        site.run_job()
        visit.page.reload()
        visit.sees("Succeeded")
    assert len(receiver.requests) == 1


def test_setting_an_authority(site: Host, visit: Visit) -> None:
    """A choice shows its field at once, with the focus, and is saved."""
    webhook = site.create("https://receiver.internal/hook", name="Internal")
    visit.open(f"{webhook['id']}/")
    visit.page.get_by_text("More settings").click()
    choice = visit.page.get_by_label("Certificate of the receiver")
    choice.select_option("A pinned key")
    expect(visit.field("SHA-256 of its public key in base64")).to_be_focused()
    choice.select_option("An authority of your own")
    authority = visit.field("Certificates of the authority in PEM")
    expect(authority).to_be_focused()
    assert not violations(visit.page)
    visit.fits(NARROW, SMALLEST, WIDE)
    visit.button("Save").click()
    visit.sees("Must be one or more certificates in PEM")
    pem = trustme.CA().cert_pem.bytes().decode()
    authority.fill(pem)
    visit.button("Save").click()
    visit.sees("The webhook was saved.")
    [hook] = site.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"]
    assert hook["tls"] == {"ca": pem}
