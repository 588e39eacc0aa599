"""The pages: who sees what, what forms do, and what a host may replace."""

from __future__ import annotations

import html
import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import trustme
from flask import Flask, abort, redirect, render_template, session
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect
from jinja2 import DictLoader, StrictUndefined, TemplateNotFound, pass_context
from jinja2.runtime import Context
from sqlalchemy import delete, event
from werkzeug.test import TestResponse

from flask_hubhooks import HubHooks
from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records import redelivery
from flask_hubhooks.records.models import Attempt, Delivery, Status
from flask_hubhooks.web.pages import deliveries

from ..support.host import Host
from ..support.marks import URL, MakeHost, on_sqlite
from ..support.receivers import Receiver, sends, tls_context
from ..support.visitor import Visitor, text_of, version_on

FORM = {"name": "new", "hook_url": URL, "hook_id": ""}

ONE, DELIVERY = "{webhook}/", "{webhook}/history/{delivery}/"
ROUTES: dict[tuple[str, str], tuple[str, int, dict[str, str]]] = {
    ("GET", "webhooks"): ("", 200, {}),
    ("POST", "webhooks"): ("", 201, FORM),
    ("GET", "edit"): (ONE, 200, {}),
    ("POST", "edit"): (ONE, 303, {"name": "deploy", "hook_url": URL, "hook_id": "{hook}"}),
    ("POST", "pause"): (ONE + "pause/", 303, {}),
    ("POST", "resume"): (ONE + "resume/", 303, {}),
    ("POST", "test"): (ONE + "test/", 303, {}),
    ("GET", "rotate_secret"): (ONE + "rotate-secret/", 200, {}),
    ("POST", "rotate_secret"): (ONE + "rotate-secret/", 200, {}),
    ("GET", "recover"): (ONE + "recover/", 200, {}),
    ("POST", "recover"): (ONE + "recover/", 303, {"since": "2020-01-01T00:00"}),
    ("GET", "delete"): (ONE + "delete/", 200, {}),
    ("POST", "delete"): (ONE + "delete/", 303, {}),
    ("GET", "history"): (ONE + "history/", 200, {}),
    ("GET", "delivery"): (DELIVERY, 200, {}),
    ("POST", "pin"): (DELIVERY + "pin/", 409, {"attempt": "1"}),  # no certificate was refused
    ("POST", "redeliver"): (DELIVERY + "redeliver/", 303, {}),
    ("POST", "decide"): (DELIVERY + "decide/", 409, {"state": "success"}),
}
"""Every page by method and name: its path, what it answers an owner, and the form that it takes."""
READABLE = ("webhooks", "history", "delivery")


class Filled:
    """A repository with a webhook and a failed delivery."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.repository = f"acme/{uuid.uuid4().hex}"
        self.webhook = host.create(URL, repository=self.repository)
        host.push(self.repository)
        host.deliver()
        self.delivery = host.history(self.webhook, self.repository)[0]["id"]
        hook = self.webhook["hooks"][0]["id"]
        self.ids: dict[str, Any] = {"webhook": self.webhook["id"], "delivery": self.delivery, "hook": hook}
        self.owner = self.visitor("alice")

    def visitor(self, user: str | None) -> Visitor:
        return Visitor(self.host, user, self.repository)

    def ask(self, visitor: Visitor, method: str, name: str, **options: Any) -> TestResponse:
        path, _, form = ROUTES[method, name]
        ids = options.pop("ids", self.ids)
        if method == "POST" and "data" not in options:
            options["data"] = {key: value.format(**self.ids) for key, value in form.items()} | {"csrf_token": "none"}
        return visitor.ask(method, path.format(**ids), **options)

    def send(self, name: str) -> TestResponse:
        path, _, form = ROUTES["POST", name]
        fields = {key: value.format(**self.ids) for key, value in form.items()}
        if name in ("edit", "rotate_secret"):
            fields["version"] = version_on(self.owner.get(path.format(**self.ids)))
        return self.owner.send(path.format(**self.ids), **fields)


@pytest.fixture
def filled(standing: Host) -> Filled:
    return Filled(standing)


def check_page(answer: TestResponse, status: int) -> None:
    """Check that a response is a page of ours, whatever its content."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    if status != 303:
        assert answer.content_type == "text/html; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "hubhooks.css" in answer.text


def test_every_page_is_known(standing: Host) -> None:
    """These tests cover every page."""
    for rule in standing.app.url_map.iter_rules():
        name = rule.endpoint.removeprefix("hubhooks.pages_")
        if name not in (rule.endpoint, "repository"):  # which is no page, but leads to one
            with standing.app.test_request_context(method="OPTIONS"):
                view = standing.app.view_functions[rule.endpoint]
                answer = standing.app.make_response(standing.app.ensure_sync(view)(**dict.fromkeys(rule.arguments)))
                allowed = set(answer.headers["Allow"].split(", "))
            assert {method for method, known in ROUTES if known == name} == allowed - {"OPTIONS", "HEAD"}, rule


