"""What owners do with webhooks and hooks: edit, pause, move, remove; the lists; and the limits."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import select, update

from flask_hubhooks.records.models import Delivery, Hook, Status, Webhook
from flask_hubhooks.records.webhooks import MAX_SLUG, disable

from ..support.host import Host, Owned, problem
from ..support.receivers import Receiver

URL = "https://ci.example.com/hook"
NEVER = "http://127.0.0.1:9/hook"


def path(webhook: dict[str, Any], hook: int | None = None) -> str:
    """Return the path of a webhook, or of one of its hooks, below the repository's webhooks."""
    return f"{webhook['id']}/" if hook is None else f"{webhook['id']}/hooks/{webhook['hooks'][hook]['id']}/"


def urls(webhook: dict[str, Any]) -> list[str]:
    return [hook["hook_url"] for hook in webhook["hooks"]]


def ids(webhook: dict[str, Any]) -> list[int]:
    return [hook["id"] for hook in webhook["hooks"]]


# Making


def test_hooks_may_come_later(owned: Owned) -> None:
    """A webhook with only a name sends nothing; hooks are added one by one at the end."""
    webhook = owned.create()
    assert (webhook["hooks"], webhook["expect_final_callback"], webhook["active"]) == ([], False, True)
    owned.push()
    for number in range(3):
        answer = owned("POST", f"{path(webhook)}hooks/", json={"hook_url": f"{NEVER}/{number}"})
        assert answer.status_code == 201
        hook = answer.get_json()
        here = f"{path(webhook)}hooks/{hook['id']}/"
        assert answer.headers["Location"] == (
            f"https://registry.example.com/v2/repositories/{owned.repository}/webhooks/{here}"
        )
        read = owned("GET", here)
        assert (read.get_json(), read.headers["ETag"]) == (hook, answer.headers["ETag"])
    assert urls(owned.get(path(webhook))) == [f"{NEVER}/{number}" for number in range(3)]
    assert owned.get(f"{path(webhook)}hooks/")["results"] == owned.get(path(webhook))["hooks"]
    assert owned.get(path(webhook))["expect_final_callback"] is True
    assert owned.states(webhook) == []
    owned.push()
    assert owned.states(webhook) == ["pending", "waiting", "waiting"]


def test_every_field_when_made(owned: Owned) -> None:
    """A webhook can be created paused, with a tag filter, and without a final callback for its chain."""
    more: dict[str, Any] = {"active": False, "expect_final_callback": False, "tag_filter": ["v*", "!*-rc*"]}
    webhook = owned.create(URL, URL, **more)
    assert {key: webhook[key] for key in more} == more
    owned.push("v1")
    assert owned.states(webhook) == []


# Editing


def test_each_field(owned: Owned) -> None:
    """Only the fields in a request change, in the webhook and in its hooks."""
    webhook = owned.create(URL, f"{URL}/2")
    changes: list[dict[str, Any]] = [
        {"name": "released", "slug": "released"},
        {"tag_filter": ["v*", "!*-rc*"]},
        {"tag_filter": []},
        {"expect_final_callback": False},
        {"active": False},
        {"active": True},
    ]
    before = owned.get(path(webhook))
    for change in changes:
        after = owned.patch(path(webhook), {key: value for key, value in change.items() if key != "slug"})
        volatile = {"last_updated": after["last_updated"]} | ({"hooks": after["hooks"]} if "active" in change else {})
        assert after == before | change | volatile
        assert after["last_updated"] > before["last_updated"]
        assert owned.get(path(webhook)) == after
        before = after


def test_nothing_changed(owned: Owned) -> None:
    """A request that changes nothing leaves the time of the last change and the ETag as they are."""
    webhook = owned.create(URL, tag_filter=["v*"])
    first = owned("GET", path(webhook))
    kept = [{"id": hook["id"], "hook_url": hook["hook_url"]} for hook in webhook["hooks"]]
    for content in ({}, {"name": " deploy "}, {"active": True}, {"tag_filter": ["v*"]}, {"hooks": kept}):
        answer = owned("PATCH", path(webhook), json=content)
        assert (answer.status_code, answer.get_json()) == (200, first.get_json())
        assert answer.headers["ETag"] == first.headers["ETag"]


