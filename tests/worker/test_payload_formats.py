"""Payload formats from the push to the receiver, over HTTP, as its rules read what arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from flask_hubhooks.formats import FORMATS, dockerhub
from flask_hubhooks.formats.template import MAX_BODY_BYTES
from flask_hubhooks.records.models import Hook

from ..formats.test_formats import CHILD, DEPLOYED, DIGEST, INDEX
from ..support import deployers
from ..support.host import Host
from ..support.receivers import Receiver

SILENT = ("distribution", "slack", "discord", "teams")
"""Formats whose bodies carry no callback URL."""
TEMPLATE = json.dumps({"image": "{image}:{tag}", "by": "{pusher}"})
WITH_CALLBACK = json.dumps({"image": "{image}:{tag}", "then": "{callback_url}"})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def create(host: Host, *hooks: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = host.api("POST", "acme/app/webhooks/", json={"name": "deploy", "hooks": hooks} | more)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def push(host: Host) -> None:
    host.push(tag="v1", digest=DIGEST, media_type=INDEX, pusher="alice", images=(CHILD,))
    host.deliver()


def change(host: Host, webhook: dict[str, Any], position: int = 0, **values: Any) -> None:
    path = f"acme/app/webhooks/{webhook['id']}/hooks/{webhook['hooks'][position]['id']}/"
    answer = host.api("PATCH", path, json=values)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("payload_format", sorted(FORMATS))
def test_receivers_read_what_arrives(host: Host, receiver: Receiver, payload_format: str) -> None:
    """A worker sends each format so that the receivers it is for find the image, with its digest if they read one.

    Flux takes any JSON, but for its types `cdevents` and `generic-oidc`.
    """
    hook = {"hook_url": receiver.url, "payload_format": payload_format}
    create(host, hook, headers={"Authorization": deployers.SECRET, "User-Agent": "Go-http-client/1.1"})
    push(host)
    [request] = receiver.requests
    assert request.headers["content-type"] == FORMATS[payload_format].content_type
    for (rule, name), expected in DEPLOYED.items():
        if name == payload_format:
            assert deployers.RULES[rule](request.headers, request.body) == expected
    for type_ in deployers.FLUX_READS:
        deployers.flux_decodes(type_, request.body)
    deployers.flux_harbor(request.headers, request.body)
    for of_others in (deployers.flux_cdevents, deployers.flux_generic_oidc):
        with pytest.raises(deployers.Refused):
            of_others(request.headers, request.body)


def test_images_of_an_index(host: Host, receiver: Receiver) -> None:
    """`dockerhub-full` lists the images of an index, and of a single image its own digest."""
    create(host, {"hook_url": receiver.url, "payload_format": "dockerhub-full"})
    push(host)
    host.push(digest=DIGEST)
    host.deliver()
    assert [json.loads(each.body)["push_data"]["images"] for each in receiver.requests] == [[CHILD], [DIGEST]]


def test_dockerhub_is_the_documented_document(host: Host, receiver: Receiver) -> None:
    """The default format arrives byte for byte as Docker Hub's document."""
    create(host, {"hook_url": receiver.url})
    push(host)
    [request] = receiver.requests
    sent = json.loads(request.body)
    assert list(sent) == ["callback_url", "push_data", "repository"]
    assert list(sent["push_data"]) == ["pushed_at", "pusher", "tag"]
    assert sent["repository"]["repo_name"] == "acme/app"
    assert dockerhub.body(sent) == request.body
    assert request.headers["content-type"] == "application/json"


def test_template(host: Host, receiver: Receiver) -> None:
    """A template is filled, and the history shows it as it was sent, but for the callback's token."""
    hook = {"hook_url": receiver.url, "payload_format": "template", "template": WITH_CALLBACK}
    webhook = create(host, hook)
    push(host)
    [request] = receiver.requests
    sent = json.loads(request.body)
    token = sent["then"].split("/")[-2]
    assert sent["image"] == "registry.example.com/acme/app:v1"
    [delivery] = host.history(webhook)
    [attempt] = host.details(webhook, delivery)["attempts"]
    assert attempt["request"]["body"] == request.body.decode().replace(token, "***")
    assert attempt["payload_format"] == "template"


def test_a_template_that_becomes_too_large(host: Host, receiver: Receiver) -> None:
    """A filled template over the limit fails its delivery at once with a plain reason, and is not sent."""
    template = json.dumps(["{pusher}" * 1800])
    webhook = create(host, {"hook_url": receiver.url, "payload_format": "template", "template": template})
    host.push(pusher="x" * 200)
    host.deliver()
    [delivery] = host.history(webhook)
    assert (delivery["state"], delivery["attempt_count"]) == ("failed", 1)
    assert delivery["reason"] == f"The filled template has {1800 * 200 + 4} bytes; the limit is {MAX_BODY_BYTES}."
    [attempt] = host.details(webhook, delivery)["attempts"]
    assert (attempt["status_code"], attempt["response"]) == (None, None)
    assert not receiver.requests
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"][0]["failing_since"] is None