@pytest.mark.own_host
@on_sqlite
def test_a_layout_that_is_missing(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """Where HUBHOOKS_LAYOUT names no template the pages have our layout, and one log line names the key."""
    host = make_host(config={"HUBHOOKS_LAYOUT": "bsae.html"})
    assert not caplog.records  # it may not exist yet
    for path, status in (("", 200), ("999/", 404), ("", 200)):
        answer = host.client.get(f"/r/acme/app/webhooks/{path}", headers={"X-User": "alice"})
        assert answer.status_code == status
        assert '<body class="hubhooks-body">' in answer.text
    (record,) = caplog.records
    assert record.getMessage().startswith("HUBHOOKS_LAYOUT names no template of the app: 'bsae.html'.")
    assert record.exc_info is None
    host.app.jinja_loader = DictLoader({"bsae.html": "{% extends 'no.html' %}"})
    host.app.testing = True
    with pytest.raises(TemplateNotFound, match=r"no\.html"):  # a fault in a template of the host's is the host's
        host.client.get("/r/acme/app/webhooks/", headers={"X-User": "alice"})


@on_sqlite
def test_the_page_of_a_repository(make_host: MakeHost) -> None:
    """`/r/<repository>/` leads to the webhooks, unless the host has a route that fits, whichever comes first."""
    bare = make_host(url_prefix="/hooks")
    for path in ("/hooks/r/acme/app/", "/hooks/r/acme/app"):
        answer = bare.client.get(path)
        assert (answer.status_code, answer.location) == (302, "/hooks/r/acme/app/webhooks/")
        assert answer.headers["Cache-Control"] == "no-store"
    assert [bare.client.get(path).status_code for path in ("/r/acme/app/", "/hooks/r/", "/hooks/r//")] == [404] * 3
    assert bare.client.post("/hooks/r/acme/app/").status_code == 405
    for rule in ("/r/<path:name>/", "/r/<space>/<name>/", "/<path:anything>", "/<one>/<two>/<three>/"):
        for early in (False, True):
            app = Flask("host")
            app.config.update(bare.app.config)
            if early:
                app.add_url_rule(rule, "own", lambda **_: "the host's")
            app.register_blueprint(HubHooks(SQLAlchemy(app)))
            if not early:
                app.add_url_rule(rule, "own", lambda **_: "the host's")
            assert app.test_client().get("/r/acme/app/").text == "the host's", (rule, early)
            assert app.test_client().get("/r/acme/app/webhooks/").status_code == 403, (rule, early)


@pytest.mark.parametrize(("method", "name"), ROUTES, ids=lambda each: str(each))
def test_page(filled: Filled, method: str, name: str) -> None:
    """Each page answers the owner, a reader, a stranger, nobody, a missing id, a foreign origin and a wrong method."""
    status = ROUTES[method, name][1]
    reader, stranger = filled.visitor("reader"), filled.visitor("bob")
    check_page(filled.ask(stranger, method, name), 404)
    check_page(filled.ask(reader, method, name), 200 if method == "GET" and name in READABLE else 403)
    assert filled.ask(filled.visitor(None), method, name).status_code == 401
    check_page(filled.owner.ask("PUT", ROUTES[method, name][0].format(**filled.ids)), 405)
    if method == "POST":
        check_page(filled.ask(filled.owner, method, name), 400)  # its token is none of the session's
    if name != "webhooks":
        none = {"webhook": 2**63 - 1, "delivery": uuid.uuid4(), "hook": 1}
        data = {"csrf_token": filled.owner.token(), "state": "success", "since": "2020-01-01T00:00"}
        check_page(filled.ask(filled.owner, method, name, ids=none, data=data if method == "POST" else None), 404)
    if method == "POST":
        check_page(filled.ask(filled.owner, method, name, headers={"Origin": "https://evil.example"}), 403)
        check_page(filled.ask(filled.owner, method, name, headers={"Sec-Fetch-Site": "cross-site"}), 403)
    check_page(filled.send(name) if method == "POST" else filled.ask(filled.owner, method, name), status)


def test_what_forms_do(filled: Filled) -> None:
    """A form redirects with 303 to a page that shows what was done; reloading it does nothing."""
    host, owner = filled.host, filled.owner
    path = f"{filled.repository}/webhooks/{filled.webhook['id']}/"
    for name, notice, active in (("pause", "paused", False), ("resume", "resumed", True)):
        answer = filled.send(name)
        assert answer.headers["Location"] == f"/r/{filled.repository}/webhooks/?notice={notice}"
        assert notice.removesuffix("d") in text_of(owner.get(answer.headers["Location"])) or name == "resume"
        assert host.api("GET", path).get_json()["active"] is active
    for name, notice in (("redeliver", "redelivered"), ("test", "test")):
        before = len(host.history(filled.webhook, filled.repository))
        answer = filled.send(name)
        assert re.fullmatch(
            rf"/r/{filled.repository}/webhooks/\d+/history/[0-9a-f-]+/\?notice={notice}", answer.headers["Location"]
        )
        owner.get(answer.headers["Location"])
        assert len(host.history(filled.webhook, filled.repository)) == before + (name == "test")
    assert filled.send("delete").headers["Location"].endswith("?notice=deleted")
    assert host.api("GET", path).status_code == 404


def test_notices(filled: Filled) -> None:
    """The URL only names a notice: any other text in it is not shown."""
    assert "The webhook was saved." in filled.owner.get("?notice=saved").text
    for notice in ("<b>You won</b>", "won", "", "saved "):
        page = filled.owner.ask("GET", query_string={"notice": notice}).text
        assert 'class="notice"' not in page


def test_a_secret_is_shown_once(filled: Filled) -> None:
    """The response to creating and rotating shows the secret, which signs; no later page shows it again."""
    with Receiver() as receiver:
        created = filled.owner.create(receiver.url, name="signed")
        check_page(created, 201)
        [secret] = set(re.findall(r"whsec_[A-Za-z0-9+/=]{32,}", created.text.replace("&#43;", "+")))
        rotated = filled.send("rotate_secret")
        [other] = set(re.findall(r"whsec_[A-Za-z0-9+/=]{32,}", rotated.text.replace("&#43;", "+")))
        webhook = next(
            each
            for each in filled.host.api("GET", f"{filled.repository}/webhooks/").get_json()["results"]
            if each["name"] == "signed"
        )
        pages = ["", f"{webhook['id']}/", f"{webhook['id']}/history/", f"{webhook['id']}/rotate-secret/"]
        assert not any(each in filled.owner.get(path).text for path in pages for each in (secret, other))
    assert secret != other


def test_creating(filled: Filled) -> None:
    """The form creates a webhook from a name and URLs in order; empty ones are ignored."""
    check_page(filled.owner.create(" http://127.0.0.1:9/a ", "", "http://127.0.0.1:9/b", name=" chain "), 201)
    made = filled.host.api("GET", f"{filled.repository}/webhooks/?name=chain").get_json()["results"][0]
    assert (made["name"], [each["hook_url"] for each in made["hooks"]]) == (
        "chain",
        ["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"],
    )
    assert made["creator"] == "alice"


@pytest.mark.parametrize(
    ("name", "urls", "message"),
    [
        ("deploy", [URL], "already a webhook with this name"),
        ("", [URL], "Must not be blank"),
        ("bad\x07", [URL], "not contain control characters"),
        ("x" * 256, [URL], "Longer than maximum length"),
        ("new", [], "Enter the URL"),
        ("new", [""], "Enter the URL"),
        ("new", ["ftp://example.com/"], "http"),
        ("new", [URL, "http://169.254.169.254/"], "169.254.169.254"),
        ("new", [f"{URL}/{number}" for number in range(11)], "at most 10 hooks"),
    ],
    ids=["taken", "blank", "control", "long", "none", "empty", "scheme", "metadata", "many"],
)  # fmt: skip
def test_what_is_refused_stands_there_again(filled: Filled, name: str, urls: list[str], message: str) -> None:
    """Errors appear at their fields, and the form keeps everything that was typed."""
    answer = filled.owner.create(*urls, name=name)
    check_page(answer, 400)
    assert message in text_of(answer)
    shown = answer.text.replace("&#43;", "+")
    assert all(f'value="{url}"' in shown for url in urls)
    assert f'name="name" value="{name}"' in shown
    described = re.search(r'aria-describedby="([\w-]+)[^>]*aria-invalid="true" autofocus', shown)
    if "at most" not in message:
        assert described and f'id="{described[1]}"' in shown
    assert filled.host.api("GET", f"{filled.repository}/webhooks/").get_json()["count"] == 1


def test_rearranging(filled: Filled) -> None:
    """The buttons that add, move and remove lines show the form again, and save nothing."""
    urls = [f"http://127.0.0.1:9/{letter}" for letter in "abc"]

    def press(action: str) -> list[str]:
        answer = filled.owner.send(name="n", hook_url=urls, hook_id=[""] * 3, action=action)
        check_page(answer, 200)
        return [
            value.rpartition("/")[2] for value in re.findall(r'type="url" name="hook_url" value="([^"]*)"', answer.text)
        ]

    assert press("add-url") == ["a", "b", "c", ""]
    assert press("up-2") == ["a", "c", "b"]
    assert press("down-0") == ["b", "a", "c"]
    assert press("remove-url-1") == ["a", "c"]
    for nonsense in ("up-9", "up-", "down--1", "remove-url-99999", "up-１", "fly", "", "remove-header-0", "-", "up-0"):  # noqa: RUF001
        assert press(nonsense) == ["a", "b", "c"]
    assert filled.host.api("GET", f"{filled.repository}/webhooks/").get_json()["count"] == 1


def test_choosing_formats(filled: Filled) -> None:
    """Each URL has a payload format, named by receiver, perhaps a template, and may supersede older pushes."""
    check_page(
        filled.owner.send(
            name="chosen",
            hook_url=[URL, f"{URL}/2", f"{URL}/3"],
            hook_id=[""] * 3,
            payload_format=["slack", "template", "dockerhub"],
            template=["", '{"tag":\r\n"{tag}"}', "left over"],
            supersede=["yes", "no", ""],
        ),
        201,
    )
    made = filled.host.api("GET", f"{filled.repository}/webhooks/?name=chosen").get_json()["results"][0]
    assert [(each["payload_format"], each["template"], each["supersede"]) for each in made["hooks"]] == [
        ("slack", None, True),
        ("template", '{"tag":\n"{tag}"}', False),
        ("dockerhub", None, False),
    ]
    shown = filled.owner.get(f"{made['id']}/").text
    chosen = re.findall(r'<option value="([^"]*)" selected>([^<]*)', shown)
    assert chosen[:9:3] == [
        ("slack", "Slack, Mattermost, Rocket.Chat"),
        ("template", "Template of your own"),
        ("dockerhub", "Docker Hub"),
    ]
    assert [value for value, _ in chosen[1:9:3]] == ["yes", "no", ""]
    assert "{tag}" in shown.partition("<textarea")[2].partition("</textarea>")[0]


@pytest.mark.parametrize(
    ("template", "message"),
    [("", "Enter the template of the payload."), ("{", "Must be valid JSON"), ('"{nobody}"', "Unknown placeholder")],
    ids=["none", "json", "placeholder"],
)
def test_a_bad_template(filled: Filled, template: str, message: str) -> None:
    """What is wrong with a template is said at its field, which stands there again."""
    answer = filled.owner.send(
        name="new",
        hook_url=["", URL],
        hook_id=["", ""],
        payload_format=["dockerhub", "template"],
        template=["", template],
    )
    check_page(answer, 400)
    assert message in text_of(answer)
    assert 'aria-describedby="template-1-errors template-1-hint" aria-invalid="true" autofocus' in answer.text


def test_a_final_callback_that_cannot_come(filled: Filled) -> None:
    """A callback cannot be expected from a last URL whose payload has no callback URL."""
    answer = edit(filled, payload_format=["slack"], final_callback="yes")
    check_page(answer, 400)
    assert "so it cannot call back" in text_of(answer)
    assert 'id="final_callback-errors"' in answer.text


def test_hints(filled: Filled) -> None:
    """The pages say which receiver a URL looks like, and a button switches to the format that it needs."""
    keel = "https://keel.example.com/v1/webhooks/harbor"
    made = filled.owner.create(keel, name="keel")
    check_page(made, 201)
    for page in (made, filled.owner.get()):
        assert "looks like a URL of Keel" in text_of(page)
    assert "looks like" not in text_of(filled.visitor("reader").get())
    webhook = filled.host.api("GET", f"{filled.repository}/webhooks/?name=keel").get_json()["results"][0]
    shown = filled.owner.get(f"{webhook['id']}/")
    assert 'value="use-hint-0"' in shown.text
    typed = {"name": "keel", "hook_url": [keel], "hook_id": [str(webhook["hooks"][0]["id"])]}
    switched = filled.owner.send(f"{webhook['id']}/", **typed, action="use-hint-0")
    check_page(switched, 200)
    assert '<option value="harbor" selected' in switched.text
    assert "use-hint" not in switched.text and "looks like" not in text_of(switched)
    argo_cd = "https://argo.example.com/api/webhook?type=dockerhub"
    other = filled.owner.send(name="n", hook_url=[argo_cd], hook_id=[""], action="use-hint-0")
    assert 'value="https://argo.example.com/api/webhook?type=harbor"' in other.text


def test_a_chosen_template_has_its_field(filled: Filled) -> None:
    """Choosing the template shows its field with the focus; what was typed in it stays while another is chosen."""
    typed: dict[str, Any] = {"name": "n", "hook_url": [URL], "hook_id": [""], "template": ['"{tag}"']}
    typed["action"] = "format-0"
    chosen = filled.owner.send(**typed, payload_format=["template"])
    check_page(chosen, 200)
    assert re.search(r'<textarea id="template-0"[^>]* autofocus', chosen.text)
    other = filled.owner.send(**typed, payload_format=["slack"])
    assert "<textarea" not in other.text and "{tag}" in other.text.partition('type="hidden" name="template"')[2]
    assert "Must be one of" in text_of(filled.owner.send(**typed | {"action": "save"}, payload_format=["xml"]))


def test_choosing_tls(filled: Filled) -> None:
    """The form of a webhook has the TLS settings of each URL, and keeps them if it does not ask for them."""
    path = f"{filled.webhook['id']}/"
    pem = trustme.CA().cert_pem.bytes().decode()
    typed: dict[str, Any] = {"hook_url": ["https://ci.example.com/"], "tls": ["ca"], "ca": [pem.replace("\n", "\r\n")]}

    def tls() -> Any:
        return filled.host.api("GET", f"{filled.repository}/webhooks/{path}").get_json()["hooks"][0]["tls"]

    check_page(edit(filled, **typed), 303)
    assert tls() == {"ca": pem}
    shown = filled.owner.get(path).text
    assert '<option value="ca" selected>' in shown and pem in shown.partition('name="ca"')[2]
    check_page(edit(filled), 303)
    assert tls() == {"ca": pem}
    wrong = edit(filled, **typed | {"tls": ["public_key_sha256"], "public_key_sha256": ["sha256//x"]})
    check_page(wrong, 400)
    assert "exactly 32 bytes" in text_of(wrong) and 'aria-describedby="tls-value-0-errors"' in wrong.text
    assert pem in html.unescape(wrong.text)
    plain = edit(filled, **typed | {"hook_url": [URL.replace("https", "http")]})
    assert "begins with https://" in text_of(plain)
    chosen = filled.owner.send(path, **typed | {"hook_id": "", "tls": ["public_key_sha256"]}, action="tls-0")
    assert re.search(r'<input id="tls-value-0" name="public_key_sha256"[^>]* autofocus', chosen.text)
    check_page(edit(filled, **typed | {"tls": [""]}), 303)
    assert tls() is None


def test_pinning_a_key(host: Host) -> None:
    """The page of an attempt shows writers the certificate that was refused, and pins its key; all else stays."""
    owner = Visitor(host)
    with Receiver(tls=tls_context(trustme.CA(), "other.example.com")) as receiver:
        webhook = host.create(receiver.url, name="new", headers={"X-Key": "value"})
        hook = f"acme/app/webhooks/{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
        assert host.api("PATCH", hook, json={"payload_format": "slack"}).status_code == 200
        host.push()
        host.run_job()
        delivery = host.one_delivery(webhook)
        key = delivery["attempts"][0]["certificate"]["public_key_sha256"]
        path = f"{webhook['id']}/history/{delivery['id']}/"
        shown = owner.get(path)
        assert key in shown.text and "other.example.com" in shown.text and "Pin this key" in shown.text
        assert key not in Visitor(host, "reader").get(path).text
        for number in ("2", "", "x", "9" * 30):
            check_page(owner.send(f"{path}pin/", attempt=number), 404)
        pinned = owner.send(f"{path}pin/", attempt="1")
        check_page(pinned, 303)
        after = owner.get(pinned.location)
        assert "The key is pinned." in text_of(after)
        assert "This key is pinned." in text_of(after) and "Pin this key" not in after.text
        changed = host.api("GET", hook).get_json()
        assert changed["tls"] == {"public_key_sha256": key}
        assert (changed["payload_format"], changed["hook_url"]) == ("slack", receiver.url)
        check_page(owner.send(f"{path}redeliver/"), 303)
        host.run_job()
    assert len(receiver.requests) == 1 and receiver.requests[0].headers["x-key"] == "value"
    assert host.api("PATCH", hook, json={"hook_url": "https://elsewhere.example.com/", "tls": None}).status_code == 200
    check_page(owner.send(f"{path}pin/", attempt="1"), 409)
    assert "Pin this key" not in owner.get(f"{path}?attempt=1").text


def test_any_payload_is_shown_as_sent(host: Host) -> None:
    """The history shows the body of an attempt whatever its format, also one that is no JSON."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
    delivery = host.history(webhook)[0]["id"]
    host.set_all(Attempt, request_body="image=acme/app")
    answer = Visitor(host, "alice", "acme/app").get(f"{webhook['id']}/history/{delivery}/")
    check_page(answer, 200)
    assert "image=acme/app" in answer.text and "The token in callback_url is hidden" not in answer.text


def edit(filled: Filled, **fields: Any) -> TestResponse:
    path = f"{filled.webhook['id']}/"
    hooks = filled.host.api("GET", f"{filled.repository}/webhooks/{path}").get_json()["hooks"]
    known = {
        "name": "deploy",
        "hook_id": [str(each["id"]) for each in hooks],
        "hook_url": [each["hook_url"] for each in hooks],
        "version": version_on(filled.owner.get(path)),
    }
    return filled.owner.send(path, **known | fields)


def test_editing(filled: Filled) -> None:
    """The form changes name, URLs and their order, final callback, tag filter and headers, whose values stay hidden."""
    path = f"{filled.repository}/webhooks/{filled.webhook['id']}/"
    old = filled.ids["hook"]
    check_page(
        edit(
            filled,
            name="renamed",
            hook_url=["http://127.0.0.1:9/new", URL],
            hook_id=["", str(old)],
            final_callback="no",
            tag_filter="v*  !*-rc*",
            header_name=["Authorization"],
            header_value=["Bearer of tokens"],
        ),
        303,
    )
    webhook = filled.host.api("GET", path).get_json()
    assert (webhook["name"], webhook["tag_filter"], webhook["expect_final_callback"]) == (
        "renamed",
        ["v*", "!*-rc*"],
        False,
    )
    assert [each["hook_url"] for each in webhook["hooks"]] == ["http://127.0.0.1:9/new", URL]
    assert webhook["hooks"][1]["id"] == old
    form = filled.owner.get(f"{filled.webhook['id']}/").text
    assert "Bearer of tokens" not in form and 'value="Authorization"' in form and 'value="no" selected' in form
    check_page(edit(filled, header_name=["Authorization", "X-Other", ""], header_value=["", "value", ""]), 303)
    assert set(filled.host.api("GET", path).get_json()["headers"]) == {"Authorization", "X-Other"}
    check_page(edit(filled), 303)
    webhook = filled.host.api("GET", path).get_json()
    assert (webhook["headers"], webhook["tag_filter"], webhook["expect_final_callback"]) == ({}, [], True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tag_filter": "v* [z-a]"}, "[z-a]: Holds a range that is empty"),
        ({"tag_filter": " ".join(["v*"] * 21)}, "Longer than maximum length"),
        ({"header_name": ["Host"], "header_value": ["x"]}, "is set by the registry itself"),
        ({"header_name": ["X-New"], "header_value": [""]}, "Enter a value"),
        ({"header_name": ["X-A", "X-A"], "header_value": ["1", "2"]}, "Appears more than once"),
        ({"header_name": ["X-A", "x-a"], "header_value": ["1", "2"]}, "Appears more than once"),
        ({"header_name": [""], "header_value": ["1"]}, "name"),
        ({"hook_id": ["999999"]}, "no such hook"),
        ({"hook_id": ["9" * 5000]}, ""),
        ({"version": "old"}, "Somebody else has changed this webhook"),
        ({"version": ""}, "Somebody else has changed this webhook"),
    ],
    ids=[
        "pattern",
        "patterns",
        "host",
        "no-value",
        "twice",
        "twice-by-case",
        "no-name",
        "hook",
        "huge",
        "old",
        "no-version",
    ],
)
def test_what_editing_refuses(filled: Filled, fields: dict[str, Any], message: str) -> None:
    """Errors are reported, and nothing of the form is saved."""
    path = f"{filled.repository}/webhooks/{filled.webhook['id']}/"
    before = filled.host.api("GET", path).get_json()
    answer = edit(filled, name="renamed", **fields)
    check_page(answer, 400 if message else 303)
    assert message.lower() in text_of(answer).lower()
    if message:
        assert filled.host.api("GET", path).get_json() == before


def test_the_preview_of_a_filter(filled: Filled) -> None:
    """The form shows which recent tags a filter matches, even if it is unsaved and partly invalid."""
    for tag in ("v1", "v2-rc1", "nightly"):
        filled.host.push(filled.repository, tag)
    answer = edit(filled, tag_filter="v* !*-rc* [z-a]", action="preview")
    check_page(answer, 200)
    matching = re.findall(r'class="tag matches"><span[^>]*>[^<]*</span>([^<]+)', answer.text)
    other = re.findall(r'class="tag"><span[^>]*>[^<]*</span>([^<]+)', answer.text)
    assert (set(matching), set(other)) == ({"v1"}, {"v2-rc1", "nightly", "latest"})


@pytest.mark.parametrize(
    "data", [b"\xff\xfe=\xff", b"%", b"a=b&" * 9000, b"hook_url=%00&name=%ff", b"version=%ed%a0%80"]
)
def test_nonsense(filled: Filled, data: bytes) -> None:
    """Bodies that are not forms of ours are refused, and break nothing."""
    for name in ("", f"{filled.webhook['id']}/", f"{filled.webhook['id']}/delete/"):
        token = filled.owner.token().encode()
        for body in (data, b"csrf_token=" + token + b"&" + data):
            for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json"):
                if name.endswith("delete/") and body != data:
                    continue
                answer = filled.owner.ask("POST", name, data=body, content_type=kind)
                check_page(answer, 400)


def test_a_query_of_nonsense(filled: Filled) -> None:
    """Bytes in the URL that are not UTF-8 are refused before anything is done."""
    path = f"{filled.repository}/webhooks/"
    before = filled.host.api("GET", path).get_json()
    for method, name in ROUTES:
        data = {"csrf_token": filled.owner.token()} if method == "POST" else None
        check_page(
            filled.ask(filled.owner, method, name, data=data, environ_overrides={"QUERY_STRING": "at=\xff"}), 400
        )
    assert filled.host.api("GET", path).get_json() == before


def test_too_large(filled: Filled) -> None:
    """A form over the limit is refused with 413 and a page."""
    check_page(
        filled.owner.ask("POST", data=b"name=" + b"x" * 70_000, content_type="application/x-www-form-urlencoded"), 413
    )


def test_an_expired_form(filled: Filled) -> None:
    """A form whose session has ended shows what was typed, with a valid token."""
    visitor = filled.visitor("alice")
    token = visitor.token()
    visitor.client.delete_cookie("session")
    answer = visitor.ask("POST", data={"csrf_token": token, "name": "typed", "hook_url": URL, "hook_id": ""})
    check_page(answer, 400)
    assert "has expired" in text_of(answer) and 'value="typed"' in answer.text
    fresh = re.search(r'name="csrf_token" value="([^"]+)"', answer.text)
    assert fresh
    check_page(visitor.ask("POST", data={"csrf_token": fresh[1], "name": "typed", "hook_url": URL, "hook_id": ""}), 201)


def test_the_session(filled: Filled) -> None:
    """The pages use only the token of the host's session, and readers get no cookie."""
    reader = filled.visitor("reader")
    for path in ("", f"{filled.webhook['id']}/history/", f"{filled.webhook['id']}/history/{filled.delivery}/"):
        assert "Set-Cookie" not in reader.get(path).headers
    owner = filled.visitor("alice")
    with owner.client:
        owner.get()
        assert set(session) == {"csrf_token"}


@on_sqlite
@pytest.mark.parametrize("first", [True, False])
def test_a_host_with_csrf_protection(make_host: MakeHost, first: bool) -> None:
    """The pages work in a host with `CSRFProtect`, even one that checks first, and do their own checks."""

    class Protected(Host):
        def make_app(self) -> Flask:
            app = super().make_app()
            CSRFProtect(app)
            return app

    host = Protected(make_host().database_uri, make_host().redis_url)
    visitor = Visitor(host)
    check_page(visitor.create(URL), 201)
    check_page(visitor.ask("POST", data=FORM), 400)
    host.close()


@on_sqlite
def test_a_host_that_has_switched_it_off(make_host: MakeHost) -> None:
    """`WTF_CSRF_ENABLED = False`, as in hosts' tests, applies to our forms too."""
    visitor = Visitor(make_host(config={"WTF_CSRF_ENABLED": False}))
    check_page(visitor.ask("POST", data=FORM), 201)


@pytest.mark.own_host
@on_sqlite
def test_the_layout_of_the_host(make_host: MakeHost) -> None:
    """The pages use the host's layout, which needs only the block `content`."""
    host = make_host(config={"HUBHOOKS_LAYOUT": "base.html"})
    host.app.jinja_loader = DictLoader(
        {"base.html": "<title>Ours</title><nav>Ours</nav>{% block content %}{% endblock %}"}
    )
    visitor = Visitor(host)
    page = visitor.get().text
    assert "<nav>Ours</nav>" in page and "Create webhook" in page and "hubhooks.css" in page
    assert "<nav>Ours</nav>" in visitor.get("99/", 404).text


@pytest.mark.own_host
@on_sqlite
def test_templates_of_the_host(host: Host) -> None:
    """A host can replace a template of ours, extend the original by `!hubhooks/`, and override a block."""
    host.app.jinja_loader = DictLoader(
        {
            "hubhooks/webhooks.html": "{% extends '!hubhooks/webhooks.html' %}"
            "{% block hubhooks_empty %}<p>Ask ops.</p>{% endblock %}"
        }
    )
    page = Visitor(host).get().text
    assert "<p>Ask ops.</p>" in page and "Create webhook" in page and "no webhooks yet" not in page


DELIMITERS = {
    "block_start_string": "[%",
    "block_end_string": "%]",
    "variable_start_string": "[[",
    "variable_end_string": "]]",
    "comment_start_string": "[#",
    "comment_end_string": "#]",
    "line_statement_prefix": "%%",
    "trim_blocks": True,
}
LAYOUT = """[# a comment #]<title>[% block title %][% endblock %]</title>
%% set link = url_for("static", filename="app.js")
<nav><a href="[[ link ]]">[[ who | shout ]] [[ 6 | double ]] [[ times(3) ]]</a>{{ vue }} {% vue %}</nav>
[% include "foot.html" %][% block content %][% endblock %]"""


@on_sqlite
def test_other_delimiters(make_host: MakeHost) -> None:
    """Every page works in a host whose layout and replaced templates use other Jinja delimiters."""

    class Vue(Host):
        def make_app(self) -> Flask:
            app = super().make_app()
            app.jinja_options = DELIMITERS
            app.jinja_loader = DictLoader(
                {
                    "base.html": LAYOUT,
                    "foot.html": "[[ '<i>' ]]",
                    "hubhooks/delete.html": "[% extends '!hubhooks/delete.html' %][% block hubhooks_page %]"
                    "<p>{{ vue }} [[ hubhooks.webhook.name ]]</p>[[ super() ]][% endblock %]",
                }
            )
            app.context_processor(lambda: {"who": "<alice>"})
            app.template_filter("shout")(lambda text: text.upper())
            app.add_template_filter(lambda number: number * 2, "double")
            app.add_template_global(lambda number: "x" * number, "times")
            return app

    plain = make_host()
    filled = Filled(Vue(plain.database_uri, plain.redis_url, config={"HUBHOOKS_LAYOUT": "base.html"}))
    nav = '<nav><a href="/static/app.js">&lt;ALICE&gt; 12 xxx</a>{{ vue }} {% vue %}</nav>'

    def check(page: TestResponse) -> str:
        assert page.text.count(nav) == 1 and "&lt;i&gt;" in page.text
        rest = page.text.replace(nav, "").replace("{{ vue }}", "")
        assert not re.search(r"\{[{%#]|\[[\[%#]", rest), rest
        return rest

    for (method, _), (path, status, _) in ROUTES.items():
        if method == "GET":
            page = filled.owner.get(path.format(**filled.ids))
            check_page(page, status)
            check(page)
    assert "<p>{{ vue }} deploy</p>" in filled.owner.get("{webhook}/delete/".format(**filled.ids)).text
    check(filled.owner.get("99/", 404))
    assert 'name="csrf_token"' in check(filled.owner.create(URL, name="secret"))
    filled.host.close()


@on_sqlite
def test_strict_templates(make_host: MakeHost) -> None:
    """The pages work in a host with StrictUndefined."""

    class Strict(Host):
        def make_app(self) -> Flask:
            app = super().make_app()
            app.jinja_env.undefined = StrictUndefined
            return app

    plain = make_host()
    filled = Filled(Strict(plain.database_uri, plain.redis_url))
    for (method, _), (path, status, _) in ROUTES.items():
        if method == "GET":
            check_page(filled.owner.get(path.format(**filled.ids)), status)
    check_page(filled.owner.create(name=""), 400)
    check_page(filled.owner.get("99/", 404), 404)
    check_page(edit(filled, tag_filter="[", header_name=["Host"], header_value=["x"]), 400)
    filled.host.close()


@on_sqlite
def test_an_authorizer_that_redirects(host: Host) -> None:
    """A redirect to a sign-in page passes through, even from a form."""

    def sign_in_first(action: str, repository: str) -> str:
        abort(redirect("/sign-in"))

    host.hubhooks.authorizer(sign_in_first)
    for method in ("GET", "POST"):
        answer = Visitor(host).ask(method)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/sign-in")


@pytest.fixture
def statements(host: Host) -> Iterator[list[str]]:
    """The statements that are sent to the database."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    with host.app.app_context():
        engine = host.db.engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


PAGE = (
    b"<!DOCTYPE html><html lang='en'><head><title>502 Bad Gateway</title></head>"
    b"<body class='error'><h1>The application did not answer in time</h1>"
    + b"<p>Backend app-1 at 10.0.0.7:8080 refused the connection, which was tried again twice; see the log.</p>"
    * 160
)
"""What proxies answer, longer than what is kept of it."""


@pytest.mark.parametrize("hooks", [3, 10])
def test_weight_and_statements(host: Host, statements: list[str], hooks: int) -> None:
    """A full page weighs less than 60 KB with style and script, and takes at most six statements."""
    for number in range(11):
        host.create(*[f"https://ci-{number}.example.com/hooks/docker"] * hooks, name=f"webhook {number}")
    first = host.api("GET", "acme/app/webhooks/").get_json()["results"][0]
    with host.writing() as session_:
        session_.execute(delete(Delivery))
    for number in range(30):
        host.push(tag=f"v1.{number}", pusher="alice", pushed_at=utcnow() - timedelta(hours=number))
    said = {
        "callback_state": "success",
        "callback_description": "387 tests PASSED",
        "callback_context": "CI by Acme",
        "callback_target_url": "https://ci.acme.com/results/afd339c1c3d27",
        "callback_at": utcnow(),
    }
    host.set_all(Delivery, status=Status.SUCCEEDED, received_at=utcnow(), **said)
    delivery = host.history(first)[0]["id"]
    try_often(host, delivery, 60)
    visitor = Visitor(host)
    extras = sum(len(visitor.ask("GET", f"/hubhooks/static/hubhooks.{kind}").data) for kind in ("css", "js"))
    weights = {}
    for path in (
        "",
        f"{first['id']}/",
        f"{first['id']}/history/",
        f"{first['id']}/history/?tag=v1.3&outcome=succeeded",
        f"{first['id']}/history/{delivery}/",
        f"{first['id']}/history/{delivery}/?attempt=30&payload=raw",
        f"{first['id']}/delete/",
    ):
        statements.clear()
        weights[path] = len(visitor.get(path).data) + extras
        assert len(statements) <= 6, (path, statements)
    print({path: weight for path, weight in weights.items()})
    assert max(weights.values()) < 60_000, weights


def try_often(host: Host, delivery: str, times: int) -> None:
    """Give a delivery's history this many attempts, each answered with a whole page."""
    with host.writing() as session_:
        session_.add_all(
            Attempt(
                delivery_id=uuid.UUID(delivery),
                number=number,
                round=1,
                trigger="retry",
                hook_url=URL,
                started_at=utcnow() - timedelta(minutes=number),
                duration_ms=30,
                status_code=502,
                error="",
                request_headers=[["content-type", "application/json"], ["user-agent", "flask-hubhooks"]],
                request_body='{"callback_url":"***"}' if number == 1 else None,
                response_headers=[["Server", "nginx"], ["Content-Type", "text/html"]],
                response_body=PAGE[:16384],
                response_truncated=True,
            )
            for number in range(1, times + 1)
        )


def test_the_attempts_in_pages(host: Host) -> None:
    """Links lead to each attempt of a delivery, however many; the latest is shown by default."""
    webhook = host.create(URL)
    host.push()
    delivery = host.history(webhook)[0]["id"]
    path = f"{webhook['id']}/history/{delivery}/"
    visitor = Visitor(host)
    assert "Not sent yet." in text_of(visitor.get(path))
    try_often(host, delivery, 45)
    answer = visitor.get(path)
    assert "Attempt 45 " in text_of(answer) and "Attempts (45)" in text_of(answer)
    seen = set()
    while True:
        seen |= {int(each) for each in re.findall(r"attempt=([0-9]+)#attempt", answer.text)}
        older = re.search(r'rel="next" href="([^"]+)"', answer.text)
        if not older:
            break
        answer = visitor.get(older[1])
    assert seen == set(range(1, 46))
    assert (newer := re.search(r'rel="prev" href="([^"]+)"', answer.text))
    assert "Attempt 1 " not in text_of(visitor.get(newer[1]))
    check_page(visitor.ask("GET", path + "?attempt=46"), 404)
    for nonsense in ("0", "x", "-1", "²", "99999999999"):
        check_page(visitor.ask("GET", f"{path}?attempt={nonsense}"), 400)
    raw = visitor.get(path + "?attempt=7&payload=raw")
    assert "Attempt 7 " in text_of(raw) and '{"callback_url":' in text_of(raw).replace('": "', '":"')
    assert "attempt=7#payload" in raw.text


def tags_on(answer: TestResponse) -> list[str]:
    return re.findall(r'class="tag-name">([^<]*)<', answer.text)


def test_the_history_in_pages(host: Host) -> None:
    """Older and newer lead through all runs once, newest first, however many hooks each has."""
    webhook = host.create(URL, URL + "/2", URL + "/3")
    same = utcnow() - timedelta(hours=1)
    for number in range(40):
        host.push(tag=f"v{number}", pushed_at=same if number % 2 else same + timedelta(minutes=number))
    visitor = Visitor(host)
    seen, path = [], f"{webhook['id']}/history/"
    pages = []
    while path:
        answer = visitor.get(path)
        pages.append(tags_on(answer))
        seen += pages[-1]
        found = re.search(r'rel="next" href="([^"]+)"', answer.text)
        path = found[1].replace("&amp;", "&") if found else ""
    assert sorted(seen) == sorted(f"v{number}" for number in range(40))
    assert [len(each) for each in pages] == [15, 15, 10]
    back = []
    while found := re.search(r'rel="prev" href="([^"]+)"', answer.text):
        answer = visitor.get(found[1].replace("&amp;", "&"))
        back.append(tags_on(answer))
    assert back == pages[-2::-1]


def test_the_history_by_outcome_and_tag(host: Host) -> None:
    """The filters by outcome and by tag find the matching runs, and apply to all pages."""
    webhook = host.create(URL, URL + "/2")
    states = {
        "good": [Status.SUCCEEDED, Status.SUCCEEDED],
        "bad": [Status.SUCCEEDED, Status.FAILED],
        "late": [Status.EXPIRED, Status.SKIPPED],
        "open": [Status.AWAITING_CALLBACK, Status.WAITING],
        "new": [Status.PENDING, Status.WAITING],
        "off": [Status.CANCELLED, Status.CANCELLED],
    }
    for tag, (first, second) in states.items():
        host.push(tag=tag)
        with host.writing() as session_:
            rows = session_.query(Delivery).order_by(Delivery.id.desc()).limit(2).all()
            for row in rows:
                row.status = second if row.position else first
    visitor, path = Visitor(host), f"{webhook['id']}/history/"
    expected = {"succeeded": {"good"}, "failed": {"bad", "late"}, "under_way": {"open", "new"}, "cancelled": {"off"}}
    for outcome, tags in expected.items():
        assert "Status." not in visitor.get(f"{path}?outcome={outcome}").text
        assert set(tags_on(visitor.get(f"{path}?outcome={outcome}"))) == tags
    with host.writing() as session_:  # as pausing leaves it
        for row in session_.query(Delivery).filter(Delivery.status == Status.WAITING):
            row.status = Status.CANCELLED
    assert set(tags_on(visitor.get(f"{path}?outcome=cancelled"))) == {"off"}
    assert tags_on(visitor.get(f"{path}?outcome=&tag=bad")) == ["bad"]
    assert tags_on(visitor.get(f"{path}?outcome=failed&tag=+bad+")) == ["bad"]
    assert "Nothing matches" in visitor.get(f"{path}?outcome=failed&tag=good").text
    for query in ("outcome=x", "cursor=x", "tag=%00", "cursor=older:1:1:1&cursor=2", "tag=%ff"):
        assert visitor.ask("GET", f"{path}?{query}").status_code in (200, 400)
    check_page(visitor.ask("GET", f"{path}?outcome=x"), 400)
    words = text_of(visitor.get(path))
    for word in (
        "Succeeded",
        "Failed",
        "No callback received",
        "Awaiting callback",
        "Under way",
        "Cancelled",
        "Skipped",
    ):
        assert word in words


def test_the_list_tells_how_it_stands(host: Host) -> None:
    """The list shows each webhook's URLs in order, its state with reason, and its latest outcomes."""
    with Receiver(410) as gone:
        host.create(URL, URL + "/2", name="chain")
        host.create(gone.url, name="gone")
        host.create(URL, name="quiet", tag_filter=["never"])
        host.push()
        host.deliver()
    words = text_of(Visitor(host).get())
    assert "Disabled" in words and "410" in words
    assert "No deliveries yet" in words
    assert f"{URL} {URL}/2" in words
    assert re.search(r"Latest 1: 1 Under way", Visitor(host).get().text)
    empty = text_of(Visitor(host, repository="acme/other").get())
    assert "sends a POST request to your URL" in empty and '"repo_name": "acme/other"' in empty


def test_an_attempt(host: Host) -> None:
    """The page of a delivery shows request, response, duration, what is wrong, and what comes next."""
    answer = b"HTTP/1.1 503 Busy\r\nX-Why: <b>load</b>\r\nContent-Length: 18\r\n\r\n<script>no</script"
    with Receiver(lambda *_: answer) as receiver:
        webhook = host.create(receiver.url)
        host.push(tag="v1", pusher="alice", digest="sha256:" + "0" * 64)
        host.deliver()
        delivery = host.history(webhook)[0]["id"]
        page = Visitor(host).get(f"{webhook['id']}/history/{delivery}/")
    words = text_of(page)
    assert "<script>no" not in page.text and "<b>load" not in page.text
    for each in ("HTTP 503", "<b>load</b>", "<script>no</script", "Took", "next attempt", "X-Why", "user-agent"):
        assert each.lower() in words.lower(), each
    assert "503" in host.history(webhook)[0]["cause"] and host.history(webhook)[0]["cause"] in words
    token = re.search(r"hook/([^/]+)/", receiver.requests[0].body.decode())
    assert token and token[1] not in page.text and "hook/***/" in page.text


def test_an_attempt_that_was_received(host: Host) -> None:
    """A received attempt is marked so, even if the response's body broke off."""
    with Receiver(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\ncut")) as receiver:
        webhook = host.create(receiver.url)
        host.push()
        host.deliver()
    [delivery] = host.history(webhook)
    assert delivery["state"] == "succeeded" and delivery["cause"]
    assert "#1 ✓ HTTP 200" in text_of(Visitor(host).get(f"{webhook['id']}/history/{delivery['id']}/"))


@pytest.mark.parametrize(
    ("target_url", "linked"),
    [
        ("https://ci.example.com/7?a=b", True),
        ("http://ci.example.com/7", True),
        ("builds/7", False),
        ("javascript:alert(1)", False),
        ("//ci.example.com/7", False),
    ],
)
def test_what_a_callback_links_to(filled: Filled, target_url: str, linked: bool) -> None:
    """A callback's `target_url` is a link if it is an http(s) URL, and text otherwise."""
    said = {"callback_state": "success", "callback_target_url": target_url, "callback_at": utcnow()}
    filled.host.set_all(Delivery, **said)
    shown = filled.ask(filled.owner, "GET", "delivery")
    assert target_url in text_of(shown)
    assert (f'href="{target_url}"' in shown.text) is linked


def test_redelivering_what_cannot_be(host: Host) -> None:
    """If a delivery cannot be redelivered now, a page says why."""
    webhook = host.create(URL)
    host.push()
    delivery = host.history(webhook)[0]["id"]
    host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False})
    answer = Visitor(host).send(f"{webhook['id']}/history/{delivery}/redeliver/")
    check_page(answer, 409)
    assert "the webhook is not active" in text_of(answer)


