"""Previews: what a webhook would send, before it is saved, by API and in the forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_hubhooks.formats import FORMATS
from flask_hubhooks.records.models import Delivery, Hook, Push, Webhook

from ..formats.test_formats import CHILD, DIGEST, INDEX
from ..support.host import Host, problem
from ..support.marks import URL, MakeHost, on_sqlite
from ..support.receivers import Receiver
from ..support.visitor import Visitor, text_of, version_on

TEMPLATE = json.dumps({"image": "{image}:{tag}", "then": "{callback_url}"})
PUSH: dict[str, Any] = {"tag": "v1", "digest": DIGEST, "media_type": INDEX, "images": (CHILD,), "pusher": "carol"}


def preview(host: Host, wanted: dict[str, Any]) -> dict[str, Any]:
    answer = host.api("POST", "acme/app/webhooks/preview/", json=wanted)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def rows(host: Host) -> list[int]:
    return [host.count(each) for each in (Webhook, Hook, Push, Delivery)]


def test_as_it_is_sent(host: Host) -> None:
    """A preview with the latest push is what a worker sends, but for what is secret or new with each request."""
    with Receiver() as receiver:
        hooks: list[dict[str, Any]] = [
            {"hook_url": f"{receiver.url}/{name}", "payload_format": name} for name in FORMATS
        ]
        hooks.append({"hook_url": f"{receiver.url}/{{tag}}?image={{image}}"})
        hooks.append({"hook_url": f"{receiver.url}/own", "payload_format": "template", "template": TEMPLATE})
        headers = {"Authorization": "Bearer s3cret", "User-Agent": "Go-http-client/1.1"}
        shown = {}
        for number, hook in enumerate(hooks):
            host.create(name=f"n{number}", hooks=[hook], headers=headers)
        host.push(**PUSH)
        for hook in hooks:
            found = preview(host, {"hooks": [hook], "headers": headers})
            assert (found["is_sample"], found["push"]["tag"], found["push"]["images"]) == (False, "v1", [CHILD])
            [request] = found["requests"]
            shown[request["url"]] = request
        before = rows(host)
        host.deliver()
    assert rows(host) == before
    assert len(receiver.requests) == len(shown) == len(hooks)
    for sent in receiver.requests:
        request = shown[receiver.url.removesuffix("/hook") + sent.path]
        body = sent.body.decode().replace(sent.headers["webhook-id"], "00000000-0000-0000-0000-000000000000")
        if "/hook/" in body:
            token = body.partition("/u/acme/app/hook/")[2].partition("/")[0]
            body = body.replace(token, "***")
        assert (request["method"], request["body"], request["error"]) == ("POST", body, "")
        by_name = {name.lower(): value for name, value in request["headers"]}
        assert by_name.keys() == sent.headers.keys() - {"host", "content-length", "accept-encoding"}
        masked = {name for name, value in by_name.items() if value == "***"}
        signed = {"webhook-id", "webhook-timestamp", "webhook-signature", "x-hub-signature-256", "x-signature"}
        assert masked == signed | {"authorization", "user-agent"}
        assert all(sent.headers[name] == by_name[name] for name in by_name.keys() - masked)


@on_sqlite
def test_credentials_of_a_url(host: Host) -> None:
    """User name and password in a URL become a header that is masked, and leave the URL."""
    [request] = preview(host, {"hook_url": "https://user:s3cret@ci.example.com/hook"})["requests"]
    assert request["url"] == "https://ci.example.com/hook"
    assert ["Authorization", "***"] in request["headers"]


def test_nothing_is_stored_or_sent(host: Host) -> None:
    """A preview stores nothing and sends nothing, not even for a hook URL that could be called."""
    with Receiver() as receiver:
        before = rows(host)
        found = preview(host, {"name": "deploy", "hooks": [{"hook_url": receiver.url}, {"hook_url": receiver.url}]})
        assert (found["is_sample"], len(found["requests"])) == (True, 2)
        assert rows(host) == before == [0, 0, 0, 0]
        host.deliver()
        assert not receiver.requests


@on_sqlite
def test_which_push(host: Host) -> None:
    """The push is the latest of the repository's webhooks; a made-up one where there is none, or if asked for."""
    host.create(URL)
    assert preview(host, {})["is_sample"] is True
    for tag in ("v1", "v2"):
        host.push(tag=tag)
    assert preview(host, {})["push"]["tag"] == "v2"
    sample = preview(host, {"push": "sample", "hook_url": URL, "payload_format": "harbor"})
    assert (sample["is_sample"], sample["push"]["repository"], sample["push"]["pusher"]) == (True, "acme/app", "alice")
    [resource] = json.loads(sample["requests"][0]["body"])["event_data"]["resources"]
    assert resource["digest"] == sample["push"]["digest"] != ""


