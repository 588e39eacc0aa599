"""Placeholders in hook URLs, and hints from hook URLs."""

from __future__ import annotations

import dataclasses
from posixpath import normpath
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.formats import PAYLOAD_FORMATS
from flask_hubhooks.formats.hints import Hint, hint
from flask_hubhooks.formats.url_placeholders import URL_PLACEHOLDERS, check, fill
from flask_hubhooks.transport.hook_url import BadURL, target

from .test_formats import PUSH, plain_text

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("url", "filled"),
    [
        ("https://ci.example.com/hook?a=%7Btag%7D", "https://ci.example.com/hook?a=%7Btag%7D"),
        ("https://p.example.com/api/webhooks/1-2?tag={tag}", "https://p.example.com/api/webhooks/1-2?tag=v1"),
        (
            "http://w.example.com:8080/v1/update?image={image}&x={pushed_at}",
            "http://w.example.com:8080/v1/update?image=registry.example.com%2Facme%2Fapp&x=2014-12-03T00%3A22%3A41Z",
        ),
        (
            "https://ci.example.com/{repository}/{tag}-{pusher}?{registry}={digest}",
            "https://ci.example.com/acme%2Fapp/v1-alice?registry.example.com=" + PUSH.digest.replace(":", "%3A"),
        ),
    ],
)
def test_filled(url: str, filled: str) -> None:
    """Placeholders are replaced by percent-encoded values."""
    check(url)
    assert fill(url, PUSH) == filled


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://{registry}/hook", "only in its path and query"),
        ("https://{tag}.example.com/hook", "only in its path and query"),
        ("{tag}://ci.example.com/hook", "only in its path and query"),
        ("https://ci.example.com:{tag}/hook", "only in its path and query"),
        ("https://ci.example.com?{tag", "single braces. Write %7B"),
        ("https://ci.example.com/tag}", "single braces"),
        ("https://ci.example.com/{{tag}}", "single braces"),
        ("https://ci.example.com/{Tag}", "Unknown placeholder {Tag}."),
        ("https://ci.example.com/{}", "Unknown placeholder {}."),
        ("https://ci.example.com/{callback_url}", "Unknown placeholder {callback_url}."),
        ("https://ci.example.com/#{tag}", "fragment"),
        ("ftp://ci.example.com/{tag}", "absolute URL"),
    ],
)
def test_refused(url: str, message: str) -> None:
    """Unknown placeholders are refused, and any placeholder in scheme, host or port."""
    with pytest.raises(BadURL) as refusal:
        check(url)
    assert message in str(refusal.value)


@pytest.mark.parametrize("tag", [".", "..", "../admin", "..\\admin", "a/../../admin"])
@pytest.mark.parametrize("segment", ["{tag}", "{tag}{digest}"])
def test_values_lead_to_no_other_path(tag: str, segment: str) -> None:
    """Pushers cannot make a hook's path lead upwards, even at servers that decode it first."""
    push = dataclasses.replace(PUSH, tag=tag, digest="")
    path = urlsplit(fill(f"https://ci.example.com/hooks/{segment}/run", push)).path
    for seen in (path, unquote(path), unquote(path).replace("\\", "/")):
        assert normpath(seen).startswith("/hooks/") and normpath(seen).endswith("/run")


def test_own_dots_stay() -> None:
    """Dots that the owner wrote stay."""
    assert fill("https://ci.example.com/a/../{tag}.json", PUSH) == "https://ci.example.com/a/../v1.json"


@given(
    tag=plain_text,
    repository=plain_text,
    pusher=plain_text,
    name=st.sampled_from(URL_PLACEHOLDERS),
    before=st.sampled_from(["https://ci.example.com/", "http://127.0.0.1:8080/a/"]),
)
def test_any_value(tag: str, repository: str, pusher: str, name: str, before: str) -> None:
    """Any value keeps the host and the structure of the URL, and arrives unchanged."""
    push = dataclasses.replace(PUSH, tag=tag, repository=repository, pusher=pusher)
    filled = fill(f"{before}{{{name}}}/b?c={{{name}}}&d=e", push)
    assert target(filled).url == filled
    assert target(filled)[2:] == target(before)[2:]
    assert parse_qs(urlsplit(filled).query, keep_blank_values=True) == {"c": [push.placeholders()[name]], "d": ["e"]}
    assert filled.count("/") == before.count("/") + 1


