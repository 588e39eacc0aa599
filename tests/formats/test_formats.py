"""Payload formats: exact documents, and what real deployers read from them."""

from __future__ import annotations

import dataclasses
import json
import uuid
from datetime import datetime, timezone
from typing import Any

import pytest
from cloudevents.core.bindings import http
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks import Repository
from flask_hubhooks.crypto.signing import new_secret, signature_headers
from flask_hubhooks.formats import FORMATS, PAYLOAD_FORMATS, BadTemplate, Push, dockerhub, format_of

from ..support import deployers

DIGEST = "sha256:d5160df500015439d682731573cb90885a3b73b2016d0a7d806ee7a63fa0a7b9"
CHILD = "sha256:0a1b2c00015439d682731573cb90885a3b73b2016d0a7d806ee7a63fa0a7b9ff"
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = "registry.example.com/acme/app:v1"
PUSH = Push(
    delivery_id=uuid.UUID("018f4d6e-0000-7000-8000-000000000001"),
    repository="acme/app",
    tag="v1",
    pusher="alice",
    pushed_at=datetime(2014, 12, 3, 0, 22, 41, 900_000, tzinfo=timezone.utc),
    details=Repository(date_created=datetime(2014, 12, 2, tzinfo=timezone.utc), is_private=True).snapshot(),
    registry_host="registry.example.com",
    external_url="https://hub.example.com",
    callback_url="https://hub.example.com/u/acme/app/hook/token/",
    digest=DIGEST,
    media_type=INDEX,
    images=(CHILD,),
)
UNKNOWN = dataclasses.replace(
    PUSH, pusher="", digest="", media_type="", images=(), details=Repository(date_created=None).snapshot()
)
"""A push with no optional value."""


def written(name: str, push: Push = PUSH, **changes: Any) -> Any:
    return json.loads(FORMATS[name].body(dataclasses.replace(push, **changes)))


def test_dockerhub_stays_as_it_is() -> None:
    """The default format is, byte for byte, the document that Docker Hub documented."""
    for push in (PUSH, UNKNOWN):
        document = dockerhub.payload(
            external_url=push.external_url,
            callback_url=push.callback_url,
            repository=push.repository,
            tag=push.tag,
            pusher=push.pusher,
            pushed_at=push.pushed_at,
            details=push.details,
        )
        assert FORMATS["dockerhub"].body(push) == dockerhub.body(document)


def test_dockerhub_full() -> None:
    """The same document with the complete image name, digest, media type and images."""
    plain = written("dockerhub")
    plain["push_data"] |= {"digest": DIGEST, "media_type": INDEX, "images": [CHILD]}
    plain["repository"]["repo_name"] = "registry.example.com/acme/app"
    assert written("dockerhub-full") == plain
    assert written("dockerhub-full", images=())["push_data"]["images"] == [DIGEST]
    unknown = {"pushed_at": 1417566161, "pusher": "", "tag": "v1", "images": []}
    assert written("dockerhub-full", UNKNOWN)["push_data"] == unknown


def test_harbor() -> None:
    """Harbor's push event with whole numbers; unknown values are left out."""
    assert written("harbor") == {
        "type": "PUSH_ARTIFACT",
        "occur_at": 1417566161,
        "operator": "alice",
        "event_data": {
            "resources": [{"digest": DIGEST, "tag": "v1", "resource_url": IMAGE}],
            "repository": {
                "date_created": 1417478400,
                "name": "app",
                "namespace": "acme",
                "repo_full_name": "acme/app",
                "repo_type": "private",
            },
        },
        "callback_url": PUSH.callback_url,
    }
    assert written("harbor", UNKNOWN)["event_data"] == {
        "resources": [{"tag": "v1", "resource_url": IMAGE}],
        "repository": {"name": "app", "namespace": "acme", "repo_full_name": "acme/app", "repo_type": "public"},
    }


@pytest.mark.parametrize(
    ("repository", "namespace", "name"), [("a/b/c", "a", "b/c"), ("busybox", "library", "busybox")]
)
def test_harbor_names(repository: str, namespace: str, name: str) -> None:
    """The namespace is the part before the first slash, as of a Harbor project."""
    found = written("harbor", repository=repository)["event_data"]["repository"]
    assert (found["namespace"], found["name"], found["repo_full_name"]) == (namespace, name, repository)