HOOKS = [{"hook_url": URL}] * 11


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": ""},
        {"name": "taken"},
        {"name": "new", "hooks": HOOKS},
        {"name": "new", "hook_url": "ftp://ci.example.com/"},
        {"name": "new", "hook_url": "https://169.254.169.254/"},
        {"name": "new", "hook_url": "https://{tag}.example.com/"},
        {"name": "new", "hook_url": URL, "hooks": []},
        {"name": "new", "hook_url": URL, "payload_format": "xml"},
        {"name": "new", "hook_url": URL, "payload_format": "template", "template": '"{nobody}"'},
        {"name": "new", "hooks": [{"hook_url": URL}, {"hook_url": URL, "payload_format": "template"}]},
        {"name": "new", "hooks": [{"id": 7}]},
        {"name": "new", "hook_url": URL, "payload_format": "slack", "expect_final_callback": True},
        {"name": "new", "headers": {"Host": "x", "X-Key": None}},
        {"name": "new", "headers": {"X-Key": None}},
        {"name": "new", "secret": "whsec_x"},
        {"name": "new", "tag_filter": ["["]},
        {"name": "new", "colour": "red"},
    ],
    ids=str,
)
@on_sqlite
def test_errors_of_saving(host: Host, wanted: dict[str, Any]) -> None:
    """A preview is refused exactly as creating the webhook is."""
    host.create(URL, name="taken")
    saved = problem(host.api("POST", "acme/app/webhooks/", json=wanted), 400)
    assert problem(host.api("POST", "acme/app/webhooks/preview/", json=wanted), 400) == saved
    if "name" in wanted and list(saved["errors"]) != ["name"]:
        del wanted["name"]
        assert problem(host.api("POST", "acme/app/webhooks/preview/", json=wanted), 400) == saved


@on_sqlite
def test_at_the_limit(make_host: MakeHost) -> None:
    """With as many webhooks as are allowed a new one is refused; hooks alone can still be previewed."""
    host = make_host(config={"HUBHOOKS_MAX_WEBHOOKS": 1})
    host.create(URL)
    problem(host.api("POST", "acme/app/webhooks/preview/", json={"name": "new", "hook_url": URL}), 400)
    assert len(preview(host, {"hook_url": URL})["requests"]) == 1


@on_sqlite
def test_what_could_not_be_sent(host: Host) -> None:
    """A template that is too large once it is filled has an error in place of the body."""
    host.create(URL)
    host.push(pusher="x" * 200)
    hook = {"hook_url": URL, "payload_format": "template", "template": json.dumps(["{pusher}" * 1800])}
    [request] = preview(host, hook)["requests"]
    assert request["body"] == ""
    assert request["error"] == "The filled template has 360004 bytes; the limit is 65536."


def test_in_the_form_of_a_new_webhook(host: Host) -> None:
    """The form shows the preview and keeps what was typed, also without a name; errors stand at their fields."""
    visitor = Visitor(host)
    typed = {"name": "", "hook_url": "https://keel.example.com/{tag}", "hook_id": "", "payload_format": "harbor"}
    shown = visitor.send(action="preview-requests", template="", **typed)
    assert shown.status_code == 200
    assert "For a sample push. Nothing has been sent." in text_of(shown)
    assert "POST https://keel.example.com/latest" in text_of(shown) and '"type": "PUSH_ARTIFACT"' in text_of(shown)
    assert 'value="https://keel.example.com/{tag}"' in shown.text
    typed |= {"payload_format": "template", "template": '"{nobody}"'}
    refused = visitor.send(action="preview-requests", **typed)
    assert refused.status_code == 400
    assert "Unknown placeholder {nobody}" in text_of(refused) and "Nothing has been sent" not in text_of(refused)
    assert rows(host) == [0, 0, 0, 0]


def test_in_the_form_of_a_webhook(host: Host) -> None:
    """Previewing changes to a webhook shows them with the latest push, and changes neither it nor its deliveries."""
    webhook = host.create(URL, f"{URL}/2", headers={"Authorization": "Bearer s3cret"})
    host.push(tag="v7")
    before, history = host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json(), host.history(webhook)
    visitor = Visitor(host)
    form = visitor.get(f"{webhook['id']}/")
    fields = {"version": version_on(form), "header_name": "Authorization", "header_value": "", "tag_filter": ""}
    hook = {"hook_id": str(webhook["hooks"][1]["id"]), "hook_url": f"{URL}/3", "payload_format": "slack"}
    shown = visitor.send(f"{webhook['id']}/", action="preview-requests", name="changed", template="", **fields, **hook)
    assert shown.status_code == 200, shown.text
    assert "For the latest push, of the tag v7 . Nothing has been sent." in text_of(shown)
    assert f"POST {URL}/3" in text_of(shown) and "*registry.example.com/acme/app:v7* pushed" in text_of(shown)
    assert "Authorization ***" in text_of(shown) and "s3cret" not in shown.text
    assert 'value="changed"' in shown.text
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json() == before
    assert host.history(webhook) == history