def test_credentials_are_for_who_may_write(host: Host) -> None:
    """A reader sees only the origins of hook URLs, and no controls."""
    webhook = host.create(f"{URL}/credential")
    host.push()
    host.deliver()
    delivery = host.history(webhook)[0]["id"]
    for path in ("", f"{webhook['id']}/history/", f"{webhook['id']}/history/{delivery}/"):
        assert "credential" in Visitor(host).get(path).text
        page = Visitor(host, "reader").get(path).text
        assert "credential" not in page and 'method="post"' not in page


def test_the_chart(host: Host) -> None:
    """The chart shows the deliveries of each of the last seven days by outcome, and the median response time."""
    with Receiver(200) as receiver:
        webhook = host.create(receiver.url)
        other = host.create(receiver.url, name="other")
        for days in (0, 0, 1, 8):
            host.push(pushed_at=utcnow() - timedelta(days=days))
        host.deliver()
    host.push()
    page = Visitor(host).get(f"{webhook['id']}/history/").text
    chart = re.search(r'<svg[^>]*aria-label="([^"]+)"', page)
    today, yesterday = utcnow().date(), utcnow().date() - timedelta(days=1)
    assert chart
    assert f"{yesterday}: Succeeded: 1, response time" in chart[1]
    assert f"{today}: Succeeded: 2, Under way: 1, response time" in chart[1]
    assert "Succeeded: 3" in text_of(Visitor(host).get(f"{other['id']}/history/"))
    assert "<svg" not in Visitor(host).get(f"{host.create(URL, name='new')['id']}/history/").text


