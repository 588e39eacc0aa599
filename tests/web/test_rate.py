"""How often a repository may request sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from flask_hubhooks.records.models import Delivery, Push

from ..support.host import Host
from ..support.marks import URL, MakeHost, on_sqlite
from ..support.processes import free_port

NOW = 1_800_000_015.0  # 15 s after the beginning of a minute


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time used for counting sends, which can be set."""
    now = [NOW]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def asks(
    host: Host, webhook: dict[str, Any], repository: str = "acme/app", user: str = "alice"
) -> list[Callable[[], Any]]:
    """Return a test, a redelivery and a recovery of a webhook, to be called."""
    path = f"{repository}/webhooks/{webhook['id']}/"
    delivery = host.api("GET", f"{path}history/", user="reader").get_json()["results"][-1]["id"]
    since = {"since": "2020-01-01T00:00:00Z"}
    return [
        lambda: host.api("POST", f"{path}test/", user=user),
        lambda: host.api("POST", f"{path}history/{delivery}/redeliver/", user=user),
        lambda: host.api("POST", f"{path}recover/", user=user, json=since),
    ]


def rounds(host: Host) -> tuple[int, int]:
    """Count the pushes, and the rounds of all deliveries."""
    with host.writing() as session:
        pushes = session.scalar(select(func.count()).select_from(Push)) or 0
        return pushes, session.scalar(select(func.sum(Delivery.round))) or 0


def test_limit(make_host: MakeHost, clock: list[float]) -> None:
    """Over the limit all three get 429 and change nothing; they work again when the minute is over."""
    host = make_host(config={"HUBHOOKS_MAX_SENDS_PER_MINUTE": 3})
    webhook = host.create(URL)
    host.push()
    test, redeliver, recover = asks(host, webhook)
    assert [each().status_code for each in (test, redeliver, recover)] == [202, 202, 200]
    before = rounds(host)
    for each in (test, redeliver, recover):
        answer = each()
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "45")
        assert answer.content_type == "application/problem+json"
        assert "More than 3 tests, redeliveries and recoveries" in answer.get_json()["detail"]
    assert rounds(host) == before
    assert host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"name": "other"}).status_code == 200
    host.push()  # what is really pushed is not limited
    assert rounds(host)[0] == before[0] + 1
    clock[0] += 45
    assert test().status_code == 202
    assert 0 < host.state.redis.ttl(next(iter(host.state.redis.scan_iter("hubhooks:sends:*")))) <= 120


@on_sqlite
def test_of_each_repository(make_host: MakeHost, clock: list[float]) -> None:
    """All webhooks of a repository share its limit; any other repository has its own."""
    host = make_host(config={"HUBHOOKS_MAX_SENDS_PER_MINUTE": 1})
    first, second, other = host.create(URL), host.create(URL, name="b"), host.create(URL, repository="acme/other")
    path = "acme/app/webhooks/{}/test/"
    assert [host.api("POST", path.format(each["id"])).status_code for each in (first, second)] == [202, 429]
    assert host.api("POST", f"acme/other/webhooks/{other['id']}/test/").status_code == 202
    assert host.api("POST", f"acme/other/webhooks/{other['id']}/test/").status_code == 429


@on_sqlite
def test_what_is_denied_is_not_counted(make_host: MakeHost, clock: list[float]) -> None:
    """Requests by readers, strangers and other sites, and invalid ones, do not count."""
    host = make_host(config={"HUBHOOKS_MAX_SENDS_PER_MINUTE": 1})
    webhook = host.create(URL)
    host.push()
    for user, status in (("reader", 403), ("bob", 404)):
        assert [each().status_code for each in asks(host, webhook, user=user)] == [status] * 3
    path = f"acme/app/webhooks/{webhook['id']}/"
    foreign = {"Origin": "https://evil.example"}
    assert host.api("POST", f"{path}test/", headers=foreign).status_code == 403
    assert host.api("POST", f"{path}test/", user=None).status_code == 401
    assert host.api("POST", f"{path}test/", json={"chain": 1}).status_code == 400
    assert host.api("POST", f"{path}recover/", json={}).status_code == 400
    assert list(host.state.redis.scan_iter("hubhooks:sends:*")) == []
    assert host.api("POST", f"{path}test/").status_code == 202


@on_sqlite
def test_redis_away(make_host: MakeHost) -> None:
    """While Redis is away the response is a quick 503 that says when to try again."""
    host = make_host(redis_url=f"redis://127.0.0.1:{free_port()}/0", config={"HUBHOOKS_MAX_SENDS_PER_MINUTE": 1})
    webhook = host.create(URL)
    host.push()
    began = time.monotonic()
    answers = [each() for each in asks(host, webhook)]
    assert [each.status_code for each in answers] == [503, 503, 503]
    assert all(each.headers["Retry-After"] == "5" for each in answers)
    assert time.monotonic() - began < 10
