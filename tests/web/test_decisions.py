"""Decisions by hand: an owner decides a delivery that awaits its callback, by API or page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from werkzeug.test import TestResponse

from flask_hubhooks.records.models import Delivery, Hook, Status
from flask_hubhooks.signals import chain_finished, delivery_finished

from ..support.host import Host, failing_for, problem
from ..support.marks import on_sqlite
from ..support.receivers import Receiver, counts
from ..support.visitor import Visitor, text_of


def awaiting(host: Host, *receivers: Receiver) -> dict[str, Any]:
    """Make a webhook whose first hook was received and awaits its callback."""
    webhook = host.create(*(each.url for each in receivers), expect_final_callback=True)
    host.push()
    host.deliver()
    return webhook


def delivery_of(host: Host, webhook: dict[str, Any], position: int = 0) -> dict[str, Any]:
    return next(each for each in host.history(webhook) if each["position"] == position)


def path_of(host: Host, webhook: dict[str, Any], position: int = 0) -> str:
    return f"{webhook['id']}/history/{delivery_of(host, webhook, position)['id']}/"


def decide(host: Host, webhook: dict[str, Any], user: str = "alice", **decision: Any) -> TestResponse:
    return host.api("POST", f"acme/app/webhooks/{path_of(host, webhook)}decide/", user, json=decision)


def test_approving(host: Host, receivers: list[Receiver]) -> None:
    """A success by hand calls the next hook, and is shown as a callback; a real one comes too late."""
    webhook = awaiting(host, *receivers[:2])
    answer = decide(host, webhook, state="success", description="Approved for production")
    assert answer.status_code == 200
    host.deliver()
    assert counts(receivers) == [1, 1, 0]
    first = delivery_of(host, webhook)
    assert (first["state"], first["reason"], first["next_attempt_at"]) == ("succeeded", "", None)
    said = {"state": "success", "description": "Approved for production", "context": "alice", "target_url": ""}
    assert said.items() <= first["callback"].items()
    payload = receivers[0].requests[0].body
    assert [host.call_back(payload, state=state).status_code for state in ("failure", "success")] == [409, 200]
    assert delivery_of(host, webhook) == first | {"chain": delivery_of(host, webhook)["chain"]}


@pytest.mark.parametrize("state", ["failure", "error"])
def test_refusing(host: Host, receivers: list[Receiver], state: str) -> None:
    """Any other state by hand ends the chain, and the host gets the same signals as for a callback."""
    webhook = awaiting(host, *receivers[:2])
    finished: list[Status] = []

    def note(_: object, delivery: Delivery | None = None, deliveries: Sequence[Delivery] = ()) -> None:
        finished.extend(each.status for each in ([delivery] if delivery else deliveries))

    with delivery_finished.connected_to(note, host.app), chain_finished.connected_to(note, host.app):
        assert decide(host, webhook, state=state).status_code == 200
    assert finished == [Status.FAILED, Status.FAILED, Status.SKIPPED]
    host.deliver()
    assert counts(receivers) == [1, 0, 0]
    assert delivery_of(host, webhook)["callback"]["state"] == state


@pytest.mark.parametrize("status", [each for each in Status if each is not Status.AWAITING_CALLBACK])
@on_sqlite
def test_any_other_state(host: Host, receivers: list[Receiver], status: Status) -> None:
    """A delivery in any other state cannot be decided: 409, and nothing changes."""
    webhook = awaiting(host, receivers[0])
    host.set_all(Delivery, status=status)
    before = delivery_of(host, webhook)
    problem(decide(host, webhook, state="success"), 409)
    assert delivery_of(host, webhook) == before


@pytest.mark.parametrize(
    ("decision", "field"),
    [
        ({}, "state"),
        ({"state": "maybe"}, "state"),
        ({"state": None}, "state"),
        ({"state": "success", "description": "x" * 256}, "description"),
        ({"state": "success", "description": 7}, "description"),
        ({"state": "success", "context": "bob"}, "context"),
    ],
)
@on_sqlite
def test_bad_decisions(host: Host, receivers: list[Receiver], decision: dict[str, Any], field: str) -> None:
    """A bad decision is refused with its field, and changes nothing."""
    webhook = awaiting(host, receivers[0])
    assert list(problem(decide(host, webhook, **decision), 400)["errors"]) == [field]
    assert delivery_of(host, webhook)["state"] == "awaiting_callback"


@on_sqlite
def test_long_names_and_tokens(host: Host, receivers: list[Receiver]) -> None:
    """The user's name is cut to 100 characters, and a callback URL in the description is masked."""
    webhook = awaiting(host, receivers[0])
    name = "Ålice " + "x" * 200
    host.hubhooks.authorizer(lambda action, repository: name)
    token = host.state.tokens.make(UUID(delivery_of(host, webhook)["id"]), 1)
    assert decide(host, webhook, state="success", description=f"see {token}").status_code == 200
    shown = delivery_of(host, webhook)["callback"]
    assert (shown["context"], shown["description"]) == (name[:100], "see ***")


@on_sqlite
def test_says_nothing_about_the_receiver(host: Host, receivers: list[Receiver]) -> None:
    """A hook that has been failing is still failing after a decision by hand."""
    webhook = awaiting(host, receivers[0])
    host.set_all(Hook, **failing_for(days=1))
    before = host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"][0]["failing_since"]
    assert decide(host, webhook, state="success").status_code == 200
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"][0]["failing_since"] == before


@on_sqlite
def test_on_the_page(host: Host, receivers: list[Receiver]) -> None:
    """The page of a delivery that awaits its callback has a form to decide it, for owners only."""
    webhook = awaiting(host, *receivers[:2])
    path, owner = path_of(host, webhook), Visitor(host)
    assert "Mark as succeeded" in text_of(owner.get(path))
    assert "Mark as succeeded" not in text_of(Visitor(host, "reader").get(path))
    assert "Mark as succeeded" not in text_of(owner.get(path_of(host, webhook, 1)))
    assert owner.send(f"{path}decide/", state="success", description="x" * 256).status_code == 400
    answer = owner.send(f"{path}decide/", state="success", description="Looks good")
    assert (answer.status_code, answer.headers["Location"].rpartition("?")[2]) == (303, "notice=decided")
    shown = text_of(owner.get(answer.headers["Location"]))
    assert "Your decision was recorded." in shown and "Looks good" in shown and "Mark as succeeded" not in shown
    assert "only a delivery that awaits its callback" in text_of(owner.send(f"{path}decide/", state="failure"))