def test_nothing_is_built_from_the_host_header(filled: Filled) -> None:
    """No page has a link built from the Host header."""
    elsewhere = {"Host": "evil.example"}
    for method, name in ROUTES:
        if method == "GET":
            page = filled.ask(filled.owner, method, name, headers=elsewhere)
            assert "evil" not in page.text
    token = re.search(r'name="csrf_token" value="([^"]+)"', filled.owner.ask("GET", headers=elsewhere).text)
    assert token
    path = f"{filled.webhook['id']}/pause/"
    answer = filled.owner.ask("POST", path, data={"csrf_token": token[1]}, headers=elsewhere)
    assert answer.headers["Location"].startswith("/r/")


def test_a_url_prefix(make_host: MakeHost) -> None:
    """With a prefix, every link has the prefix."""
    host = make_host(url_prefix="/hub")
    visitor = Visitor(host)
    page = visitor.ask("GET", "/hub/r/acme/app/webhooks/").text
    assert re.findall(r'(?:href|action|src)="(?!/hub/)[^"]*"', page) == []
    assert visitor.ask("GET", "/hub/hubhooks/static/hubhooks.css").status_code == 200


def test_rotating_once(filled: Filled) -> None:
    """Reloading the response does not rotate again: the receiver's secret stays valid for the promised time."""
    path = f"{filled.webhook['id']}/rotate-secret/"
    version = version_on(filled.owner.get(path))
    check_page(filled.owner.send(path, version=version), 200)
    before = filled.host.api("GET", f"{filled.repository}/webhooks/{filled.webhook['id']}/").get_json()
    check_page(filled.owner.send(path, version=version), 409)
    check_page(filled.owner.send(path), 409)
    assert filled.host.api("GET", f"{filled.repository}/webhooks/{filled.webhook['id']}/").get_json() == before


