"""The example registry's pages: what they show to whom, signing in, and that a browser's cookie pushes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from example_app import auth, create_app, models
from example_app.database import db
from example_app.image import build_image, digest_of

from .test_example_app import ALICE, push, put_manifest, settings

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
IMAGE = build_image({"a": b"a"})
WEBHOOKS = "/r/acme/app/webhooks/"
API = "/v2/repositories/acme/app/webhooks/"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """The registry, to which `acme/app:1.0` was pushed."""
    app = create_app(settings(tmp_path))
    push(app.test_client(), IMAGE, "1.0")
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def browser(app: Flask) -> FlaskClient:
    """A browser in which nobody is signed in."""
    return app.test_client()


@pytest.fixture
def alice(browser: FlaskClient) -> FlaskClient:
    """The same browser, in which alice is."""
    assert sign_in(browser).status_code == 303
    return browser


def token(browser: FlaskClient) -> str:
    match = re.search('name="csrf_token" value="([^"]+)"', browser.get("/sign-in").text)
    assert match
    return match[1]


def sign_in(browser: FlaskClient, *credentials: str, following: str = "") -> TestResponse:
    user, password = credentials or ALICE
    form = {"csrf_token": token(browser), "user": user, "password": password, "next": following}
    return browser.post("/sign-in", data=form)


def see(browser: FlaskClient, path: str) -> TestResponse:
    return browser.get(path, headers=BROWSER)


def change(app: Flask, **values: Any) -> None:
    """Change what the registry knows of `acme/app`."""
    with app.app_context():
        row = db.session.get_one(models.Repository, "acme/app")
        for name, value in values.items():
            setattr(row, name, value)
        db.session.commit()


# What is shown


def test_webhooks_of_a_namespace(app: Flask, alice: FlaskClient) -> None:
    """Alice finds the webhooks of her own namespace; nobody has those of the registry, and strangers none."""
    assert "/r/acme/*/webhooks/" in see(alice, "/").text
    assert see(alice, "/r/acme/*/webhooks/").status_code == 200
    for path in ("/r/*/webhooks/", "/r/bob/*/webhooks/"):
        assert see(alice, path).status_code == 404
    stranger = see(app.test_client(), "/r/acme/*/webhooks/")
    assert stranger.status_code == 303 and "/sign-in" in stranger.headers["Location"]


def test_repository_page(app: Flask, browser: FlaskClient) -> None:
    """A repository's page shows its tags with their digests, how to pull, and what its description says, as text."""
    other = push(app.test_client(), build_image({"b": b"b"}), "1.1")
    change(app, description="<script>short</script>", full_description="long & <b>wide</b>")
    page = see(browser, "/r/acme/app").text
    assert re.search(rf">1\.0<.*{IMAGE.digest}.*>1\.1<.*{other}", page, re.DOTALL)
    assert "docker pull registry.example/acme/app:1.1<" in page
    assert "&lt;script&gt;short&lt;/script&gt;" in page
    assert "long &amp; &lt;b&gt;wide&lt;/b&gt;" in page


def test_the_latest_image_is_pulled(app: Flask, browser: FlaskClient) -> None:
    """Where there is a tag `latest`, it is the one to pull."""
    for tag in ("latest", "zero"):
        put_manifest(app.test_client(), IMAGE, tag)
    assert "docker pull registry.example/acme/app:latest<" in see(browser, "/r/acme/app/").text


def test_repository_without_tags(app: Flask, browser: FlaskClient) -> None:
    """A repository is still there when its last tag is not."""
    app.test_client().delete("/v2/acme/app/manifests/1.0", auth=ALICE)
    page = see(browser, "/r/acme/app/")
    assert page.status_code == 200
    assert "docker pull" not in page.text


