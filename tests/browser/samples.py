"""Webhooks in every state with a history of every kind, and the way to each page of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import select

from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.models import Attempt
from flask_hubhooks.testing import Answer

from ..support.host import Host
from .visit import Visit

CI = "https://ci.example.com/hubhooks"
SCANNER = "https://scan.example.com/v1/images"
DEPLOY = "https://deploy.example.com/hooks/production"
MIRROR = "https://mirror.example.com/on-push"
GONE = "https://old-ci.example.com/dockerhub-webhook/notify"
DIGEST = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TAGS = ("v2.2.0", "v2.3.0", "v2.3.1", "v2.3.2-rc1", "v2.3.2", "v2.4.0", "nightly", "v2.4.1")
BAD_GATEWAY = b"""<!doctype html>
<html><head><title>502 Bad Gateway</title></head>
<body><h1>502 Bad Gateway</h1><p>nginx: no live upstreams while connecting to upstream</p></body></html>
"""

Way = Callable[[Visit], None]
"""How a visitor gets to a page."""


def ways(host: Host) -> Mapping[str, Way]:
    """Fill a host app; returns the way to each kind of page by its name, to be gone in this order and once."""
    pipeline, mirror, old = _make(host)
    _deliver(host)
    _age(host)
    failed = f"{mirror['id']}/history/{host.history(mirror)[0]['id']}/"
    under_way, stopped = (_delivery(host, pipeline, tag) for tag in ("v2.4.1", "v2.4.0"))
    awaiting = _delivery(host, pipeline, "v2.4.1", state="awaiting_callback")
    return {
        "empty": lambda visit: visit.open(repository="acme/empty"),
        "webhooks": lambda visit: visit.open(),
        "menu": lambda visit: (visit.open(), visit.menu("Release pipeline").click())[0],
        "history": lambda visit: visit.open(f"{pipeline['id']}/history/"),
        "history-of-failures": lambda visit: visit.open(f"{mirror['id']}/history/?outcome=under_way"),
        "history-filtered": lambda visit: visit.open(f"{pipeline['id']}/history/?tag=nothing"),
        "history-disabled": lambda visit: visit.open(f"{old['id']}/history/"),
        "delivery": lambda visit: _open_all(visit, under_way),
        "delivery-retried": lambda visit: visit.open(failed),
        "delivery-failed": lambda visit: _open_all(visit, failed),
        "delivery-stopped": lambda visit: visit.open(stopped),
        "delivery-awaiting": lambda visit: visit.open(awaiting),
        "edit": lambda visit: visit.open(f"{pipeline['id']}/"),
        "edit-errors": lambda visit: _mistype(visit, pipeline),
        "rotate-secret": lambda visit: visit.open(f"{pipeline['id']}/rotate-secret/"),
        "recover": lambda visit: visit.open(f"{old['id']}/recover/"),
        "delete": lambda visit: visit.open(f"{pipeline['id']}/delete/"),
        "edit-preview": lambda visit: _preview_changes(visit, pipeline),
        "create-errors": _misname,
        "create-preview": _preview,
        "secret": _create,
        "secret-rotated": lambda visit: _rotate(visit, pipeline),
        "problem": lambda visit: visit.open("999999/"),
        "problem-expired": lambda visit: _expire(visit, old),
    }


def _make(host: Host) -> tuple[dict[str, Any], ...]:
    mirror = host.create(MIRROR, name="Mirror", headers={"Authorization": "Bearer 81d0"})
    old = host.create(GONE, name="Old CI", tag_filter=["v*"])
    paused = host.create("https://chat.example.com/hooks/releases", name="Tell the team", tag_filter=["v*"])
    assert host.api("PATCH", f"acme/app/webhooks/{paused['id']}/", json={"active": False}).status_code == 200
    pipeline = host.create(CI, SCANNER, DEPLOY, name="Release pipeline", tag_filter=["v*", "!*-rc*"])
    return pipeline, mirror, old


def _deliver(host: Host) -> None:
    ci = host.deliveries.receiver(CI)
    scanner = host.deliveries.receiver(SCANNER, 202)
    host.deliveries.receiver(DEPLOY, 204, calls_back="success")
    html = {"Content-Type": "text/html", "Server": "nginx/1.26.3"}
    mirror = host.deliveries.receiver(MIRROR, Answer(200, b'{"mirrored": true}', {"Content-Type": "application/json"}))
    host.deliveries.receiver(GONE, Answer(410, b"This job was deleted."))
    with host.deliveries:
        for day, tag in enumerate(TAGS):
            _push(host, tag, day)
            if tag == "v2.4.0":
                ci.call_back("failure", description="3 of 387 tests FAILED", context="CI", target_url=f"{CI}/1416")
            elif tag.startswith("v") and "rc" not in tag:
                ci.call_back("success", description="387 tests PASSED", context="CI", target_url=f"{CI}/14{day}7")
            host.deliveries.deliver_now()
            if tag in ("v2.2.0", "v2.3.0", "v2.3.1", "v2.3.2"):
                scanner.call_back("success", description="No known vulnerabilities", context="Scanner")
            host.deliveries.deliver_now()
        mirror.answers = [Answer(502, BAD_GATEWAY, html)]
        _push(host, "v2.4.2-rc1", 8)
        for _ in range(2):
            host.make_due()
            host.deliveries.deliver_now()


def _push(host: Host, tag: str, number: int) -> None:
    pushed_at = utcnow() - timedelta(hours=14 * (8 - number), minutes=7)
    host.push(tag=tag, digest=DIGEST, pusher="alice" if number % 3 else "bob", pushed_at=pushed_at)
    host.deliveries.deliver_now()


def _age(host: Host) -> None:
    """Have attempts take as long as real receivers take, the same in each run, and begin soon after their push."""
    with host.writing() as session:
        for index, attempt in enumerate(session.scalars(select(Attempt).order_by(Attempt.started_at))):
            attempt.started_at = attempt.delivery.pushed_at + timedelta(minutes=2 * attempt.number - 1)
            attempt.duration_ms, attempt.connect_ms, attempt.wait_ms = 84 + index * 37 % 160, 11, 58 + index % 20


def _delivery(host: Host, webhook: dict[str, Any], tag: str, **wanted: str) -> str:
    of_tag = (each for each in host.history(webhook) if each["push"]["tag"] == tag)
    found = next(each for each in of_tag if wanted.items() <= each.items())
    return f"{webhook['id']}/history/{found['id']}/"


def _open_all(visit: Visit, path: str) -> None:
    visit.open(path)
    visit.page.evaluate("document.querySelectorAll('.hubhooks details').forEach(each => { each.open = true; })")


def _mistype(visit: Visit, webhook: dict[str, Any]) -> None:
    visit.open(f"{webhook['id']}/")
    visit.field("Webhook name").fill("Mirror")
    visit.field("Tag filter").fill("v* [")
    visit.button("+ Add a header").click()
    visit.field("Name of header 1").fill("Content-Length")
    visit.field("Destination URL 2").fill("http://169.254.169.254/latest")
    visit.button("Save").click()
    visit.sees("Nothing was saved")


def _preview_changes(visit: Visit, webhook: dict[str, Any]) -> None:
    visit.open(f"{webhook['id']}/")
    visit.page.get_by_label("Payload of URL 2 for").select_option("Template of your own")
    visit.field("Template in JSON").fill('{"scan": "{image}:{tag}", "report_to": "{callback_url}"}')
    visit.button("Preview requests").click()
    visit.sees('"scan": "127.0.0.1')


def _preview(visit: Visit) -> None:
    visit.open()
    visit.field("Destination URL").fill("https://keel.example.com/v1/webhooks/harbor")
    visit.page.get_by_label("Payload for").select_option("harbor")
    visit.button("Preview requests").click()
    visit.sees("PUSH_ARTIFACT")


def _misname(visit: Visit) -> None:
    visit.open()
    visit.field("Webhook name").fill("Mirror")
    visit.field("Destination URL").fill("ftp://ci.example.com/")
    visit.button("Create").click()
    visit.sees("Nothing was saved")


def _create(visit: Visit) -> None:
    visit.open()
    visit.field("Webhook name").fill("Nightly tests")
    visit.field("Destination URL").fill("https://ci.example.com/nightly")
    visit.button("Create").click()
    visit.heading("Webhook Nightly tests was created")


def _rotate(visit: Visit, webhook: dict[str, Any]) -> None:
    visit.open(f"{webhook['id']}/rotate-secret/")
    visit.button("Rotate secret").click()
    visit.heading("New secret of Release pipeline")


def _expire(visit: Visit, webhook: dict[str, Any]) -> None:
    visit.open(f"{webhook['id']}/delete/")
    visit.page.context.clear_cookies()
    visit.button("Delete").click()
    visit.heading("400 Bad Request")


HOSTILE = (
    "<script>marked = true; alert(1)</script>"
    '"><img src=x onerror="marked = true">'
    "</textarea></pre></title>{{7*7}}${7*7}\u202eesrever\u2066 "
)
"""Text that would run, end an element or turn the page's direction, if it were taken for more than text."""