def test_distribution() -> None:
    """The envelope of CNCF Distribution with one event."""
    assert FORMATS["distribution"].content_type == "application/vnd.docker.distribution.events.v2+json"
    event = {
        "id": "018f4d6e-0000-7000-8000-000000000001",
        "timestamp": "2014-12-03T00:22:41Z",
        "action": "push",
        "target": {
            "mediaType": INDEX,
            "digest": DIGEST,
            "repository": "acme/app",
            "url": f"https://registry.example.com/v2/acme/app/manifests/{DIGEST}",
            "tag": "v1",
        },
        "request": {"host": "registry.example.com", "method": "PUT"},
        "actor": {"name": "alice"},
        "source": {"addr": "registry.example.com"},
    }
    assert written("distribution") == {"events": [event]}
    url = "https://registry.example.com/v2/acme/app/manifests/v1"
    target = {"repository": "acme/app", "url": url, "tag": "v1"}
    assert written("distribution", UNKNOWN) == {"events": [event | {"target": target, "actor": {}}]}


def test_cloudevents() -> None:
    """A CloudEvents 1.0 event in structured mode."""
    assert FORMATS["cloudevents"].content_type == "application/cloudevents+json"
    expected: dict[str, Any] = {
        "specversion": "1.0",
        "id": "018f4d6e-0000-7000-8000-000000000001",
        "source": "https://registry.example.com",
        "type": "io.hubhooks.image.pushed",
        "subject": "acme/app:v1",
        "time": "2014-12-03T00:22:41Z",
        "datacontenttype": "application/json",
        "data": {
            "registry": "registry.example.com",
            "repository": "acme/app",
            "tag": "v1",
            "digest": DIGEST,
            "pusher": "alice",
            "callback_url": PUSH.callback_url,
        },
    }
    assert written("cloudevents") == expected
    del expected["data"]["digest"]
    assert written("cloudevents", UNKNOWN)["data"] == expected["data"] | {"pusher": ""}


@pytest.mark.parametrize("push", [PUSH, UNKNOWN])
def test_cloudevents_package(push: Push) -> None:
    """The CloudEvents SDK reads the event and finds it valid."""
    format_ = FORMATS["cloudevents"]
    event = http.from_http_event(http.HTTPMessage({"Content-Type": format_.content_type}, format_.body(push)))
    assert (event.get_id(), event.get_type()) == (str(push.delivery_id), "io.hubhooks.image.pushed")
    assert event.get_time() == push.pushed_at.replace(microsecond=0)
    assert event.get_data() == written("cloudevents", push)["data"]


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"dockerhub", "dockerhub-full"}))
def test_older_snapshots(name: str) -> None:
    """A push that an older version stored may lack details that are known today."""
    assert FORMATS[name].body(dataclasses.replace(UNKNOWN, details={})) == FORMATS[name].body(UNKNOWN)


def test_slack() -> None:
    """A message with the image, its tag, the pusher and a link."""
    page = "https://hub.example.com/r/acme/app/"
    assert written("slack") == {
        "text": f"*{IMAGE}* pushed by alice",
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*<{page}|{IMAGE}>* pushed by alice"}},
        ],
    }
    assert written("slack", UNKNOWN)["text"] == f"*{IMAGE}* pushed"


def test_discord() -> None:
    """A message with escaped Markdown that mentions nobody."""
    assert written("discord", pusher="my_ci*") == {
        "content": f"**{IMAGE}** pushed by my\\_ci\\*\n<https://hub.example.com/r/acme/app/>",
        "allowed_mentions": {"parse": []},
    }


def test_teams() -> None:
    """An Adaptive Card 1.4 in the message that Teams workflows take."""
    assert written("teams", pusher="Alice") == {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [
                        {"type": "TextBlock", "text": IMAGE, "weight": "Bolder", "wrap": True},
                        {"type": "TextBlock", "text": "Pushed by Alice", "wrap": True},
                    ],
                    "actions": [
                        {
                            "type": "Action.OpenUrl",
                            "title": "Open repository",
                            "url": "https://hub.example.com/r/acme/app/",
                        }
                    ],
                },
            }
        ],
    }


def test_chat_reads_names_as_text() -> None:
    """Pushers cannot mention a channel or insert a link."""
    pusher = "<!channel> @all\n<https://evil.example|x> [y](https://evil.example)"
    slack = written("slack", pusher=pusher)["text"]
    assert "<" not in slack and "&lt;!channel&gt; @\u200ball &lt;https" in slack and "\n" not in slack
    assert "](" not in written("teams", pusher=pusher)["attachments"][0]["content"]["body"][1]["text"]
    assert "\\[y\\]\\(https" in written("discord", pusher=pusher)["content"]