@pytest.mark.parametrize("user", [None, "alice", "bob"])
def test_private_repository(app: Flask, browser: FlaskClient, user: str | None) -> None:
    """A private repository is shown to its owner alone; for others it is as one that does not exist."""
    if user:
        sign_in(browser, user, user)
    assert "acme/app" in see(browser, "/").text
    change(app, is_private=True)
    page, nothing = see(browser, "/r/acme/app/"), see(browser, "/r/acme/none/")
    assert nothing.status_code == 404
    assert ("acme/app" in see(browser, "/").text) == (user == "alice")
    if user == "alice":
        assert page.status_code == 200
    else:
        assert (page.status_code, page.text) == (404, nothing.text)


@pytest.mark.parametrize("name", ["acme/UPPER", "acme/..", "-", "a" * 300])
def test_names_that_cannot_be(browser: FlaskClient, name: str) -> None:
    """What cannot be the name of a repository is not found."""
    assert see(browser, f"/r/{name}/").status_code == 404


def test_tabs_lead_to_the_webhooks_and_back(alice: FlaskClient) -> None:
    """The owner comes from the repository to its webhooks, which stand in the same head, and by tab or crumb back."""
    page = see(alice, "/r/acme/app/")
    assert f'<a href="{WEBHOOKS}">Webhooks</a>' in page.text
    webhooks = see(alice, WEBHOOKS)
    assert webhooks.status_code == 200
    assert "Create webhook" in webhooks.text
    for part in ('class="site"', "Sign out", f'href="{WEBHOOKS}" aria-current', 'href="/r/acme/app/">Tags'):
        assert part in webhooks.text
    assert 'href="http://registry.example/r/acme/app/"><bdi>acme/app' in webhooks.text


def test_tab_is_for_owners(browser: FlaskClient) -> None:
    """Others have no tab for webhooks that they may not see; who is not signed in may be the owner."""
    assert WEBHOOKS in see(browser, "/r/acme/app/").text
    sign_in(browser, "bob", "bob")
    assert WEBHOOKS not in see(browser, "/r/acme/app/").text
    assert see(browser, WEBHOOKS).status_code == 404


def test_webhook_made_on_the_page(alice: FlaskClient) -> None:
    """The forms of the webhooks' pages work with the cookie and their token, and not without the token."""
    found = re.search('name="csrf_token" value="([^"]+)"', see(alice, WEBHOOKS).text.partition("<main>")[2])
    assert found
    form = {"name": "ci", "hook_id": "", "hook_url": "https://ci.example.com/hook", "action": "save"}
    assert alice.post(WEBHOOKS, data=form).status_code == 400
    assert alice.get(API).get_json()["count"] == 0
    assert alice.post(WEBHOOKS, data={**form, "csrf_token": found[1]}).status_code == 201
    assert alice.get(API).get_json()["results"][0]["creator"] == "alice"


@pytest.mark.parametrize("path", ["/", "/r/acme/app/", "/settings/acme/app/", WEBHOOKS, "/sign-in", "/r/acme/none/"])
def test_pages_are_kept_safe(alice: FlaskClient, path: str) -> None:
    """No page runs what is written into it, stands in another site's frame, or is kept by a cache."""
    page = see(alice, path)
    policies = page.headers.getlist("Content-Security-Policy")
    assert any("default-src 'self'" in policy and "frame-ancestors" in policy for policy in policies)
    assert page.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)", page.text)


# Signing in


def test_sign_in_and_out(browser: FlaskClient) -> None:
    """Who signs in is known on every page until signing out."""
    answer = sign_in(browser)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert "<span>alice</span>" in see(browser, "/").text
    assert see(browser, WEBHOOKS).status_code == 200
    answer = browser.post("/sign-out", data={"csrf_token": token(browser)})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert "<span>alice</span>" not in see(browser, "/").text
    assert see(browser, WEBHOOKS).status_code == 303


