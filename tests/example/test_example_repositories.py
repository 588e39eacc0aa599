"""The example registry deletes and renames repositories, by page and by API, and their webhooks follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete
from werkzeug.test import TestResponse

from example_app import create_app, models
from example_app.database import db
from example_app.image import build_image
from example_app.webhooks import hubhooks

from .test_example_app import ALICE, BOB, get, push, push_blob, settings
from .test_example_pages import see, sign_in, token

IMAGE, OTHER = build_image({"a": b"a"}), build_image({"b": b"b"})


@pytest.fixture(params=["sqlite", "postgresql"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Flask]:
    """The registry, to which `acme/app:1.0` was pushed, on each database in turn."""
    uri = request.getfixturevalue(f"{request.param}_uri")
    app = create_app(settings(tmp_path) | {"SQLALCHEMY_DATABASE_URI": uri})
    push(app.test_client(), IMAGE, "1.0")
    yield app
    with app.app_context():
        db.engine.dispose()


@dataclass
class Owner:
    """Alice, who changes repositories on the pages or by the API."""

    client: FlaskClient
    by_page: bool

    def delete(self, name: str = "acme/app") -> TestResponse:
        if self.by_page:
            form = {"csrf_token": token(self.client), "confirm": name}
            return self.client.post(f"/delete/{name}", data=form)
        return self.client.delete(f"/api/repositories/{name}", auth=ALICE)

    def rename(self, new: str, old: str = "acme/app") -> TestResponse:
        if self.by_page:
            return self.client.post(f"/rename/{old}", data={"csrf_token": token(self.client), "name": new})
        return self.client.patch(f"/api/repositories/{old}", json={"name": new}, auth=ALICE)

    def push(self, repository: str = "acme/app", image: Any = IMAGE) -> None:
        push(self.client, image, "1.0", repository)

    def tags(self, repository: str) -> Any:
        """A repository's tags; None if it does not exist."""
        answer = self.client.get(f"/v2/{repository}/tags/list", auth=ALICE)
        return answer.get_json()["tags"] if answer.status_code == 200 else None

    def hook(self, repository: str = "acme/app") -> int:
        """Create a webhook; its id."""
        body = {"name": "deploy", "hook_url": "https://ci.example.com/hook"}
        answer = self.client.post(f"/v2/repositories/{repository}/webhooks/", json=body, auth=ALICE)
        assert answer.status_code == 201, answer.text
        return int(answer.get_json()["id"])

    def lists(self, path: str) -> bool:
        """Tell whether the webhooks' API has a list at this path."""
        return self.client.get(f"/v2/repositories/{path}", auth=ALICE).status_code == 200

    def results(self, path: str) -> list[dict[str, Any]]:
        """Return what the webhooks' API lists at this path."""
        return list(self.client.get(f"/v2/repositories/{path}", auth=ALICE).get_json()["results"])


@pytest.fixture(params=["page", "api"])
def alice(request: pytest.FixtureRequest, app: Flask) -> Owner:
    client = app.test_client()
    if request.param == "page":
        sign_in(client)
    return Owner(client, request.param == "page")


def content(root: Path) -> list[Path]:
    """All files of the registry but locks."""
    return [path for path in (root / "registry").rglob("*") if path.is_file() and path.name != "_lock"]


# Deleting


def test_delete(alice: Owner, tmp_path: Path) -> None:
    """A deleted repository is gone with its content, webhooks and history, also when its name is used again."""
    webhook = alice.hook()
    alice.push()
    history = f"acme/app/webhooks/{webhook}/history/"
    assert len(alice.results(history)) == 1
    assert alice.delete().status_code == (303 if alice.by_page else 204)
    assert alice.tags("acme/app") is None
    assert get(alice.client, "/v2/acme/app/manifests/1.0").status_code == 404
    assert see(alice.client, "/r/acme/app/").status_code == 404
    assert not alice.lists("acme/app/webhooks/")
    assert content(tmp_path) == []
    alice.push()
    assert alice.tags("acme/app") == ["1.0"]
    assert alice.results("acme/app/webhooks/") == []
    assert not alice.lists(history)


def test_delete_leaves_the_others(alice: Owner) -> None:
    """Repositories whose names begin alike, and blobs that were mounted from the deleted one, stay."""
    alice.push("acme")
    alice.push("acme/app/part")
    webhook = alice.hook("acme/app/part")
    alice.delete()
    assert [alice.tags(name) for name in ("acme", "acme/app", "acme/app/part")] == [["1.0"], None, ["1.0"]]
    assert [each["id"] for each in alice.results("acme/app/part/webhooks/")] == [webhook]