def test_who_changed_it(standing: Host, owned: Owned) -> None:
    """A webhook and its hooks show creator and last editor; of the hooks only the edited one has a new editor."""
    webhook = owned.create(URL, f"{URL}/2")
    before = standing.hubhooks._handlers.authorizer
    standing.hubhooks.authorizer(lambda action, repository: "carol")
    try:
        after = owned.patch(path(webhook, 1), {"hook_url": f"{URL}/3"})
    finally:
        assert before is not None
        standing.hubhooks.authorizer(before)
    assert (after["creator"], after["last_updater"]) == ("alice", "carol")
    whole = owned.get(path(webhook))
    assert (whole["creator"], whole["last_updater"]) == ("alice", "carol")
    assert whole["hooks"] == [webhook["hooks"][0], after]


@pytest.mark.parametrize(("number", "otherwise"), [(0, False), (1, False), (2, True), (3, True)])
def test_final_callback_by_number(owned: Owned, number: int, otherwise: bool) -> None:
    """By default only chains expect a final callback; an explicit choice holds for any number of hooks."""
    webhook = owned.create(*[URL] * number)
    for said, expected in ((None, otherwise), (True, True), (False, False), (None, otherwise)):
        assert owned.patch(path(webhook), {"expect_final_callback": said})["expect_final_callback"] is expected
    owned("POST", f"{path(webhook)}hooks/", json={"hook_url": URL})
    assert owned.get(path(webhook))["expect_final_callback"] is (number > 0)


def test_final_callback_of_the_next_push(owned: Owned) -> None:
    """The expectation of a final callback is fixed with each push: an edit affects the next one."""
    webhook = owned.create(NEVER, NEVER)
    owned.push("first")
    owned.patch(path(webhook), {"expect_final_callback": False})
    owned.push("second")
    found = owned.get(f"{path(webhook)}history/")["results"]
    assert [each["callback_expected"] for each in found] == [True, False, True, True]


def test_name_taken(owned: Owned) -> None:
    """A webhook cannot take another's name, and keeps its own; a deleted one's name is free at once."""
    one, other = owned.create(URL), owned.create(URL, name="other")
    errors = problem(owned("PATCH", path(other), json={"name": " deploy", "tag_filter": ["v*"]}), 400)["errors"]
    assert set(errors) == {"name"}
    assert owned.get(path(other)) == {key: value for key, value in other.items() if key != "secret"}
    assert owned("DELETE", path(one)).status_code == 204
    assert owned.patch(path(other), {"name": "deploy"})["slug"] == "deploy"


# Hooks in order


def test_hooks_are_moved(owned: Owned) -> None:
    """`hooks` reorders the hooks, which keep their ids, from the next push on."""
    webhook = owned.create(*(f"{NEVER}/{number}" for number in range(3)))
    owned.push("first")
    moved = [{"id": hook} for hook in reversed(ids(webhook))]
    after = owned.patch(path(webhook), {"hooks": moved})
    assert ids(after) == ids(webhook)[::-1] and urls(after) == urls(webhook)[::-1]
    owned.push("second")
    found = owned.get(f"{path(webhook)}history/")["results"]
    assert [each["hook"]["id"] for each in found] == ids(webhook)[::-1] + ids(webhook)
    assert owned.states(webhook) == ["pending", "waiting", "waiting"] * 2


def test_hooks_are_replaced(owned: Owned) -> None:
    """Hooks named by id or by a current URL stay; others in `hooks` are created, and the rest is removed."""
    webhook = owned.create(f"{URL}/a", f"{URL}/b", f"{URL}/c", f"{URL}/a")
    a, b, _, again = ids(webhook)
    wanted = [{"hook_url": f"{URL}/new"}, {"hook_url": f"{URL}/b"}, {"hook_url": f"{URL}/a"}]
    after = owned.patch(path(webhook), {"hooks": [*wanted, {"id": again, "hook_url": f"{URL}/d"}]})
    assert urls(after) == [f"{URL}/new", f"{URL}/b", f"{URL}/a", f"{URL}/d"]
    assert ids(after)[1:] == [b, a, again]
    assert ids(after)[0] not in ids(webhook)
    assert owned.patch(path(webhook), {"hooks": []})["hooks"] == []
    problem(owned("GET", path(webhook, 0)), 404)


