"""The time-out of a hook, in the API and on the pages."""

from __future__ import annotations

from typing import Any

import pytest

from flask_hubhooks.records.models import Hook

from ..support.host import Owned, problem
from ..support.marks import URL, MakeHost, on_sqlite
from ..support.receivers import Receiver, hang
from ..support.visitor import Visitor, text_of, version_on


def timeouts(webhook: dict[str, Any]) -> list[int]:
    return [each["timeout_s"] for each in webhook["hooks"]]


def test_timeouts(owned: Owned) -> None:
    """A hook has a time-out of 15 s, or its own: given beside `hook_url`, in `hooks`, or later."""
    top = owned("POST", json={"name": "top", "hook_url": URL, "timeout_s": 60}).get_json()
    assert timeouts(top) == [60]
    nested = owned.create(name="nested", hooks=[{"hook_url": URL, "timeout_s": 5}, {"hook_url": URL}])
    assert timeouts(nested) == [5, 15]
    path = f"{nested['id']}/hooks/{nested['hooks'][1]['id']}/"
    assert owned.patch(path, {"timeout_s": 30})["timeout_s"] == 30
    assert owned.patch(path, {"hook_url": f"{URL}/2"})["timeout_s"] == 30, "what a change leaves out stays"


@pytest.mark.parametrize("value", [4, 61, 0, -15, 15.5, "15", True, None, 10**20])
def test_bad_timeouts(owned: Owned, value: object) -> None:
    """A time-out is a whole number from 5 to 60."""
    answer = owned("POST", json={"name": "deploy", "hook_url": URL, "timeout_s": value})
    assert list(problem(answer, 400)["errors"]) == ["timeout_s"]
    assert list(problem(owned("POST", json={"name": "deploy", "timeout_s": 15}), 400)["errors"]) == ["timeout_s"]


@on_sqlite
def test_a_lower_maximum(make_host: MakeHost) -> None:
    """The operator can lower the maximum. Values from before are capped when they are shown and when they are sent."""
    host = make_host(config={"HUBHOOKS_MAX_TIMEOUT_S": 5})
    answer = host.api("POST", "acme/app/webhooks/", json={"name": "deploy", "hook_url": URL, "timeout_s": 6})
    assert problem(answer, 400)["errors"] == {"timeout_s": ["Must be 5 to 5 seconds."]}
    schemas = host.client.get("/hubhooks/openapi.json").get_json()["components"]["schemas"]
    described = schemas["HookWanted"]["properties"]["timeout_s"]
    assert (described["minimum"], described["maximum"], described["default"]) == (5, 5, 5)
    with Receiver(hang) as receiver:
        webhook = host.create(receiver.url)
        host.set_all(Hook, timeout_s=60)
        host.push()
        host.deliver()
    assert timeouts(host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()) == [5]
    assert host.one_delivery(webhook)["attempts"][0]["cause"].startswith("No answer within 5 s. ")


def test_on_the_pages(owned: Owned) -> None:
    """Both forms have the time-out among more settings, which are open where it is wrong."""
    owner = Visitor(owned.host, "alice", owned.repository)
    assert owner.send(name="deploy", hook_url=URL, hook_id="", timeout_s=" 30 ").status_code == 201
    webhook = owned.get()["results"][0]
    assert timeouts(webhook) == [30]
    path, known = f"{webhook['id']}/", {"name": "deploy", "hook_id": str(webhook["hooks"][0]["id"]), "hook_url": URL}
    shown = owner.get(path)
    assert 'name="timeout_s" value="30"' in shown.text and '<details class="settings" id="settings-0">' in shown.text
    for wrong, message in {"4": "Must be 5 to 60 seconds.", "soon": "Not a valid integer."}.items():
        answer = owner.send(path, **known, version=version_on(shown), timeout_s=wrong)
        assert answer.status_code == 400 and message in text_of(answer)
        assert '<details class="settings" id="settings-0" open>' in answer.text
        assert 'aria-describedby="timeout_s-0-errors timeout_s-0-hint" aria-invalid="true" autofocus' in answer.text
    assert owner.send(path, **known, version=version_on(shown), timeout_s="").status_code == 303
    assert timeouts(owned.get(path)) == [30], "an empty field changes nothing"
