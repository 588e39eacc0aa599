"""ETag and If-Match: two editors do not overwrite each other, and one editor is not blocked by its own changes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import update
from werkzeug.test import TestResponse

from flask_hubhooks.records.models import Hook
from flask_hubhooks.records.webhooks import disable

from ..support.host import Host, Owned, problem

URL = "https://ci.example.com/hook"


@pytest.fixture
def webhook(owned: Owned) -> dict[str, Any]:
    return owned.create(URL, f"{URL}/2")


@pytest.fixture(params=["webhook", "hook"])
def path(request: pytest.FixtureRequest, webhook: dict[str, Any]) -> str:
    """Each kind of thing with an ETag."""
    return f"{webhook['id']}/" + (f"hooks/{webhook['hooks'][0]['id']}/" if request.param == "hook" else "")


def change(path: str, number: int) -> dict[str, str]:
    return {"hook_url": f"{URL}/changed{number}"} if "hooks/" in path else {"name": f"changed{number}"}


def etag(owned: Owned, path: str) -> str:
    answer = owned("GET", path)
    found = answer.headers["ETag"]
    assert found.startswith('"') and found.endswith('"')
    assert owned("HEAD", path).headers["ETag"] == found
    return found


def test_one_edit_after_another(owned: Owned, path: str) -> None:
    """The ETag of each response matches the next read, and is valid for the next edit only."""
    tag = etag(owned, path)
    for number in range(3):
        answer = owned("PATCH", path, json=change(path, number), headers={"If-Match": tag})
        assert answer.status_code == 200
        assert answer.headers["ETag"] == etag(owned, path) != tag
        again = owned("PATCH", path, json=change(path, number + 10), headers={"If-Match": tag})
        problem(again, 412)
        tag = answer.headers["ETag"]
    problem(owned("DELETE", path, headers={"If-Match": '"other"'}), 412)
    assert etag(owned, path) == tag
    assert owned("DELETE", path, headers={"If-Match": tag}).status_code == 204
    problem(owned("PATCH", path, json=change(path, 1), headers={"If-Match": tag}), 404)


def test_of_what_was_made(owned: Owned) -> None:
    """The response to a creation has the ETag of the next read, although only the response has the secret."""
    answer = owned("POST", json={"name": "deploy", "hook_url": URL})
    assert answer.headers["ETag"] == etag(owned, f"{answer.get_json()['id']}/")


@pytest.mark.parametrize("header", ['"other"', "", "nonsense", 'W/"other"', "W/*", '"*"', ",", "{}x"])
def test_no_match(owned: Owned, path: str, header: str) -> None:
    """Another version changes nothing: 412."""
    tag = etag(owned, path)
    for method in ("PATCH", "DELETE"):
        answer = owned(method, path, json=change(path, 1), headers={"If-Match": header.format(tag)})
        assert "Read it again" in problem(answer, 412)["detail"]
    assert etag(owned, path) == tag


@pytest.mark.parametrize("header", ["*", "{}", '"other", {}', '"other",{}, "another"', "W/{}", '"other", W/{}', None])
def test_match(owned: Owned, path: str, header: str | None) -> None:
    """The current version among others, `*`, and no If-Match at all let the change through.

    So does the weak form of the version, which a proxy makes of it that compresses responses.
    """
    headers = {} if header is None else {"If-Match": header.format(etag(owned, path))}
    assert owned("PATCH", path, json=change(path, 1), headers=headers).status_code == 200
    headers = {} if header is None else {"If-Match": header.format(etag(owned, path))}
    assert owned("DELETE", path, headers=headers).status_code == 204


def test_changed_by_others(standing: Host, owned: Owned, webhook: dict[str, Any]) -> None:
    """Changes to its hooks, a pause, and disabling by us all change a webhook's ETag."""
    path, hook = f"{webhook['id']}/", f"{webhook['id']}/hooks/{webhook['hooks'][1]['id']}/"
    tags = [etag(owned, path)]
    for method, where, content in (
        ("PATCH", hook, {"hook_url": f"{URL}/3"}),
        ("POST", f"{path}hooks/", {"hook_url": URL}),
        ("DELETE", hook, None),
        ("PATCH", path, {"active": False}),
        ("PATCH", path, {"active": True}),
    ):
        assert owned(method, where, json=content).status_code < 300
        tags.append(etag(owned, path))
    with standing.writing() as session:
        assert disable(session, webhook["id"], "gone")
    tags.append(etag(owned, path))
    assert len(set(tags)) == len(tags)
    problem(owned("PATCH", path, json={"name": "x"}, headers={"If-Match": tags[-2]}), 412)