@pytest.mark.parametrize(("user", "password"), [("alice", "bob"), ("alice", ""), ("nobody", "nobody"), ("", "")])
def test_wrong_password(browser: FlaskClient, user: str, password: str) -> None:
    """Who gives a wrong name or password is told so, keeps what was typed but the password, and is nobody."""
    answer = sign_in(browser, user, password, following="/r/acme/app/")
    assert answer.status_code == 400
    assert "The name or the password is wrong." in answer.text
    assert f'name="user" value="{user}"' in answer.text
    assert 'name="next" value="/r/acme/app/"' in answer.text
    assert see(browser, WEBHOOKS).status_code == 303


@pytest.mark.parametrize("path", [WEBHOOKS, f"{WEBHOOKS}?page=1", "/r/acme/app/webhooks"])
def test_sign_in_leads_back(browser: FlaskClient, path: str) -> None:
    """A browser that may not see a webhooks page is led to sign in, and then to that page."""
    answer = see(browser, path)
    place = urlsplit(answer.headers["Location"])
    assert (answer.status_code, place.netloc, place.path) == (303, "", "/sign-in")
    [following] = parse_qs(place.query)["next"]
    form = see(browser, answer.headers["Location"]).text
    assert f'name="next" value="{following}"' in form
    answer = sign_in(browser, following=following)
    assert answer.headers["Location"] == path
    assert see(browser, path).status_code == 200


