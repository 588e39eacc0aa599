"""Templates: owners' documents that stay valid JSON whatever they are filled with."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.formats import BadTemplate, BodyTooLarge, Template
from flask_hubhooks.formats.push import PLACEHOLDERS

from .test_formats import DIGEST, PUSH, UNKNOWN, plain_text


def filled(document: Any) -> Any:
    return json.loads(Template(json.dumps(document)).body(PUSH))


def test_placeholders() -> None:
    """Every placeholder is replaced by its value."""
    assert filled({name: f"<{{{name}}}>" for name in PLACEHOLDERS}) == {
        "image": "<registry.example.com/acme/app>",
        "registry": "<registry.example.com>",
        "repository": "<acme/app>",
        "tag": "<v1>",
        "digest": f"<{DIGEST}>",
        "pusher": "<alice>",
        "pushed_at": "<2014-12-03T00:22:41Z>",
        "callback_url": f"<{PUSH.callback_url}>",
    }


def test_unknown_values_are_empty() -> None:
    """Unknown values are empty text."""
    assert json.loads(Template('["{digest}", "by {pusher}"]').body(UNKNOWN)) == ["", "by "]


def test_only_strings_that_are_values() -> None:
    """Strings at any depth are filled; keys and other values stay."""
    others = [1, 2.5, True, None, {"{nothing}": "容器"}]
    document = {"{tag}": [{"deep": ["{image}:{tag}", *others]}]}
    assert filled(document) == {"{tag}": [{"deep": ["registry.example.com/acme/app:v1", *others]}]}


def test_braces() -> None:
    """Doubled braces are braces, also next to placeholders."""
    assert filled("{{tag}} {{{tag}}} {{}} }}{{") == "{tag} {v1} {} }{"


def test_values_are_not_filled_in_again() -> None:
    """Values that look like placeholders or JSON stay text."""
    push = dataclasses.replace(PUSH, tag='{callback_url}", "a": "{{', pusher="{tag}")
    assert json.loads(Template('{"tag": "{tag} {pusher}"}').body(push)) == {"tag": f"{push.tag} {{tag}}"}


@pytest.mark.parametrize(
    ("text", "callback"),
    [('["{callback_url}"]', True), ('["{{callback_url}}", "{tag}"]', False), ('{"{callback_url}": 1}', False)],
)
def test_callback(text: str, callback: bool) -> None:
    """A template has a callback if one of its strings has the placeholder."""
    assert Template(text).has_callback is callback


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "valid JSON"),
        ("{tag}", "valid JSON"),
        ("{'tag': 1}", "valid JSON"),
        ('{"tag": "{tag}"} x', "valid JSON"),
        ("9" * 5000, "integers of thousands of digits"),
        ("[NaN]", "cannot express: NaN"),
        ("[-Infinity]", "cannot express: -Infinity"),
        ("[1e400]", "cannot express: 1e400"),
        ('"\\ud800"', "lone surrogates"),
        ('"\ud800"', "lone surrogates"),
        ('"{name}"', "Unknown placeholder {name}."),
        ('"{}"', "Unknown placeholder {}."),
        ('"{ tag }"', "Unknown placeholder { tag }."),
        ('"{tag!r}"', "Unknown placeholder {tag!r}."),
        ('"{tag.__class__}"', "Unknown placeholder"),
        ('"{tag"', "single {. Write {{"),
        ('"tag}"', "single }. Write }}"),
        ('"{{tag}"', "single }"),
        ("[" * 17 + "]" * 17, "more than 16 deep"),
        ("[" * 8000, "more than 16 deep"),
        ("[" * 8000 + "]" * 8000, "more than 16 deep"),
        (json.dumps("ü" * 8191, ensure_ascii=False) + " ", "at most 16384 bytes"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """Invalid templates are refused with a sentence that says why."""
    with pytest.raises(BadTemplate) as refusal:
        Template(text)
    assert message in str(refusal.value)
    assert str(refusal.value).endswith(".") and len(str(refusal.value)) < 200


def test_limits() -> None:
    """Templates at the limits are accepted."""
    Template("[" * 16 + "]" * 16)
    Template(json.dumps("ü" * 8191, ensure_ascii=False))


def test_result_is_limited() -> None:
    """A filled template has at most 64 KiB."""
    push = dataclasses.replace(PUSH, repository="a" * 255)
    fits, exceeds = ({"all": ["{repository}"] * count} for count in (250, 260))
    assert len(Template(json.dumps(fits)).body(push)) <= 64 * 1024
    with pytest.raises(BodyTooLarge, match="the limit is 65536"):
        Template(json.dumps(exceeds)).body(push)


texts = plain_text.map(lambda text: text.replace("{", "{{").replace("}", "}}")) | st.sampled_from(
    [f"{{{name}}}" for name in PLACEHOLDERS]
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=10,
)


@given(document=documents, tag=plain_text, pusher=plain_text, repository=plain_text)
def test_any_document(document: Any, tag: str, pusher: str, repository: str) -> None:
    """Filling changes nothing but the strings of a document."""
    push = dataclasses.replace(PUSH, tag=tag, pusher=pusher, repository=repository)
    values = push.placeholders()

    def expected(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: expected(value) for key, value in content.items()}
        if isinstance(content, list):
            return [expected(each) for each in content]
        if isinstance(content, str):
            return values.get(content[1:-1], content.replace("{{", "{").replace("}}", "}"))
        return content

    assert json.loads(Template(json.dumps(document)).body(push)) == expected(document)


@given(st.text(st.sampled_from('{}[]"\\:,tag 1e9-.\ud800\x00u')) | st.text())
def test_any_text_is_refused_or_sent(text: str) -> None:
    """Any text is refused as a template or makes valid JSON."""
    try:
        template = Template(text)
    except BadTemplate:
        return
    json.loads(template.body(PUSH).decode(), parse_constant=pytest.fail)