HINTS = {
    "https://hooks.slack.com/services/T0/B0/x": ("Slack", "slack"),
    "https://discord.com/api/webhooks/1/x?wait=true": ("Discord", "discord"),
    "https://canary.discord.com/api/v10/webhooks/1/x": ("Discord", "discord"),
    "https://discordapp.com/api/webhooks/1/x/slack": ("Discord", "slack"),
    "https://acme.webhook.office.com/webhookb2/1@2/IncomingWebhook/3/4": ("Microsoft Teams", "teams"),
    "https://prod-12.westus.logic.azure.com:443/workflows/1/triggers/manual/paths/invoke?sig=x": (
        "Microsoft Teams",
        "teams",
    ),
    "https://default1.2.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/1/triggers/x": (
        "Microsoft Teams",
        "teams",
    ),
    "https://argocd.example.com/api/webhook?type=harbor": ("Argo CD", "harbor"),
    "https://updater.example.com/webhook?secret=x&type=harbor": ("Argo CD Image Updater", "harbor"),
    "https://updater.example.com/webhook?type=cloudevents": ("Argo CD Image Updater", "cloudevents"),
    "http://keel.example.com:9300/v1/webhooks/dockerhub": ("Keel", "dockerhub-full"),
    "http://keel.example.com:9300/v1/webhooks/harbor": ("Keel", "harbor"),
    "http://keel.example.com:9300/v1/webhooks/registry": ("Keel", "distribution"),
    f"https://kargo.example.com/dockerhub/{HEX}": ("Kargo", "dockerhub-full"),
    f"https://kargo.example.com/webhooks/harbor/{HEX}": ("Kargo", "harbor"),
    f"https://flux.example.com/hook/{HEX}": ("Flux", "harbor"),
    "https://ci.example.com/jenkins/dockerhub-webhook/token/notify": ("Jenkins", "dockerhub-full"),
    "https://ci.example.com/dockerregistry-webhook/token/notify": ("Jenkins", "distribution"),
    "https://dokploy.example.com/api/deploy/token": ("Dokploy", "dockerhub-full"),
}


@pytest.mark.parametrize("url", HINTS)
def test_hints(url: str) -> None:
    """A hint names the receiver and a format that it reads, unless that is chosen."""
    receiver, suited = HINTS[url]
    assert hint(url, "teams" if suited != "teams" else "dockerhub") == Hint(receiver, suited, url)
    assert hint(url, suited) is None
    assert hint(url, "template") is None


@pytest.mark.parametrize(
    ("url", "suited"),
    [
        ("https://argocd.example.com/api/webhook?type=dockerhub", "https://argocd.example.com/api/webhook?type=harbor"),
        ("https://u.example.com/webhook?type=docker.io&secret=x", "https://u.example.com/webhook?type=harbor&secret=x"),
    ],
)
def test_hints_change_the_url(url: str, suited: str) -> None:
    """If the URL itself asks for a format that cannot work, the hint has another URL."""
    for payload_format in ("dockerhub", "harbor"):
        found = hint(url, payload_format)
        assert found and found[1:] == ("harbor", suited)


def test_several_formats_suit() -> None:
    """Jenkins and Flux read Docker Hub's document as it is."""
    for url in ("https://ci.example.com/dockerhub-webhook/token/notify", f"https://flux.example.com/hook/{HEX}"):
        assert hint(url, "dockerhub") is hint(url, "dockerhub-full") is None


@pytest.mark.parametrize(
    "url",
    [
        "https://ci.example.com/hook",
        "https://hooks.slack.com.example.com/services/T0/B0/x",
        "https://ci.example.com/hooks.slack.com/services/",
        "https://p.example.com/api/webhooks/1-2?tag={tag}",
        "https://coolify.example.com/api/v1/deploy?uuid=1",
        "https://ci.example.com/?next=/v1/webhooks/dockerhub/x",
    ],
)
def test_no_hints(url: str) -> None:
    """Other URLs have no hint."""
    assert not [each for each in PAYLOAD_FORMATS if hint(url, each)]