def test_hooks_of_others(owned: Owned) -> None:
    """Hooks that belong to another webhook, were removed, or are listed twice are refused by position."""
    webhook, other = owned.create(URL, f"{URL}/2"), owned.create(URL, name="other")
    assert owned("DELETE", path(webhook, 1)).status_code == 204
    before = owned.get(path(webhook))
    mine = {"id": ids(webhook)[0]}
    for bad in (ids(other)[0], ids(webhook)[1], ids(webhook)[0], 0, -1, 2**31, 2**63, 10**30):
        answer = owned("PATCH", path(webhook), json={"name": "new", "hooks": [mine, {"id": bad}]})
        assert list(problem(answer, 400)["errors"]["hooks"]) == ["1"]
    for bad_id in (None, "1", True, 1.0, [1]):
        problem(owned("PATCH", path(webhook), json={"hooks": [{"id": bad_id}]}), 400)
    for method in ("GET", "PATCH", "DELETE"):
        for bad in (ids(other)[0], ids(webhook)[1], 0, 2**31, 10**30):
            problem(owned(method, f"{path(webhook)}hooks/{bad}/", json={"hook_url": URL}), 404)
    assert owned.get(path(webhook)) == before


def test_one_hook(owned: Owned) -> None:
    """A hook can get another URL and be removed; the others stay as they are, in order."""
    webhook = owned.create(f"{URL}/1", f"{URL}/2", f"{URL}/3")
    after = owned.patch(path(webhook, 1), {"hook_url": "https://例え.jp/"})
    assert (after["hook_url"], after["host"], after["host_unicode"]) == (
        "https://例え.jp/",
        "xn--r8jz45g.jp",
        "例え.jp",
    )
    assert urls(owned.get(path(webhook))) == [f"{URL}/1", "https://例え.jp/", f"{URL}/3"]
    answer = owned("DELETE", path(webhook, 0))
    assert (answer.status_code, answer.data) == (204, b"")
    assert ids(owned.get(path(webhook))) == ids(webhook)[1:]
    problem(owned("DELETE", path(webhook, 0)), 404)
    for bad in ({}, {"hook_url": None}, {"hook_url": "x"}, {"hook_url": URL, "id": 1}, {"position": 0}):
        problem(owned("PATCH", path(webhook, 1), json=bad), 400)
        problem(owned("POST", f"{path(webhook)}hooks/", json=bad), 400)


# In the middle of things


def test_a_corrected_url_is_used(host: Host) -> None:
    """Unsent deliveries go to the hook's current URL, and sent ones show their own."""
    with Receiver(500) as wrong, Receiver() as right:
        webhook = host.create(wrong.url, NEVER)
        host.push()
        host.deliver()
        answer = host.api("PATCH", f"acme/app/webhooks/{path(webhook, 0)}", json={"hook_url": right.url})
        assert answer.get_json()["failing_since"] is None
        host.make_due()
        host.deliver()
        assert (len(wrong.requests), len(right.requests)) == (1, 1)
        attempts = host.details(webhook, host.history(webhook)[0])["attempts"]
        assert [each["request"]["url"] for each in attempts] == [wrong.url, right.url]