def test_placeholders_in_urls(host: Host, receiver: Receiver) -> None:
    """Placeholders in path and query are filled, whatever the format, and the history shows the URL that was used."""
    webhook = create(host, {"hook_url": f"{receiver.url}/{{tag}}?image={{image}}&x=%7B"})
    push(host)
    path = "/hook/v1?image=registry.example.com%2Facme%2Fapp&x=%7B"
    assert [each.path for each in receiver.requests] == [path]
    [delivery] = host.history(webhook)
    [attempt] = host.details(webhook, delivery)["attempts"]
    assert attempt["request"]["url"] == receiver.url.removesuffix("/hook") + path


def test_the_format_when_it_is_sent(host: Host, receiver: Receiver) -> None:
    """A delivery uses the format that its hook has when it is sent, and is not waited for if that has no callback."""
    webhook = create(host, {"hook_url": receiver.url}, {"hook_url": f"{receiver.url}/2"})
    host.push()
    change(host, webhook, 0, payload_format="slack")
    change(host, webhook, 1, payload_format="teams")
    host.deliver()
    assert [list(json.loads(each.body)) for each in receiver.requests] == [["text", "blocks"], ["type", "attachments"]]
    assert [each["state"] for each in host.history(webhook)] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("payload_format", [*SILENT, "template"])
def test_nobody_waits_for_a_callback_that_cannot_come(host: Host, receiver: Receiver, payload_format: str) -> None:
    """A chain goes on after a hook whose body has no callback URL once it was received."""
    first = {"hook_url": receiver.url, "payload_format": payload_format}
    if payload_format == "template":
        first["template"] = TEMPLATE
    webhook = create(host, first, {"hook_url": f"{receiver.url}/2"})
    push(host)
    assert len(receiver.requests) == 2
    by_position = sorted(host.history(webhook), key=lambda each: int(each["position"]))
    assert [each["state"] for each in by_position] == ["succeeded", "awaiting_callback"]
    assert [each["callback_expected"] for each in by_position] == [False, True]


def test_a_template_with_a_callback_url_is_waited_for(host: Host, receiver: Receiver) -> None:
    """A template that holds `{callback_url}` is waited for like Docker Hub's document."""
    first = {"hook_url": receiver.url, "payload_format": "template", "template": WITH_CALLBACK}
    webhook = create(host, first, {"hook_url": f"{receiver.url}/2"}, expect_final_callback=False)
    push(host)
    url = json.loads(receiver.requests[0].body)["then"].removeprefix("https://registry.example.com")
    assert len(receiver.requests) == 1
    assert host.client.post(url, json={"state": "success"}).status_code == 200
    host.deliver()
    assert len(receiver.requests) == 2
    assert {each["state"] for each in host.history(webhook)} == {"succeeded"}


def test_redelivering_in_another_format(host: Host, receiver: Receiver) -> None:
    """A redelivery uses the hook's present format, and expects a callback only if that can bring one."""
    webhook = create(host, {"hook_url": receiver.url, "payload_format": "slack"}, {"hook_url": f"{receiver.url}/2"})
    push(host)
    first = next(each for each in host.history(webhook) if each["position"] == 0)

    def redelivered(payload_format: str) -> tuple[bool, str]:
        change(host, webhook, payload_format=payload_format)
        path = f"acme/app/webhooks/{webhook['id']}/history/{first['id']}/redeliver/"
        assert host.api("POST", path).status_code == 202
        host.deliver()
        delivery = host.details(webhook, first)
        return delivery["callback_expected"], delivery["state"]

    assert redelivered("dockerhub") == (True, "awaiting_callback")
    assert redelivered("discord") == (False, "succeeded")


def test_test_pushes(host: Host, receiver: Receiver) -> None:
    """A test uses the format, the template and the placeholders of its hook."""
    webhook = create(host, {"hook_url": f"{receiver.url}/{{tag}}", "payload_format": "harbor"})
    for template in (None, TEMPLATE):
        if template:
            change(host, webhook, payload_format="template", template=template)
        assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
        host.deliver()
    event, filled = (json.loads(each.body) for each in receiver.requests)
    assert event["type"] == "PUSH_ARTIFACT"
    assert filled == {"image": "registry.example.com/acme/app:hubhooks-test", "by": "alice"}
    assert {each.path for each in receiver.requests} == {"/hook/hubhooks-test"}


@pytest.mark.parametrize("stored", [{"payload_format": "later"}, {"payload_format": "template", "template": "{"}])
def test_a_format_of_another_version(host: Host, receiver: Receiver, stored: dict[str, str]) -> None:
    """A push to a hook whose format only another version can write is recorded, and held until that one sends it."""
    webhook = create(host, {"hook_url": receiver.url})
    host.set_all(Hook, **stored)
    push(host)
    [delivery] = host.history(webhook)
    assert (delivery["state"], delivery["attempt_count"]) == ("pending", 0)
    assert delivery["reason"] == "Waiting: it could not be built. The worker's log says why."
    host.set_all(Hook, payload_format="dockerhub", template=None)
    host.make_due()
    host.deliver()
    assert [each["state"] for each in host.history(webhook)] == ["succeeded"]
