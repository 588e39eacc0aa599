"""What clients may send, checked with marshmallow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validates_schema
from marshmallow.validate import Length, OneOf
from requests import PreparedRequest, RequestException

from ..chains import Callback
from ..registry import storable

NAME_LIMIT = 255
URL_LIMIT = 2048
HOOKS_LIMIT = 10

_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> None:
    """Refuse control characters, and lone surrogates, which UTF-8 cannot hold."""
    if _UNSTORABLE.search(text):
        raise ValidationError("Must hold no control characters.")


def hook_url(url: str) -> None:
    """Refuse a URL that is not absolute http(s), or that our HTTP client would not take."""
    if len(url) > URL_LIMIT:
        raise ValidationError(f"Longer than maximum length {URL_LIMIT}.")
    if re.search(r"\s", url):
        raise ValidationError("Must hold no spaces; write %20.")
    printable(url)
    try:
        parts = urlsplit(url)
        prepared = PreparedRequest()
        prepared.prepare_url(url, None)
        host = parts.hostname or ""
        host.encode("idna")  # raises for labels that are empty or too long
        usable = parts.scheme in ("http", "https") and host != "" and "%" not in host and parts.port != 0
    except (RequestException, ValueError):
        usable = False
    if not usable:
        raise ValidationError("Must be an absolute URL such as https://ci.example.com/hook.")
    if parts.username is not None or parts.fragment:
        raise ValidationError("Must hold neither user name nor fragment.")


def http_url(url: str) -> None:
    """Refuse anything but "" and an http(s) URL."""
    try:
        usable = not url or (url.startswith(("http://", "https://")) and bool(urlsplit(url).hostname))
    except ValueError:
        usable = False
    if not usable:
        raise ValidationError("Must be an http(s) URL or empty.")
    printable(url)


class StrictBoolean(fields.Boolean):
    """True or False, and not what looks like them."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class HookSchema(Schema):
    class Meta:
        unknown = RAISE

    hook_url = fields.String(required=True, validate=hook_url)


class WebhookSchema(Schema):
    """A webhook to create: a `hook_url`, or `hooks` for a chain.

    It loads to `name`, `hook_urls` and `expect_final_callback`, which is by default true for a chain.
    """

    class Meta:
        unknown = RAISE

    name = fields.String(required=True, validate=[Length(max=NAME_LIMIT), printable])
    hook_url = fields.String(validate=hook_url)
    hooks = fields.List(fields.Nested(HookSchema), validate=Length(1, HOOKS_LIMIT))
    expect_final_callback = StrictBoolean()

    @validates_schema
    def _has_hooks_once(self, data: Mapping[str, Any], **_: Any) -> None:
        if ("hook_url" in data) == ("hooks" in data):
            raise ValidationError({"hook_url": ["Give either hook_url, or hooks for a chain."]})

    @validates_schema
    def _has_a_name(self, data: Mapping[str, Any], **_: Any) -> None:
        if not data["name"].strip():
            raise ValidationError({"name": ["Must not be blank."]})

    @post_load
    def _as_chain(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        urls = [data["hook_url"]] if "hook_url" in data else [hook["hook_url"] for hook in data["hooks"]]
        return {
            "name": data["name"].strip(),
            "hook_urls": urls,
            "expect_final_callback": data.get("expect_final_callback", len(urls) > 1),
        }


class CallbackSchema(Schema):
    """A callback as Docker Hub documented it; it loads to a `Callback`. Keys we do not know are ignored."""

    class Meta:
        unknown = EXCLUDE

    state = fields.String(required=True, validate=OneOf(["success", "failure", "error"]))
    description = fields.String(load_default="", validate=Length(max=255))
    context = fields.String(load_default="", validate=Length(max=100))
    target_url = fields.String(load_default="", validate=[Length(max=URL_LIMIT), http_url])

    @post_load
    def _as_callback(self, data: dict[str, Any], **_: Any) -> Callback:
        return Callback(**{name: storable(text) for name, text in data.items()})