def hostile_ways(host: Host) -> Mapping[str, Way]:
    """Fill a host app with text that is meant to harm; returns the way to each page that shows it."""
    long = "w" * 300
    url = f"https://evil.example.com/{long}%3Cscript%3E"
    answer = Answer(500, (HOSTILE + long).encode() + b"\0\xff\xfe\x1b[31m", {"X-Evil": HOSTILE[:90] + long})
    receiver = host.deliveries.receiver(url, answer)
    webhook = host.create(url, f"https://evil.example.com/{long}", name=(HOSTILE + long)[:255])
    with host.deliveries:
        host.push(tag="t" * 128, pusher=HOSTILE + long)
        host.deliveries.deliver_now()
        told = {"context": HOSTILE[:100], "description": (HOSTILE + long)[:255], "target_url": f"{url}?{HOSTILE[:9]}"}
        assert receiver.call_back("failure", **told).status_code == 200
    one = f"{webhook['id']}/"
    delivery = f"{one}history/{host.history(webhook)[0]['id']}/"
    return {
        "webhooks": lambda visit: visit.open(),
        "history": lambda visit: visit.open(f"{one}history/"),
        "history-filtered": lambda visit: visit.open(f"{one}history/?" + urlencode({"tag": HOSTILE[:100]})),
        "delivery": lambda visit: _open_all(visit, delivery),
        "edit": lambda visit: visit.open(one),
        "edit-errors": lambda visit: _type_hostile(visit, one),
        "rotate-secret": lambda visit: visit.open(f"{one}rotate-secret/"),
        "recover": lambda visit: visit.open(f"{one}recover/"),
        "delete": lambda visit: visit.open(f"{one}delete/"),
    }


def _type_hostile(visit: Visit, path: str) -> None:
    visit.open(path)
    visit.field("Webhook name").fill(HOSTILE + "w" * 300)
    visit.field("Tag filter").fill(HOSTILE)
    visit.field("Destination URL 2").fill("ftp://evil.example.com/" + "w" * 300)
    visit.button("+ Add a header").click()
    visit.field("Name of header 1").fill(HOSTILE)
    visit.button("Save").click()
    visit.sees("Nothing was saved")