@pytest.mark.parametrize(
    ("repo_url", "link"),
    [
        ("https://hub.example.com/acme|app>?a=b&c", "https://hub.example.com/acme%7Capp%3E?a=b&c"),
        ("/repositories/acme/app", "https://hub.example.com/r/acme/app/"),
        ("javascript:alert(1)", "https://hub.example.com/r/acme/app/"),
    ],
)
def test_chat_links(repo_url: str, link: str) -> None:
    """The link is the repository's page, and a page of ours if the host's is not an http(s) URL."""
    push = dataclasses.replace(PUSH, details={**PUSH.details, "repo_url": repo_url})
    assert written("teams", push)["attachments"][0]["content"]["actions"][0]["url"] == link
    assert f"<{link}>" in written("discord", push)["content"]
    assert f"<{link.replace('&', '&amp;')}|{IMAGE}>" in written("slack", push)["blocks"][0]["text"]["text"]


def test_chat_limits() -> None:
    """The longest names and links fit into the limits of Slack and Discord."""
    for letter in "&*@<é":
        details = {**PUSH.details, "repo_url": f"https://{letter * 2040}"}
        push = dataclasses.replace(PUSH, repository=letter * 255, tag=letter * 255, details=details)
        slack = written("slack", push, pusher=letter * 255)
        assert max(len(slack["text"]), len(slack["blocks"][0]["text"]["text"])) <= 3000
        assert len(written("discord", push, pusher=letter * 255)["content"]) <= 2000


DEPLOYED = {
    ("Keel, Docker Hub", "dockerhub"): "index.docker.io/acme/app:v1",
    ("Keel, Docker Hub", "dockerhub-full"): IMAGE,
    ("Keel, Harbor", "harbor"): f"{IMAGE}@{DIGEST}",
    ("Keel, registry", "distribution"): f"{IMAGE}@{DIGEST}",
    ("Kargo, Docker Hub", "dockerhub"): "docker.io/acme/app:v1",
    ("Kargo, Docker Hub", "dockerhub-full"): IMAGE,
    ("Kargo, Harbor", "harbor"): IMAGE,
    ("Argo CD Image Updater, Docker Hub", "dockerhub"): "docker.io/acme/app:v1",
    ("Argo CD Image Updater, Harbor", "harbor"): f"{IMAGE}@{DIGEST}",
    ("Argo CD Image Updater, CloudEvents", "cloudevents"): f"{IMAGE}@{DIGEST}",
    ("Argo CD, Docker Hub", "dockerhub"): "docker.io/acme/app:v1",
    ("Argo CD, Harbor", "harbor"): IMAGE,
    ("Kobold, Docker Hub", "dockerhub"): "docker.io/acme/app:v1",
    ("Kobold, Harbor", "harbor"): IMAGE,
    ("Kobold, Distribution", "distribution"): f"{IMAGE}@{DIGEST}",
    ("Jenkins, Docker Hub", "dockerhub"): "acme/app:v1",
    ("Jenkins, Docker Hub", "dockerhub-full"): IMAGE,
    ("Jenkins, registry", "distribution"): IMAGE,
    ("Dokploy", "dockerhub"): "acme/app:v1",
    ("Dokploy", "dockerhub-full"): IMAGE,
    ("Gitter", "dockerhub-full"): IMAGE,
}
"""The image that a deployer would deploy, by rule and payload format."""


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_flux_verifies(name: str) -> None:
    """Flux verifies every format as `generic-hmac`, and as `github` those that are `application/json`."""
    format_ = FORMATS[name]
    key = new_secret()
    body = format_.body(PUSH)
    headers = {"content-type": format_.content_type} | {
        header.lower(): value for header, value in signature_headers([key], "id", 0, body).items()
    }
    deployers.flux_generic_hmac(headers, body, key)
    with pytest.raises(deployers.Refused):
        deployers.flux_generic_hmac(headers, body + b" ", key)
    if name in ("distribution", "cloudevents"):
        with pytest.raises(deployers.Refused):
            deployers.flux_github(headers, body, key)
    else:
        deployers.flux_github(headers, body, key)
        with pytest.raises(deployers.Refused):
            deployers.flux_github(headers, body + b" ", key)