def test_pause_and_resume(host: Host) -> None:
    """Pausing holds unsent deliveries and chains, and ignores pushes; resuming sends what was held."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, receiver.url)
        host.push(tag="underway")
        host.deliver()
        host.push(tag="unsent")
        here = f"acme/app/webhooks/{path(webhook)}"
        assert host.api("PATCH", here, json={"active": False}).get_json()["active"] is False
        host.push(tag="unheard")
        assert host.call_back(receiver.requests[0].body).status_code == 200
        host.deliver()
        held = ("pending", "Held: the webhook is paused.")
        states = [(each["state"], each["reason"]) for each in host.history(webhook)]
        assert states == [held, ("waiting", ""), ("succeeded", ""), held]
        assert host.api("PATCH", here, json={"active": True}).get_json()["active"] is True
        host.push(tag="heard")
        host.deliver()
        sent = [json.loads(each.body)["push_data"]["tag"] for each in receiver.requests]
        assert (sent[0], sorted(sent[1:])) == ("underway", ["heard", "underway", "unsent"])


def test_resuming_forgets_the_failing(standing: Host, owned: Owned) -> None:
    """A disabled webhook shows why until it is resumed, which also resets its hooks' failing."""
    webhook = owned.create(URL, f"{URL}/2")
    since = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with standing.writing() as session:
        session.execute(update(Hook).where(Hook.webhook_id == webhook["id"]).values(failing_since=since))
        assert disable(session, webhook["id"], "gone")
    before = owned.get(path(webhook))
    assert (before["active"], before["disabled_reason"]) == (False, "gone")
    assert [hook["failing_since"] for hook in before["hooks"]] == ["2026-01-01T00:00:00Z"] * 2
    for content in ({"name": "other"}, {"active": False}):
        assert owned.patch(path(webhook), content)["disabled_reason"] == "gone"
    after = owned.patch(path(webhook), {"active": True})
    assert (after["active"], after["disabled_reason"]) == (True, "")
    assert [(hook["active"], hook["failing_since"]) for hook in after["hooks"]] == [(True, None)] * 2


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        (0, ["awaiting_callback", "cancelled", "cancelled"]),
        (1, ["awaiting_callback", "cancelled", "cancelled"]),
        (2, ["awaiting_callback", "waiting", "cancelled"]),
    ],
)
def test_removed_mid_chain(host: Host, removed: int, expected: list[str]) -> None:
    """Removing a hook cancels its unsent deliveries and later ones; its callback may still decide."""
    with Receiver() as first, Receiver() as second, Receiver() as third:
        webhook = host.create(first.url, second.url, third.url)
        host.push()
        host.deliver()
        assert host.api("DELETE", f"acme/app/webhooks/{path(webhook, removed)}").status_code == 204
        assert host.states(webhook) == expected
        assert host.call_back(first.requests[0].body).status_code == 200
        host.deliver()
        assert (len(second.requests), len(third.requests)) == (int(removed == 2), 0)
        host.push(tag="next")
        found = host.history(webhook)[:2]
        assert [each["hook"]["id"] for each in found] == [
            each for each in ids(webhook) if each != ids(webhook)[removed]
        ]


def test_edited_mid_chain(host: Host) -> None:
    """An added or moved hook does not join chains under way, whose later hooks use their current URLs."""
    with Receiver() as first, Receiver() as second, Receiver() as corrected:
        webhook = host.create(first.url, second.url)
        host.push()
        host.deliver()
        one, two = ids(webhook)
        wanted = [{"hook_url": NEVER}, {"id": two, "hook_url": corrected.url}, {"id": one}]
        assert host.api("PATCH", f"acme/app/webhooks/{path(webhook)}", json={"hooks": wanted}).status_code == 200
        assert host.call_back(first.requests[0].body).status_code == 200
        host.deliver()
        assert (len(second.requests), len(corrected.requests)) == (0, 1)
        assert [(each["hook"]["id"], each["state"]) for each in host.history(webhook)] == [
            (one, "succeeded"),
            (two, "awaiting_callback"),
        ]


def test_deleting_keeps_the_rows(standing: Host, owned: Owned) -> None:
    """Deleting hides a webhook but keeps its rows, cancels its unsent deliveries, and frees name and slug."""
    for _ in range(3):
        webhook = owned.create(NEVER, NEVER)
        assert webhook["slug"] == "deploy"
        owned.push()
        assert owned("DELETE", path(webhook)).status_code == 204
        problem(owned("DELETE", path(webhook)), 404)
        with standing.writing() as session:
            found = session.scalars(select(Delivery.status).where(Delivery.webhook_id == webhook["id"])).all()
        assert found == [Status.CANCELLED] * 2
    assert owned.get()["count"] == 0
    with standing.writing() as session:
        assert len(session.scalars(select(Webhook).where(Webhook.scope == owned.repository)).all()) == 3


