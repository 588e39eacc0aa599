"""The payload: exactly what Docker Hub documented, for any name and any text."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks import Repository
from flask_hubhooks.formats.dockerhub import body, make_callback_url, payload
from flask_hubhooks.records.models import Push

from ..support.host import Host
from ..support.receivers import Receiver

DOCUMENTED = json.loads((Path(__file__).parent.parent / "data/payload.json").read_bytes())
HUB = "https://registry.hub.docker.com"
TOKEN = "2141b5bi5i5b02bec211i4eeih0242eg11000a"


def build(name: str = "acme/app", tag: str = "latest", pusher: str = "ann", **details: Any) -> dict[str, Any]:
    return payload(
        external_url=HUB,
        callback_url=make_callback_url(HUB, name, TOKEN),
        repository=name,
        tag=tag,
        pusher=pusher,
        pushed_at=datetime(2014, 12, 3, 0, 22, 41, 900_000, tzinfo=timezone.utc),
        details=Repository(**details).snapshot(),
    )


def test_a_key_added_later() -> None:
    """A push that was recorded before a detail existed gets the detail's default."""
    kept = {name: value for name, value in Repository().snapshot().items() if name not in ("status", "star_count")}
    built = payload(
        external_url=HUB,
        callback_url=make_callback_url(HUB, "acme/app", TOKEN),
        repository="acme/app",
        tag="latest",
        pusher="ann",
        pushed_at=datetime(2014, 12, 3, tzinfo=timezone.utc),
        details=kept,
    )
    assert (built["repository"]["status"], built["repository"]["star_count"]) == ("Active", 0)


def shape(value: Any) -> Any:
    """Return the keys in their order, with the JSON type of each value."""
    return [(key, shape(each)) for key, each in value.items()] if isinstance(value, dict) else type(value)


def test_the_documented_example() -> None:
    """Docker Hub's example is reproduced key for key."""
    documented = DOCUMENTED["repository"]
    built = build(
        "svendowideit/testhook",
        pusher="trustedbuilder",
        date_created=datetime.fromtimestamp(documented["date_created"], timezone.utc),
        dockerfile=documented["dockerfile"],
        full_description=documented["full_description"],
        is_private=True,
        is_trusted=True,
        repo_url=documented["repo_url"],
    )
    assert json.loads(body(built)) == DOCUMENTED
    assert json.dumps(json.loads(body(built))) == json.dumps(DOCUMENTED)  # and in the same order


@pytest.mark.parametrize(
    ("name", "namespace", "last"),
    [
        ("busybox", "library", "busybox"),
        ("acme/app", "acme", "app"),
        ("acme/team/app", "acme/team", "app"),
        ("a/b/c/d", "a/b/c", "d"),
    ],
)
def test_names(name: str, namespace: str, last: str) -> None:
    """A name without a slash is in `library`; with several, the last part is the name. `repo_name` stays as pushed."""
    built = build(name)
    assert shape(built) == shape(DOCUMENTED)
    repository = built["repository"]
    assert (repository["namespace"], repository["name"], repository["repo_name"]) == (namespace, last, name)
    assert repository["owner"] == namespace
    assert repository["repo_url"] == f"{HUB}/r/{name}/"
    assert built["callback_url"] == f"{HUB}/u/{name}/hook/{TOKEN}/" == make_callback_url(HUB, name, TOKEN)


def test_empty_values() -> None:
    """Details that the host does not know are empty, and of the documented type."""
    built = build(pusher="")
    assert shape(built) == shape(DOCUMENTED)
    assert built["push_data"] == {"pushed_at": 1417566161, "pusher": "", "tag": "latest"}
    given = {key: value for key, value in built["repository"].items() if value}
    names = {"name": "app", "namespace": "acme", "owner": "acme", "repo_name": "acme/app"}
    assert given == names | {"repo_url": f"{HUB}/r/acme/app/", "status": "Active"}


@pytest.mark.parametrize("careless", [None, 1.0, True, 10**30, -(10**30)])
def test_whole_numbers(careless: Any) -> None:
    """Counts are JSON integers whatever the host's loader returns, because receivers written in Go refuse fractions."""
    built = json.loads(body(build(star_count=careless, comment_count=careless, is_private=careless)))
    assert shape(built) == shape(DOCUMENTED)
    assert -(2**63) <= built["repository"]["star_count"] < 2**63


@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), name=st.text("abc/é", min_size=1)
)
def test_text_of_any_script(text: str, name: str) -> None:
    """Text of any script is sent as it is, in UTF-8 and without escapes."""
    sent = body(build(name, tag=text, pusher=text, description=text, dockerfile=text, status=text))
    received = json.loads(sent.decode("utf-8"))
    assert (received["push_data"]["tag"], received["push_data"]["pusher"]) == (text, text)
    assert [received["repository"][key] for key in ("description", "dockerfile", "status")] == [text] * 3
    assert received["repository"]["repo_name"] == name
    assert shape(received) == shape(DOCUMENTED)
    if text.isprintable() and not set(text) & {'"', "\\"}:
        assert text.encode() in sent


def test_on_the_wire(host: Host) -> None:
    """Receivers get JSON of this shape, with text of any script as the registry gave it."""
    host.hubhooks.repository_loader(lambda name: Repository(description="Ünï 容器 🐳", star_count=3))
    with Receiver() as receiver:
        host.create(receiver.url)
        host.push(tag="v1", pusher="Анна")
        host.deliver()
    [request] = receiver.requests
    assert request.headers["content-type"] == "application/json"
    received = json.loads(request.body.decode("utf-8"))
    assert shape(received) == shape(DOCUMENTED)
    assert received["push_data"]["pusher"] == "Анна"
    assert (received["repository"]["description"], received["repository"]["star_count"]) == ("Ünï 容器 🐳", 3)
    assert received["callback_url"].startswith("https://registry.example.com/u/acme/app/hook/")
    assert received["callback_url"].endswith("/")


def test_a_snapshot_of_an_earlier_version(host: Host) -> None:
    """A push whose stored snapshot lacks a key is delivered and shown, with that key's default."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.set_all(Push, snapshot={"description": "as it was"})
        host.deliver()
        (request,) = receiver.requests
    (delivery,) = host.history(webhook)
    sent = json.loads(host.details(webhook, delivery)["attempts"][0]["request"]["body"])
    for details in (json.loads(request.body)["repository"], sent["repository"]):
        assert (details["description"], details["status"], details["star_count"]) == ("as it was", "Active", 0)


def test_long_text_is_cut_off() -> None:
    """The texts of a repository are bounded, in the database and in the payload."""
    names = [each.name for each in fields(Repository) if isinstance(each.default, str)]
    texts: dict[str, Any] = dict.fromkeys(names, "\u00fc" * 1_200_000)
    long = Repository(**texts).snapshot()
    assert {name: len(long[name]) for name in names} == {
        "description": 1_000,
        "full_description": 25_000,
        "dockerfile": 25_000,
        "owner": 2_048,
        "repo_url": 2_048,
        "status": 2_048,
    }
    kept = Repository(full_description="x" * 25_000).snapshot()
    assert kept["full_description"] == "x" * 25_000