@pytest.mark.parametrize(
    ("rule", "name"), [("Gitter", "dockerhub"), ("Kapten", "dockerhub"), ("Kapten", "dockerhub-full")]
)
def test_not_deployed(rule: str, name: str) -> None:
    """Gitter's services need images, and Kapten Docker Hub's own callback URL."""
    with pytest.raises(deployers.Refused):
        deployers.RULES[rule]({}, FORMATS[name].body(PUSH))


@pytest.mark.parametrize("tag", ["1", "2026", "12345"])
def test_dokploy_and_short_numbers(tag: str) -> None:
    """Dokploy takes a tag of up to five digits for a port, so nothing matches; a longer one, or `v2026`, does."""
    headers = {"user-agent": "Go-http-client/1.1"}
    with pytest.raises(deployers.Refused):
        deployers.dokploy(headers, FORMATS["dockerhub-full"].body(dataclasses.replace(PUSH, tag=tag)))
    for other in ("123456", f"v{tag}"):
        push = dataclasses.replace(PUSH, tag=other)
        assert deployers.dokploy(headers, FORMATS["dockerhub-full"].body(push)).endswith(f"/app:{other}")


def test_unknown_digest() -> None:
    """Deployers that need no digest find the image without one."""
    headers = {"content-type": "application/json", "authorization": deployers.SECRET}
    for rule, name in DEPLOYED:
        if name in ("harbor", "distribution", "cloudevents") and rule != "Kobold, Distribution":
            assert deployers.RULES[rule](headers, FORMATS[name].body(UNKNOWN)) == IMAGE


SHAPES = {name: written(name) for name in FORMATS}
plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(
    repository=plain_text.filter(str.strip),
    tag=plain_text,
    pusher=plain_text,
    pushed_at=st.datetimes(timezones=st.just(timezone.utc)),
    images=st.lists(plain_text, min_size=1).map(tuple),
)
def test_any_text(**said: Any) -> None:
    """Every format is valid UTF-8 JSON with its own keys and types for any text, and keeps the text."""
    push = dataclasses.replace(PUSH, **said)
    sent = {}
    for name, format_ in FORMATS.items():
        sent[name] = json.loads(format_.body(push).decode("utf-8"), parse_constant=pytest.fail)
        assert_same_shape(sent[name], SHAPES[name])
    [resource] = sent["harbor"]["event_data"]["resources"]
    assert (resource["tag"], sent["harbor"]["operator"]) == (push.tag, push.pusher)
    assert resource["resource_url"] == f"registry.example.com/{push.repository}:{push.tag}"
    assert sent["cloudevents"]["data"]["repository"] == push.repository
    assert sent["dockerhub-full"]["push_data"]["images"] == list(push.images)
    body = FORMATS["cloudevents"].body(push)
    read = http.from_http_event(http.HTTPMessage({"Content-Type": FORMATS["cloudevents"].content_type}, body))
    assert read.get_data() == sent["cloudevents"]["data"]
    [event] = sent["distribution"]["events"]
    assert event["target"]["repository"] == push.repository
    assert event["target"]["url"].isascii()


def assert_same_shape(content: Any, shape: Any) -> None:
    """Compare keys and types; keys without a value may be absent."""
    assert type(content) is type(shape)
    if isinstance(shape, dict):
        assert set(content) <= set(shape)
        for key, value in content.items():
            assert_same_shape(value, shape[key])
    elif isinstance(shape, list):
        for each in content:
            assert_same_shape(each, shape[0])


def test_table() -> None:
    """The table tells whether the body of a format has a callback URL and a digest."""
    assert (*FORMATS, "template") == PAYLOAD_FORMATS
    for name, format_ in FORMATS.items():
        sent = format_.body(PUSH).decode()
        assert format_ is format_of(name)
        assert (format_.name, format_.has_callback) == (name, PUSH.callback_url in sent)
        assert format_.has_digest is (f'"digest":"{DIGEST}"' in sent)


def test_template_format() -> None:
    """A hook's own template is a format like the others."""
    waits, rests = format_of("template", '"{callback_url}"'), format_of("template", '{"tag": "{tag}"}')
    assert (waits.name, waits.content_type, waits.has_digest) == ("template", "application/json", False)
    assert (waits.has_callback, rests.has_callback) == (True, False)
    assert rests.body(PUSH) == b'{"tag":"v1"}'
    with pytest.raises(BadTemplate):
        format_of("template")