def test_delete_what_is_not_there(alice: Owner) -> None:
    """Deleting a repository that does not exist is a 404."""
    assert alice.delete("acme/none").status_code == 404
    assert alice.delete().status_code < 400
    assert alice.delete().status_code == 404


# Renaming


def test_rename(alice: Owner) -> None:
    """A renamed repository keeps its content, webhooks and history, and is gone under the old name."""
    webhook = alice.hook()
    alice.push()
    [before] = alice.results(f"acme/app/webhooks/{webhook}/history/")
    answer = alice.rename("acme/new/app")
    if alice.by_page:
        assert (answer.status_code, answer.headers["Location"]) == (303, "/r/acme/new/app/")
    else:
        assert (answer.status_code, answer.get_json()) == (200, {"name": "acme/new/app"})
    assert (alice.tags("acme/app"), alice.tags("acme/new/app")) == (None, ["1.0"])
    assert get(alice.client, "/v2/acme/new/app/manifests/1.0").data == IMAGE.manifest
    assert not alice.lists("acme/app/webhooks/")
    [after] = alice.results(f"acme/new/app/webhooks/{webhook}/history/")
    assert after["id"] == before["id"]
    push(alice.client, OTHER, "1.1", "acme/new/app")
    assert len(alice.results(f"acme/new/app/webhooks/{webhook}/history/")) == 2


def test_the_old_name_is_free(alice: Owner) -> None:
    """Under the old name a new repository begins without webhooks, and its name can be given on."""
    webhook = alice.hook()
    alice.rename("acme/new")
    alice.push(image=OTHER)
    assert alice.results("acme/app/webhooks/") == []
    assert alice.delete("acme/new").status_code < 400
    assert alice.rename("acme/new").status_code < 400
    assert alice.results("acme/new/webhooks/") == []
    assert not alice.lists(f"acme/new/webhooks/{webhook}/history/")
    assert get(alice.client, "/v2/acme/new/manifests/1.0").data == OTHER.manifest


def test_rename_over_an_unfinished_push(alice: Owner) -> None:
    """Blobs that were pushed without a manifest do not keep a name from being taken, and are gone then."""
    digest = push_blob(alice.client, b"left over", "acme/new")
    assert alice.rename("acme/new").status_code < 400
    assert alice.tags("acme/new") == ["1.0"]
    assert get(alice.client, f"/v2/acme/new/blobs/{digest}").status_code == 404


@pytest.mark.parametrize("new", ["acme/taken", "acme/app"])
def test_rename_to_a_name_that_is_taken(alice: Owner, new: str) -> None:
    """Renaming to the name of a repository is a 409 with a message, and changes nothing."""
    alice.push("acme/taken", OTHER)
    webhooks = [alice.hook(), alice.hook("acme/taken")]
    answer = alice.rename(new)
    assert (answer.status_code, f"The name {new} is taken" in answer.text) == (409, True)
    for name, image, webhook in zip(("acme/app", "acme/taken"), (IMAGE, OTHER), webhooks, strict=True):
        assert get(alice.client, f"/v2/{name}/manifests/1.0").data == image.manifest
        assert [each["id"] for each in alice.results(f"{name}/webhooks/")] == [webhook]


def test_rename_to_a_name_with_webhooks(app: Flask, alice: Owner) -> None:
    """Renaming to a name that has webhooks left from a repository is a 409 with a message, and changes nothing."""
    alice.push("acme/left", OTHER)
    webhook = alice.hook()
    alice.hook("acme/left")
    with app.app_context():
        db.session.execute(delete(models.Repository).where(models.Repository.name == "acme/left"))
        db.session.commit()
    answer = alice.rename("acme/left")
    assert (answer.status_code, "The name acme/left has webhooks" in answer.text) == (409, True)
    assert (alice.tags("acme/app"), alice.tags("acme/left")) == (["1.0"], None)
    assert get(alice.client, "/v2/acme/app/manifests/1.0").data == IMAGE.manifest
    assert [each["id"] for each in alice.results("acme/app/webhooks/")] == [webhook]


