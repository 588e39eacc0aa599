"""Payload formats, templates, placeholders and hints in the API."""

from __future__ import annotations

from typing import Any

import pytest

from flask_hubhooks.formats import PAYLOAD_FORMATS

from ..support.host import Owned, problem

URL = "https://ci.example.com/hook"
KEEL = "https://keel.example.com/v1/webhooks/harbor"
TEMPLATE = '{"tag": "{tag}"}'


def post(owned: Owned, **content: Any) -> dict[str, Any]:
    answer = owned("POST", json={"name": "deploy"} | content)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def hook_of(owned: Owned, webhook: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = owned("GET", f"{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/", **options)
    return dict(answer.get_json())


def format_of(hook: dict[str, Any]) -> tuple[str, str | None]:
    return hook["payload_format"], hook["template"]


def test_formats_are_shown(owned: Owned) -> None:
    """A hook shows its format, and writers its template, wherever it was given."""
    assert format_of(post(owned, hook_url=URL)["hooks"][0]) == ("dockerhub", None)
    top = post(owned, name="top", hook_url=URL, payload_format="template", template=TEMPLATE)
    nested = post(owned, name="nested", hooks=[{"hook_url": URL, "payload_format": "slack"}, {"hook_url": URL}])
    assert format_of(top["hooks"][0]) == ("template", TEMPLATE)
    assert [each["payload_format"] for each in nested["hooks"]] == ["slack", "dockerhub"]
    assert format_of(hook_of(owned, top, user="reader")) == ("template", None)
    added = owned("POST", f"{top['id']}/hooks/", json={"hook_url": URL, "payload_format": "teams"})
    assert (added.status_code, format_of(added.get_json())) == (201, ("teams", None))


def test_changing_formats(owned: Owned) -> None:
    """What a change leaves out stays, and a template goes with its format."""
    webhook = post(owned, hook_url=URL)
    path = f"{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
    assert format_of(owned.patch(path, {"payload_format": "template", "template": TEMPLATE})) == ("template", TEMPLATE)
    assert format_of(owned.patch(path, {"hook_url": f"{URL}/2"})) == ("template", TEMPLATE)
    assert format_of(owned.patch(path, {"template": "[]"})) == ("template", "[]")
    assert format_of(owned.patch(f"{webhook['id']}/", {"hooks": [{"hook_url": f"{URL}/2"}]})["hooks"][0]) == (
        "template",
        "[]",
    )
    assert format_of(owned.patch(path, {"payload_format": "harbor", "template": None})) == ("harbor", None)
    problem(owned("PATCH", path, json={"payload_format": "template"}), 400)


@pytest.mark.parametrize(
    ("hook", "field", "message"),
    [
        ({"payload_format": "xml"}, "payload_format", "Must be one of"),
        ({"payload_format": None}, "payload_format", "null"),
        ({"payload_format": "template"}, "template", "Enter the template"),
        ({"template": TEMPLATE}, "template", "Only hooks with"),
        ({"payload_format": "slack", "template": TEMPLATE}, "template", "Only hooks with"),
        ({"payload_format": "template", "template": "{tag}"}, "template", "valid JSON"),
        ({"payload_format": "template", "template": '"{tagg}"'}, "template", "Unknown placeholder {tagg}"),
        ({"payload_format": "template", "template": f'"{"x" * 16384}"'}, "template", "at most 16384 bytes"),
        ({"supersede": "yes"}, "supersede", "boolean"),
        ({"hook_url": "https://{tag}.example.com/"}, "hook_url", "only in its path and query"),
        ({"hook_url": "https://ci.example.com:{tag}/"}, "hook_url", "only in its path and query"),
        ({"hook_url": "https://ci.example.com/{nobody}"}, "hook_url", "Unknown placeholder {nobody}"),
        ({"hook_url": "https://ci.example.com/{callback_url}"}, "hook_url", "Unknown placeholder"),
        ({"hook_url": "https://ci.example.com/{"}, "hook_url", "%7B"),
    ],
)
def test_what_a_hook_may_not_be(owned: Owned, hook: dict[str, Any], field: str, message: str) -> None:
    """Errors stand at their field: of the webhook, of its hook, and of a hook that is added or changed."""
    hook = {"hook_url": URL} | hook
    webhook = post(owned, name="other", hook_url=URL)
    path = f"{webhook['id']}/hooks/"
    top = problem(owned("POST", json={"name": "deploy"} | hook), 400)["errors"]
    nested = problem(owned("POST", json={"name": "deploy", "hooks": [hook]}), 400)["errors"]["hooks"]["0"]
    added = problem(owned("POST", path, json=hook), 400)["errors"]
    changed = problem(owned("PATCH", f"{path}{webhook['hooks'][0]['id']}/", json=hook), 400)["errors"]
    for errors in (top, nested, added, changed):
        assert list(errors) == [field]
        assert message in errors[field][0]


@pytest.mark.parametrize("payload_format", PAYLOAD_FORMATS)
def test_supersede(owned: Owned, payload_format: str) -> None:
    """By default newer pushes supersede older ones where the payload has a digest; owners may choose."""
    by_default = payload_format in ("dockerhub-full", "harbor", "distribution", "cloudevents")
    template = TEMPLATE if payload_format == "template" else None
    hook = {"hook_url": URL, "payload_format": payload_format, "template": template}
    webhook = post(owned, **hook, supersede=not by_default)
    path = f"{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
    assert webhook["hooks"][0]["supersede"] is not by_default
    assert owned.patch(path, {"hook_url": f"{URL}/2"})["supersede"] is not by_default
    assert owned.patch(path, {"supersede": None})["supersede"] is by_default
    assert post(owned, name="other", hooks=[hook])["hooks"][0]["supersede"] is by_default


@pytest.mark.parametrize("field", ["payload_format", "template", "supersede"])
def test_a_format_needs_its_url(owned: Owned, field: str) -> None:
    """At the top level the settings of a hook belong to `hook_url`, and an added hook has a URL."""
    value = {"payload_format": "slack", "template": TEMPLATE, "supersede": True}[field]
    for hooks in ({}, {"hooks": [{"hook_url": URL}]}):
        assert list(problem(owned("POST", json={"name": "deploy", field: value} | hooks), 400)["errors"]) == [field]
    webhook = post(owned)
    errors = problem(owned("POST", f"{webhook['id']}/hooks/", json={"payload_format": "slack"}), 400)["errors"]
    assert errors == {"hook_url": ["Missing data for required field."]}


def test_placeholders_are_kept(owned: Owned) -> None:
    """Placeholders in path and query stay as they are written."""
    url = f"{URL}/{{tag}}?image={{image}}"
    assert post(owned, hook_url=url)["hooks"][0]["hook_url"] == url


def test_hints(owned: Owned) -> None:
    """A URL of a known receiver comes with the format that suits it, until that is chosen."""
    webhook = post(owned, hook_url=KEEL)
    assert webhook["hooks"][0]["hints"] == [{"receiver": "Keel", "payload_format": "harbor", "hook_url": KEEL}]
    [hint] = hook_of(owned, webhook, user="reader")["hints"]
    assert hint["hook_url"] == "https://keel.example.com/…"
    path = f"{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
    assert owned.patch(path, {"payload_format": "harbor"})["hints"] == []


def test_no_final_callback_without_a_url_for_it(owned: Owned) -> None:
    """A final callback cannot be expected of a last hook that gets no callback URL, nor is it by default."""
    silent = {"hook_url": URL, "payload_format": "slack"}
    refused = owned("POST", json={"name": "deploy", "hooks": [silent], "expect_final_callback": True})
    assert list(problem(refused, 400)["errors"]) == ["expect_final_callback"]
    webhook = post(owned, hooks=[{"hook_url": URL}, silent])
    assert webhook["expect_final_callback"] is False
    path = f"{webhook['id']}/"
    assert list(problem(owned("PATCH", path, json={"expect_final_callback": True}), 400)["errors"]) == [
        "expect_final_callback"
    ]
    turned = [{"id": webhook["hooks"][1]["id"]}, {"id": webhook["hooks"][0]["id"]}]
    assert owned.patch(path, {"expect_final_callback": True, "hooks": turned})["expect_final_callback"] is True
    last = f"{path}hooks/{webhook['hooks'][0]['id']}/"
    problem(owned("PATCH", last, json={"payload_format": "discord"}), 400)
