"""User names and passwords in hook URLs: taken out when saved, sent to their hook only, and never shown."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest
from sqlalchemy import select

from flask_hubhooks.records.models import Attempt, Hook

from ..support.host import Host, Owned, problem
from ..support.marks import URL, on_sqlite
from ..support.receivers import Connection, Receiver, Request, http
from ..support.visitor import Visitor, text_of, version_on

PASSWORD = "correct-horse"
HAS_BOTH = "user name and password"


def of(url: str, user_info: str = f"$site:{PASSWORD}") -> str:
    return url.replace("://", f"://{user_info}@")


def sent_by(request: Request) -> str:
    """The decoded credentials of a request; "" without any."""
    return b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()


def test_sent_to_their_hook_only(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """In a chain each hook gets its own credentials or none, and nothing shows them, however a receiver echoes them."""

    def echo(request: Request, _: Connection) -> bytes:
        header = request.headers["authorization"]
        words = [header, header.partition(" ")[2], sent_by(request), PASSWORD]
        return http(200, " ".join(words).encode(), f"X-Got: {header}")

    with Receiver(echo) as first, Receiver() as second, Receiver() as third:
        urls = [of(first.url), second.url, of(third.url, "other%40corp:p%2F%C3%BC")]
        answer = host.create(hooks=[{"hook_url": each, "payload_format": "slack"} for each in urls])
        host.push()
        host.deliver()
    assert [sent_by(each.requests[0]) for each in (first, second, third)] == [f"$site:{PASSWORD}", "", "other@corp:p/ü"]
    assert [each["hook_url"] for each in answer["hooks"]] == [first.url, second.url, third.url]
    assert [each["has_credentials"] for each in answer["hooks"]] == [True, False, True]
    details = [host.details(answer, each) for each in host.history(answer)]
    [attempt] = next(each for each in details if each["hook"]["hook_url"] == first.url)["attempts"]
    assert ["Authorization", "***"] in attempt["request"]["headers"]
    assert attempt["response"]["body"] == "*** *** *** ***"
    with host.writing() as session:
        rows = [str(vars(row)) for table in (Hook, Attempt) for row in session.scalars(select(table))]
    encoded = first.requests[0].headers["authorization"].partition(" ")[2]
    for shown in (json.dumps([answer, details]), caplog.text, *rows):
        assert PASSWORD not in shown and "corp" not in shown and encoded not in shown


def test_kept_and_dropped(owned: Owned) -> None:
    """Credentials stay with a hook until its origin changes, it is removed, or its owner removes them."""
    webhook = owned.create(of(URL), f"{URL}/2")
    hook, other = webhook["hooks"]
    path = f"{webhook['id']}/hooks/{hook['id']}/"

    def has(change: dict[str, Any]) -> bool:
        return bool(owned.patch(path, change)["has_credentials"])

    assert has({"hook_url": f"{URL}/3"}) and has({"hook_url": f"{URL}/4", "has_credentials": True})
    assert has({"payload_format": "slack"})
    assert not has({"hook_url": "http://127.0.0.2:9/hook"})
    assert not has({"hook_url": URL}), "they do not come back"
    refused = problem(owned("PATCH", path, json={"has_credentials": True}), 400)["errors"]
    assert "Write them into the URL" in refused["has_credentials"][0]
    assert has({"hook_url": of(URL)}) and not has({"has_credentials": False})
    assert has({"hook_url": of(URL, "new:one"), "has_credentials": False})
    assert owned("GET", path, user="reader").get_json()["has_credentials"] is None
    changed = owned.patch(f"{webhook['id']}/", {"hooks": [{"hook_url": of(URL, "by:url")}, {"id": other["id"]}]})
    assert (changed["hooks"][0]["id"], changed["hooks"][0]["has_credentials"]) == (hook["id"], True)
    assert owned("DELETE", path).status_code == 204
    with owned.host.writing() as session:
        assert session.get_one(Hook, hook["id"]).encrypted_authorization is None


def test_beside_an_authorization_header(owned: Owned) -> None:
    """A webhook has either an Authorization header, in any case, or hooks with credentials."""
    header = {"authorization": "Bearer abc"}
    both = {"name": "both", "hook_url": of(URL), "headers": header}
    assert "Remove one of them" in problem(owned("POST", json=both), 400)["errors"]["headers"]["authorization"][0]
    webhook = owned.create(URL, headers=header)
    path = f"{webhook['id']}/"
    added = problem(owned("POST", f"{path}hooks/", json={"hook_url": of(URL)}), 400)["errors"]
    assert "has an Authorization header" in added["hook_url"][0]
    chain = {"hooks": [{"hook_url": URL}, {"hook_url": of(f"{URL}/2")}]}
    assert list(problem(owned("PATCH", path, json=chain), 400)["errors"]["hooks"]) == ["1"]
    changed = owned.patch(path, chain | {"headers": {"X-Other": "x"}})
    assert [each["has_credentials"] for each in changed["hooks"]] == [False, True]
    assert list(problem(owned("PATCH", path, json={"headers": header}), 400)["errors"]["headers"]) == ["authorization"]


@on_sqlite
@pytest.mark.parametrize(
    "user_info", ["", ":", "a:b@c", "a%3Ab:c", "a b:c", "a:%0a", "a:%00", "a:%ff", "a:%", "a:%4", "{tag}:b", "a:{tag}"]
)
def test_bad_credentials(host: Host, user_info: str) -> None:
    """What cannot be sent as Basic authentication, or could be read in two ways, is refused."""
    answer = host.api("POST", "acme/app/webhooks/", json={"name": "bad", "hook_url": of(URL, user_info)})
    assert list(problem(answer, 400)["errors"]) == ["hook_url"]


def test_on_the_pages(owned: Owned) -> None:
    """The pages say that credentials were taken out, keep them, and can remove them; the URL does not show them."""
    owner = Visitor(owned.host, "alice", owned.repository)
    made = owner.send(name="deploy", hook_url=of(URL), hook_id="")
    assert made.status_code == 201 and f"The {HAS_BOTH} were taken out of the URL." in text_of(made)
    webhook = owned.get()["results"][0]
    path, listed, shown = f"{webhook['id']}/", owner.get(), owner.get(f"{webhook['id']}/")
    assert f"with {HAS_BOTH}" in text_of(listed)
    assert f"with {HAS_BOTH}" not in text_of(Visitor(owned.host, "reader", owned.repository).get())
    for page in (made, listed, shown):
        assert PASSWORD not in page.text
    known = {"name": "deploy", "hook_id": str(webhook["hooks"][0]["id"])}

    def save(url: str, credentials: str, **more: Any) -> bool:
        version = version_on(owner.get(path))
        answer = owner.send(path, **known, hook_url=url, credentials=credentials, version=version, **more)
        assert answer.status_code == 303, text_of(answer)
        return bool(owned.get(path)["hooks"][0]["has_credentials"])

    assert save(f"{URL}/2", "keep")
    version = version_on(owner.get(path))
    lost = owner.send(path, **known, hook_url="http://127.0.0.2:9/hook", credentials="keep", version=version)
    assert lost.status_code == 400 and "No user name and password are stored for this scheme" in text_of(lost)
    assert owned.get(path)["hooks"][0]["has_credentials"]
    assert not save(f"{URL}/2", "remove")
    assert save(of(URL), "")
    header = {"header_name": "Authorization", "header_value": "Bearer abc"}
    answer = owner.send(path, **known, hook_url=URL, credentials="keep", version=version_on(owner.get(path)), **header)
    assert answer.status_code == 400 and "Remove one of them." in text_of(answer)
    assert 'id="header-0-errors"' in answer.text
    assert not save(URL, "remove", **header)