def test_the_outcomes_of_longer_chains(host: Host) -> None:
    """The list shows how the latest pushes ended, including those from when there were more hooks."""
    webhook = host.create(URL, URL + "/2", URL + "/3")
    for number in range(25):
        host.push(tag=f"v{number}", pushed_at=utcnow() - timedelta(hours=number))
    with host.writing() as session_:
        for row in session_.query(Delivery):
            row.status = Status.SUCCEEDED if row.position else Status.FAILED
    hooks = [{"id": webhook["hooks"][0]["id"]}]
    assert host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"hooks": hooks}).status_code == 200
    assert "Latest 20: 20 Failed" in Visitor(host).get().text


def test_a_hook_is_not_removed_by_emptying_its_line(filled: Filled) -> None:
    """An emptied line of a hook is refused; a button removes it."""
    hook = str(filled.ids["hook"])
    answer = edit(filled, hook_id=[hook, ""], hook_url=["", "http://127.0.0.1:9/other"])
    check_page(answer, 400)
    assert "Enter a URL or remove the line" in text_of(answer)
    document = filled.host.api("GET", f"{filled.repository}/webhooks/{filled.webhook['id']}/").get_json()
    assert [each["id"] for each in document["hooks"]] == [filled.ids["hook"]]


def test_a_page_beyond_the_last(filled: Filled) -> None:
    """A page past the last does not say that there are no webhooks."""
    page = text_of(filled.owner.get("?page=99"))
    assert "has no webhooks yet" not in page and "All webhooks" in page