def test_a_bad_body_is_told_first(owned: Owned, path: str) -> None:
    """An invalid change is reported as invalid, whatever the version."""
    problem(owned("PATCH", path, json={"colour": 1}, headers={"If-Match": '"other"'}), 400)


def test_what_changes_by_itself(standing: Host, owned: Owned, webhook: dict[str, Any], path: str) -> None:
    """A failing hook, deliveries, and an edit of another webhook change no ETag."""
    tag = etag(owned, path)
    with standing.writing() as session:
        failing = update(Hook).where(Hook.webhook_id == webhook["id"])
        session.execute(failing.values(failing_since=datetime(2026, 1, 1, tzinfo=timezone.utc)))
    other = owned.create(URL, name="other")
    owned.patch(f"{other['id']}/", {"name": "another"})
    owned.push()
    assert owned("POST", f"{webhook['id']}/test/").status_code == 202
    assert etag(owned, path) == tag
    assert owned("PATCH", path, json=change(path, 1), headers={"If-Match": tag}).status_code == 200


# At the same time

EDITORS = 5


def at_once(owned: Owned, method: str, path: str, content: Callable[[int], object], **headers: str) -> list[int]:
    """Return the sorted status codes of simultaneous requests; `content` makes the body of each from its number."""
    together = Barrier(EDITORS)

    def ask(number: int) -> TestResponse:
        client = owned.host.app.test_client()
        url = f"/v2/repositories/{owned.repository}/webhooks/{path}"
        together.wait(10)
        return client.open(url, method=method, json=content(number), headers={"X-User": "alice"} | headers)

    with ThreadPoolExecutor(EDITORS) as threads:
        return sorted(answer.status_code for answer in threads.map(ask, range(EDITORS)))


def test_edited_at_once(owned: Owned, path: str) -> None:
    """Of simultaneous edits with the same ETag exactly one is made."""
    tag = etag(owned, path)
    codes = at_once(owned, "PATCH", path, lambda number: change(path, number), **{"If-Match": tag})
    assert codes == [200] + [412] * (EDITORS - 1)


def test_named_at_once(owned: Owned) -> None:
    """Of webhooks created at once with one name one is created; names alike in a URL get different slugs."""
    assert at_once(owned, "POST", "", lambda number: {"name": "one"}) == [201] + [400] * (EDITORS - 1)
    assert at_once(owned, "POST", "", lambda number: {"name": "two" + "!" * number}) == [201] * EDITORS
    assert len({each["slug"] for each in owned.get()["results"]}) == 1 + EDITORS


def test_limits_at_once(standing: Host, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits hold for webhooks and hooks created at the same time."""
    monkeypatch.setattr(standing.state, "config", replace(standing.state.config, max_webhooks=3, max_hooks=3))
    webhook = owned.create(URL)
    codes = at_once(owned, "POST", f"{webhook['id']}/hooks/", lambda number: {"hook_url": f"{URL}/{number}"})
    assert codes == [201] * 2 + [400] * (EDITORS - 2)
    assert at_once(owned, "POST", "", lambda number: {"name": f"n{number}"}) == [201] * 2 + [400] * (EDITORS - 2)


def test_hooks_removed_at_once(owned: Owned) -> None:
    """Hooks removed at the same time are all removed, and one removed several times is removed once."""
    webhook = owned.create(*[URL] * EDITORS)
    owned.push()
    first = f"{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
    assert at_once(owned, "DELETE", first, lambda number: None) == [204] + [404] * (EDITORS - 1)
    assert len(owned.get(f"{webhook['id']}/")["hooks"]) == EDITORS - 1
    assert set(owned.states(webhook)) == {"cancelled"}