# Slugs


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Deploy to  Prod!", "deploy-to-prod"),
        ("--a--b--", "a-b"),
        ("Größe", "größe"),
        ("हिन्दी", "हिन्दी"),
        ("ที่นี่", "ที่นี่"),
        ("مَرْحَبًا بك", "مَرْحَبًا-بك"),
        ("デプロイ 🚀", "デプロイ"),
        ("ﬁne ①", "fine-1"),
        ("a_b.c/d", "a-b-c-d"),
        ("🚀", "webhook"),
        ("<script>", "script"),
        (f"{'a' * (MAX_SLUG - 1)} b", "a" * (MAX_SLUG - 1)),
        ("ß" * 255, "ß" * MAX_SLUG),
        ("ﷺ" * 255, None),
    ],
)
def test_slugs(owned: Owned, name: str, slug: str | None) -> None:
    """A slug keeps letters, digits and marks of any script, with hyphens for the rest, and has a maximum length."""
    made = owned.create(URL, name=name)["slug"]
    assert made == slug if slug else len(made) <= MAX_SLUG
    assert owned.create(URL, name=f"{name}?"[-255:])["slug"] != made


def test_slugs_that_collide(owned: Owned) -> None:
    """A taken slug gets the first free number as a suffix, and a new name gets a new slug."""
    made = [owned.create(URL, name=name) for name in ("a b", "a-b", "A B", "a b 2", "a-b-4")]
    assert [each["slug"] for each in made] == ["a-b", "a-b-2", "a-b-3", "a-b-2-2", "a-b-4"]
    assert owned.create(URL, name="a.b")["slug"] == "a-b-5"
    assert owned("DELETE", path(made[1])).status_code == 204
    assert owned.patch(path(made[0]), {"name": "a+b"})["slug"] == "a-b"
    assert owned.create(URL, name="a/b")["slug"] == "a-b-2"


# Lists


@pytest.fixture
def many(owned: Owned) -> Owned:
    """A repository with seven webhooks, every second one paused."""
    for number, name in enumerate(("Deploy 1", "deploy_2", "Größe", "100%", "deploy 3", "other", "deploy\\4")):
        owned.create(name=name, active=number % 2 == 0)
    return owned


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("active=true", ["Deploy 1", "Größe", "deploy 3", "deploy\\4"]),
        ("active=false", ["deploy_2", "100%", "other"]),
        ("name=DEPLOY", ["Deploy 1", "deploy_2", "deploy 3", "deploy\\4"]),
        ("name=gr%C3%B6", ["Größe"]),
        ("name=%25", ["100%"]),
        ("name=_", ["deploy_2"]),
        ("name=%5C", ["deploy\\4"]),
        ("name=deploy&active=true", ["Deploy 1", "deploy 3", "deploy\\4"]),
        ("name=nothing", []),
        ("name=%ED%A0%80", []),
        ("name=%FF", []),
    ],
)
def test_list_filters(many: Owned, query: str, names: list[str]) -> None:
    """The list filters by active and by part of the name; links keep the filters, and pages have each item once."""
    pages = [many.get(f"?{query}&page_size=2")]
    while url := pages[-1]["next"]:
        pages.append(many.get(f"?{url.partition('?')[2]}"))
    assert [each["name"] for page in pages for each in page["results"]] == names
    assert {page["count"] for page in pages} == {len(names)}
    for number, page in enumerate(pages[1:]):
        assert many.get(f"?{page['previous'].partition('?')[2]}") == pages[number]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("active", value) for value in ("", "1", "TRUE", "yes", "null")),
        *(("name", value) for value in ("\0", "a\0", "\n", "\u2028")),
    ],
)
def test_bad_list_filters(owned: Owned, key: str, value: str) -> None:
    """A filter that nothing could match is refused under its name."""
    assert set(problem(owned("GET", query_string={key: value}), 400)["errors"]) == {key}


def test_beyond_the_list(many: Owned) -> None:
    """A page after the last is empty, with the count and a link back."""
    page = many.get("?page=1000000&page_size=100")
    assert (page["count"], page["results"], page["next"]) == (7, [], None)
    assert "page=999999" in page["previous"]


# Which tags match