def test_a_layout_with_blocks_of_its_own(make_host: MakeHost, sqlite_uri: str) -> None:
    """Our pages override no other block of the host's layout, whatever its name."""
    names = ("menu", "page", "breadcrumbs", "notice", "crumbs", "filters", "chart", "payload", "secret", "fields")
    blocks = "".join(f"{{% block {name} %}}<i>{name} of the host</i>{{% endblock %}}" for name in names)
    host = make_host(database_uri=sqlite_uri, config={"HUBHOOKS_LAYOUT": "base.html"})
    host.app.jinja_loader = DictLoader({"base.html": blocks + "{% block content %}{% endblock %}"})
    filled = Filled(host)
    for (method, name), (path, status, _) in ROUTES.items():
        if method == "GET":
            answer = filled.owner.get(path.format(**filled.ids))
            check_page(answer, status)
            assert all(answer.text.count(f"<i>{each} of the host</i>") == 1 for each in names), name


def test_a_layout_with_variables_of_its_own(make_host: MakeHost, sqlite_uri: str) -> None:
    """Our pages override no variable of the host's layout: all ours start with `hubhooks`."""
    known: set[str] = set()

    @pass_context
    def note(context: Context) -> str:
        known.update(context.get_all())
        return ""

    host = make_host(database_uri=sqlite_uri, config={"HUBHOOKS_LAYOUT": "base.html"})
    host.app.context_processor(lambda: {"note": note})
    host.app.jinja_loader = DictLoader({"base.html": "{{ note() }}{% block content %}{% endblock %}"})
    with host.app.test_request_context():
        render_template("base.html")
    of_host = set(known)
    filled = Filled(host)
    for (method, name), (path, status, _) in ROUTES.items():
        if method == "GET":
            known.clear()
            check_page(filled.owner.get(path.format(**filled.ids)), status)
            assert of_host <= known and all(each.startswith("hubhooks") for each in known - of_host), name