def test_form_sent_after_signing_out(browser: FlaskClient) -> None:
    """A form that is sent when nobody is signed in any more leads over the sign-in to the repository."""
    answer = browser.post(f"{WEBHOOKS}1/pause/", headers=BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in?next=/r/acme/app/")


@pytest.mark.parametrize(
    "following",
    [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/a\r\nSet-Cookie: a=b",
        " //evil.example",
        "https://evil.example/",
        "http:evil.example",
        "javascript:alert(1)",
        "evil.example",
        "@evil.example",
        "",
    ],
)
def test_sign_in_leads_nowhere_else(browser: FlaskClient, following: str) -> None:
    """Signing in never leads to another site, whatever the link to it said."""
    answer = sign_in(browser, following=following)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


@pytest.mark.parametrize(
    ("path", "accept"), [(WEBHOOKS, "*/*"), (WEBHOOKS, "application/json"), (API, BROWSER["Accept"])]
)
def test_clients_are_asked_for_a_password(browser: FlaskClient, path: str, accept: str) -> None:
    """Who is no browser on a page gets 401, with or without a page in mind."""
    answer = browser.get(path, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="example registry"')


def test_session_begins_with_signing_in(browser: FlaskClient) -> None:
    """Nothing of the session before is left, so who planted it, or knew its token, has nothing."""
    known = token(browser)
    with browser.session_transaction() as session:
        session["planted"] = "by another"
    sign_in(browser)
    with browser.session_transaction() as session:
        assert "planted" not in session
    assert browser.post("/sign-out", data={"csrf_token": known}).status_code == 400
    assert see(browser, WEBHOOKS).status_code == 200


@pytest.mark.parametrize("sent", [{}, {"csrf_token": "made-up"}])
def test_forms_need_their_token(browser: FlaskClient, sent: dict[str, str]) -> None:
    """Another site can neither sign a visitor in nor out."""
    refused = browser.post("/sign-in", data={"user": "bob", "password": "bob", **sent})
    assert (refused.status_code, "<h1>400 Bad Request</h1>" in refused.text) == (400, True)
    assert "<span>bob</span>" not in see(browser, "/").text
    sign_in(browser)
    assert browser.post("/sign-out", data=sent).status_code == 400
    assert "<span>alice</span>" in see(browser, "/").text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookie(tmp_path: Path, scheme: str) -> None:
    """The cookie is out of reach for scripts and other sites' forms, and not sent in clear by a registry with https."""
    app = create_app({**settings(tmp_path), "HUBHOOKS_EXTERNAL_URL": f"{scheme}://registry.example"})
    with app.app_context():
        db.engine.dispose()
    cookie = app.test_client().get("/sign-in").headers["Set-Cookie"]
    attributes = cookie.split("; ")[1:]
    assert {"HttpOnly", "SameSite=Lax"} <= set(attributes)
    assert ("Secure" in attributes) == (scheme == "https")


# The cookie and the registry


def test_cookie_pushes_nothing(app: Flask, alice: FlaskClient) -> None:
    """The registry knows nobody by the cookie, so no other site can have a browser push, delete, or pull."""
    change(app, is_private=True)
    for method, path in [
        ("GET", "/v2/"),
        ("POST", "/v2/acme/app/blobs/uploads/"),
        ("POST", f"/v2/acme/app/blobs/uploads/?digest={digest_of(b'a')}"),
        ("PUT", "/v2/acme/app/manifests/1.1"),
        ("DELETE", "/v2/acme/app/manifests/1.0"),
        ("GET", "/v2/acme/app/tags/list"),
    ]:
        assert alice.open(path, method=method, data=b"a").status_code == 401, (method, path)
    assert IMAGE.digest in see(alice, "/r/acme/app/").text


def test_clients_need_no_token(app: Flask) -> None:
    """Clients that sign in with each request push in chunks, and use the API, without any form's token."""
    client = app.test_client()
    place = client.post("/v2/acme/app/blobs/uploads/", auth=ALICE).headers["Location"]
    place = client.patch(place, data=b"con", auth=ALICE).headers["Location"]
    assert (
        client.put(place, query_string={"digest": digest_of(b"content")}, data=b"tent", auth=ALICE).status_code == 201
    )
    assert put_manifest(client, IMAGE, "1.1").status_code == 201
    assert client.delete("/v2/acme/app/manifests/1.1", auth=ALICE).status_code == 202
    made = client.post(API, json={"name": "ci", "hook_url": "https://ci.example.com/hook"}, auth=ALICE)
    assert made.status_code == 201
    assert client.patch(f"{API}{made.get_json()['id']}/", json={"active": False}, auth=ALICE).status_code == 200
    assert client.delete(f"{API}{made.get_json()['id']}/", auth=ALICE).status_code == 204


def test_other_sites_do_nothing_with_the_cookie(alice: FlaskClient) -> None:
    """The API takes the cookie, too, from the registry's own pages alone."""
    webhook = {"name": "ci", "hook_url": "https://ci.example.com/hook"}
    assert alice.get(API).status_code == 200
    assert alice.post(API, json=webhook, headers={"Origin": "https://evil.example"}).status_code == 403
    assert alice.post(API, json=webhook, headers={"Origin": "http://registry.example"}).status_code == 201


def test_wrong_credentials_beside_the_cookie(alice: FlaskClient) -> None:
    """Credentials that are sent count, and the cookie does not make up for wrong ones."""
    assert alice.get(API, auth=("alice", "bob")).status_code == 401
    assert alice.get(API, auth=("bob", "bob")).status_code == 404


def test_sign_in_tries_are_limited(browser: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten wrong passwords an address waits a minute, by form and by basic auth; another address does not."""
    for number in range(10):
        if number % 2:
            assert sign_in(browser, "alice", f"wrong{number}").status_code == 400
        else:
            assert browser.get("/v2/", auth=("alice", f"wrong{number}")).status_code == 401
    limited = browser.get("/v2/", auth=("alice", "alice"))
    assert limited.status_code == 429 and limited.headers["Retry-After"] == "60"
    assert limited.get_json()["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert sign_in(browser, "alice", "alice").status_code == 429
    elsewhere = {"REMOTE_ADDR": "192.0.2.1"}
    assert browser.get("/v2/", auth=("alice", "alice"), environ_overrides=elsewhere).status_code == 200
    later = monotonic() + auth.WINDOW_S
    monkeypatch.setattr(auth, "monotonic", lambda: later)
    assert sign_in(browser, "alice", "alice").status_code == 303