def test_matching_tags(owned: Owned) -> None:
    """A filter's preview shows which recent tags it lets through, each once and newest first."""
    webhook = owned.create(NEVER)
    for tag in ("v1", "v2-rc1", "latest", "v2", "v1"):
        owned.push(tag)
    owned("POST", f"{path(webhook)}test/")
    for query, matching, other in (
        ("", ["v1", "v2", "latest", "v2-rc1"], []),
        ("?tag_filter=v*", ["v1", "v2", "v2-rc1"], ["latest"]),
        ("?tag_filter=v*&tag_filter=!*-rc*", ["v1", "v2"], ["latest", "v2-rc1"]),
        ("?tag_filter=!v*", ["latest"], ["v1", "v2", "v2-rc1"]),
        ("?tag_filter=x", [], ["v1", "v2", "latest", "v2-rc1"]),
    ):
        assert owned.get(f"matching-tags/{query}") == {"matching": matching, "other": other}
    for query in ("?tag_filter=", "?tag_filter=v*&tag_filter=a%20b", "?tag_filter=%00", "?" + "&tag_filter=v" * 21):
        assert set(problem(owned("GET", f"matching-tags/{query}"), 400)["errors"]) == {"tag_filter"}


# Limits


def test_limits_lowered(standing: Host, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lowered limit applies at once; webhooks that exceed it can still be edited and reduced."""
    webhook = owned.create(*(f"{URL}/{number}" for number in range(4)), name="n" * 20)
    owned.create(name="other")
    lowered: dict[str, Any] = {
        "max_webhooks": 1,
        "max_hooks": 2,
    }
    monkeypatch.setattr(standing.state, "config", replace(standing.state.config, **lowered))
    assert set(problem(owned("POST", json={"name": "third"}), 400)["errors"]) == {"name"}
    assert set(problem(owned("PATCH", path(webhook), json={"name": "n" * 256}), 400)["errors"]) == {"name"}
    long = {"hook_url": URL + "/" * (2049 - len(URL))}
    assert set(problem(owned("PATCH", path(webhook, 0), json=long), 400)["errors"]) == {"hook_url"}
    assert set(problem(owned("POST", f"{path(webhook)}hooks/", json={"hook_url": URL}), 400)["errors"]) == {"hooks"}
    assert set(problem(owned("GET", "?page_size=101"), 400)["errors"]) == {"page_size"}
    assert owned.get("?page_size=10")["count"] == owned.get()["count"] == 2
    assert owned.get(f"{path(webhook)}history/")["results"] == []
    assert owned.patch(path(webhook, 3), {"hook_url": URL})["hook_url"] == URL
    assert owned.patch(path(webhook), {"name": "fives"})["name"] == "fives"
    for number in range(2):
        assert owned("DELETE", path(webhook, number)).status_code == 204
    assert owned("DELETE", path(webhook, 2)).status_code == 204
    assert owned("POST", f"{path(webhook)}hooks/", json={"hook_url": URL}).status_code == 201
    assert set(problem(owned("POST", f"{path(webhook)}hooks/", json={"hook_url": URL}), 400)["errors"]) == {"hooks"}


def test_limits_raised(standing: Host, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised limits accept what the defaults refuse."""
    monkeypatch.setattr(standing.state, "config", replace(standing.state.config, max_hooks=12, max_body_bytes=100_000))
    long = URL + "/" * (2048 - len(URL))
    assert urls(owned.create(*[long] * 12)) == [long] * 12
    padded = json.dumps({"name": "padded"}).ljust(100_000)
    assert owned("POST", data=padded, content_type="application/json").status_code == 201
    problem(owned("POST", data=padded + " ", content_type="application/json"), 413)


def test_number_of_webhooks(standing: Host, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a repository's webhooks is limited; deleted ones and other repositories' do not count."""
    monkeypatch.setattr(standing.state, "config", replace(standing.state.config, max_webhooks=2))
    made = [owned.create(name=name) for name in "ab"]
    Owned(standing, f"{owned.repository}-2").create()
    assert "2 webhooks" in problem(owned("POST", json={"name": "c"}), 400)["errors"]["name"][0]
    assert owned("DELETE", path(made[0])).status_code == 204
    owned.create(name="c")
    problem(owned("POST", json={"name": "d"}), 400)