def test_back_to_where_the_button_was(host: Host) -> None:
    """Pausing and resuming return to the page they came from; a refusal links to what it is about."""
    webhook = host.create(URL)
    visitor = Visitor(host)
    for at, back in (
        ("?at=2", "?page=2&notice=paused"),
        ("", "?notice=paused"),
        ("?at=//evil", "?notice=paused"),
        ("?at=0", "?notice=paused"),
    ):
        answer = visitor.send(f"{webhook['id']}/pause/{at}")
        assert answer.location == visitor.url() + back
    answer = visitor.send(f"{webhook['id']}/resume/?at=history")
    assert answer.location == visitor.url(f"{webhook['id']}/history/?notice=resumed")
    for number in range(11):
        host.create(URL, name=str(number))
    assert f"{webhook['id']}/pause/?at=2" in visitor.get("?page=2").text
    host.push()
    delivery = visitor.url(f"{webhook['id']}/history/{host.history(webhook)[0]['id']}/")
    host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False})
    refused = visitor.send(delivery + "redeliver/")
    check_page(refused, 409)
    assert f'href="{delivery}"' in refused.text and f'href="{visitor.url()}"' in refused.text
    host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/")
    gone = visitor.send(delivery + "redeliver/")
    check_page(gone, 404)
    assert f'href="{visitor.url()}"' in gone.text and f'href="{delivery}"' not in gone.text