@pytest.mark.parametrize(
    ("new", "status"),
    [
        ("bob/app", 403),
        ("", 403),
        ("a b", 403),
        ("acme/UPPER", 400),
        ("acme/../app", 400),
        (f"acme/{'a' * 200}/{'b' * 200}", 400),
    ],
)
def test_rename_to_a_bad_name(alice: Owner, new: str, status: int) -> None:
    """A name must be in a namespace of the owner's, and be one that a registry can have."""
    assert alice.rename(new).status_code == status
    assert alice.tags("acme/app") == ["1.0"]


@pytest.mark.parametrize("fault", [OSError, ValueError])
def test_a_failure_changes_nothing(alice: Owner, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]) -> None:
    """If the webhooks cannot follow, the repository stays what it is, with all its content."""

    def fail(*_: object) -> None:
        raise fault("the disk is full")

    alice.client.application.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr(hubhooks, "repository_deleted", fail)
    monkeypatch.setattr(hubhooks, "repository_renamed", fail)
    assert (alice.delete().status_code, alice.rename("acme/new").status_code) == (500, 500)
    assert (alice.tags("acme/app"), alice.tags("acme/new")) == (["1.0"], None)
    assert get(alice.client, "/v2/acme/app/manifests/1.0").data == IMAGE.manifest


# Who may, and how


@pytest.mark.parametrize(("credentials", "status"), [(None, 401), (("alice", "bob"), 401), (BOB, 403)])
def test_the_api_is_for_owners(app: Flask, credentials: Any, status: int) -> None:
    """Only the owner deletes and renames by the API, and the cookie of the pages is not enough."""
    client = app.test_client()
    sign_in(client)
    for answer in (
        client.delete("/api/repositories/acme/app", auth=credentials),
        client.patch("/api/repositories/acme/app", json={"name": "bob/app"}, auth=credentials),
    ):
        assert answer.status_code == status
        assert answer.get_json()["message"]
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert see(client, "/r/acme/app/").status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b"{}", b'{"name": null}', b'{"name": 7}', b"\xff", b"[" * 4000]
)
def test_bad_bodies(app: Flask, body: bytes) -> None:
    """A body without a name is a 400 that says what is wanted, and a large one a 413."""
    path = "/api/repositories/acme/app"
    answer = app.test_client().patch(path, data=body, auth=ALICE)
    assert (answer.status_code, "JSON" in answer.get_json()["message"]) == (400, True)
    assert app.test_client().patch(path, data=b" " * 5000, auth=ALICE).status_code == 413


def test_the_pages_are_for_owners(app: Flask) -> None:
    """Others have no settings: who is not signed in is led to do so, and the rest gets a 404."""
    browser = app.test_client()
    form = {"csrf_token": token(browser), "confirm": "acme/app", "name": "bob/app"}
    for answer in (
        see(browser, "/settings/acme/app/"),
        browser.post("/delete/acme/app", data=form),
        browser.post("/rename/acme/app", data=form),
    ):
        assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in?next=/settings/acme/app/")
    sign_in(browser, "bob", "bob")
    form["csrf_token"] = token(browser)
    assert "Settings" not in see(browser, "/r/acme/app/").text
    for answer in (
        see(browser, "/settings/acme/app/"),
        browser.post("/delete/acme/app", data=form),
        browser.post("/rename/acme/app", data=form),
    ):
        assert answer.status_code == 404
    assert see(browser, "/r/acme/app/").status_code == 200


def test_the_settings_page(app: Flask) -> None:
    """The owner comes to both forms by a tab; they need the token, and deleting needs the name typed."""
    browser = app.test_client()
    sign_in(browser)
    assert '<a href="/settings/acme/app/">Settings</a>' in see(browser, "/r/acme/app/").text
    page = see(browser, "/settings/acme/app/").text
    for part in (
        'action="/rename/acme/app"',
        'action="/delete/acme/app"',
        '<a href="/settings/acme/app/" aria-current=',
    ):
        assert part in page
    assert browser.post("/delete/acme/app", data={"confirm": "acme/app"}).status_code == 400
    assert browser.post("/rename/acme/app", data={"name": "acme/new"}).status_code == 400
    answer = browser.post("/delete/acme/app", data={"csrf_token": token(browser), "confirm": "acme"})
    assert (answer.status_code, "Type acme/app to confirm." in answer.text) == (400, True)
    assert see(browser, "/r/acme/app/").status_code == 200
    assert see(browser, "/settings/acme/none/").status_code == 404