# Pausing, deleting and recovering


def test_what_pausing_and_deleting_do(host: Host) -> None:
    """The pages say what a pause does, what is held and how much; deleting asks, and says how much it cancels."""
    with Receiver(500) as receiver:
        visitor, webhook = Visitor(host), host.create(receiver.url, receiver.url)
        host.push(tag="tried")
        host.deliver()
        host.push(tag="new")
        host.make_due()
        says = "Nothing is sent, and pushes are not recorded for it, until it is resumed."
        assert says not in text_of(visitor.get()) + text_of(visitor.get(f"{webhook['id']}/history/"))
        assert visitor.send(f"{webhook['id']}/pause/").status_code == 303
        host.deliver()
        assert says in text_of(visitor.get())
        history = text_of(visitor.get(f"{webhook['id']}/history/"))
        assert f"{says} 4 deliveries are held until then." in history
        assert history.count("Held: the webhook is paused.") == 2
        asked = text_of(visitor.get(f"{webhook['id']}/delete/"))
        assert (
            "4 deliveries that have not been received yet will be cancelled. Its history will no longer be readable."
            in asked
        )
        assert host.states(webhook) == ["pending", "waiting"] * 2
        assert visitor.send(f"{webhook['id']}/resume/").status_code == 303
        host.deliver()
        assert "Held" not in text_of(visitor.get(f"{webhook['id']}/history/"))


def test_recovering(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says how many pushes failed since a time, and sends them again, in batches and each once."""
    monkeypatch.setattr(redelivery, "MAX_RECOVERED", 2)
    monkeypatch.setattr(deliveries, "RECOVERING_S", 0.0)
    with Receiver(301) as receiver:
        visitor, webhook = Visitor(host), host.create(receiver.url)
        for number in range(5):
            host.push(tag=f"v{number}")
        host.deliver()
        path = f"{webhook['id']}/recover/"
        assert "5 pushes were not delivered." in text_of(visitor.get(path))
        assert "There is nothing to recover since then." in text_of(visitor.get(f"{path}?since=2100-01-01T00:00"))
        assert visitor.get(f"{path}?since=yesterday", 400)
        assert visitor.send(path).status_code == visitor.send(path, since="yesterday").status_code == 400
        shown = visitor.get(path)
        for progress in (
            "2 pushes are being sent again. 3 pushes were not delivered.",
            "4 pushes are being sent again. 1 push was not delivered.",
            "5 pushes are being sent again. There is nothing more to recover.",
        ):
            fields = dict(re.findall(r'type="hidden" name="(since|until|recovered)" value="([^"]*)"', shown.text))
            shown = visitor.send(path, **fields)
            has_more = "There is nothing more" not in progress
            assert (shown.status_code, "data-goes-on" in shown.text) == (200 if has_more else 303, has_more)
            if not has_more:
                shown = visitor.get(shown.headers["Location"])
            assert progress in text_of(shown)
            host.deliver()  # they fail again, and are not sent again for that
        assert "data-goes-on" not in visitor.get(f"{path}?since=2020-01-01T00:00&recovered=2").text, "a link begins it"
        assert len(receiver.requests) == 10
        assert "5 pushes were not delivered." in text_of(visitor.get(path))
        assert visitor.send(f"{webhook['id']}/pause/").status_code == 303
        assert "The webhook is not active. Resume it first." in text_of(visitor.get(path))
        assert visitor.send(path, **fields).status_code == 409
