"""The form of a webhook: reads what was typed, turns it into input of the API, and puts errors at its fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from flask import current_app, request
from flask_wtf.csrf import validate_csrf
from werkzeug.datastructures import MultiDict
from wtforms import ValidationError

from ...formats import DEFAULT_FORMAT
from ...formats.hints import Hint, hint
from ...records.models import Webhook
from ..endpoints import read_body
from .translation import gettext as _
from .translation import marked

CHOICES = {"": None, "yes": True, "no": False}
"""The values of `expect_final_callback` and `supersede` by their choices."""

Form = MultiDict[str, str]


def read_form() -> Form:
    """Return the form that was sent; raises 413 if it is too large."""
    read_body()
    return request.form


def is_expired(form: Form) -> bool:
    """Whether a form lacks the CSRF token of the visitor's session, which Flask-WTF makes and checks."""
    if not current_app.config.get("WTF_CSRF_ENABLED", True):
        return False
    try:
        validate_csrf(form.get("csrf_token"))
    except ValidationError:
        return True
    return False


EXPIRED = marked("The form has expired, or your browser does not keep cookies. Send it again.")


@dataclass
class URLField:
    """One hook of the form. `id` is the id of the hook, "" for a new one."""

    url: str = ""
    id: str = ""
    payload_format: str = DEFAULT_FORMAT
    template: str = ""
    timeout_s: str = ""
    """"" for a new hook with the default."""
    tls: str | None = ""
    """Which of the next two it has: "ca", "public_key_sha256" or "". None if the form does not ask."""
    ca: str = ""
    public_key_sha256: str = ""
    credentials: str = ""
    """Whether to `keep` or `remove` its user name and password; "" if it has none."""
    supersede: str | None = ""
    """A key of `CHOICES`. None if the form does not ask."""

    @property
    def hint(self) -> Hint | None:
        """A payload format that suits the receiver better than the chosen one."""
        return hint(self.url, self.payload_format)


@dataclass
class HeaderField:
    """One request header of the form. A stored value is never shown, and is kept if none is typed."""

    name: str = ""
    value: str = ""


@dataclass
class WebhookForm:
    """The form as it is shown: a webhook, or what was typed."""

    name: str = ""
    urls: list[URLField] = field(default_factory=lambda: [URLField()])
    final_callback: str = ""
    tag_filter: str = ""
    repository_filter: str = ""
    headers: list[HeaderField] = field(default_factory=list)
    version: str = ""
    errors: dict[str, list[str]] = field(default_factory=dict)
    """Messages by field: `name`, `urls`, `url-0`, `template-0`, `timeout_s-0`, `tls-0`, `final_callback`,
    `tag_filter`, `headers`, `header-0`; "" for the whole."""
    focus: str = ""
    """The id of the element that gets the focus."""
    preview: Mapping[str, Any] | None = None
    """The document of the preview, if one was asked for."""

    @classmethod
    def of(cls, webhook: Mapping[str, Any], row: Webhook, version: str) -> WebhookForm:
        """Make the form of a webhook's document and its row, which has what the document shows by its meaning."""
        return cls(
            name=webhook["name"],
            urls=[
                URLField(
                    each["hook_url"],
                    str(each["id"]),
                    each["payload_format"],
                    each["template"] or "",
                    str(each["timeout_s"]),
                    next(iter(each["tls"] or ()), ""),
                    **each["tls"] or {},
                    credentials="keep" if each["has_credentials"] else "",
                    supersede=_choice(hook.supersede),
                )
                for each, hook in zip(webhook["hooks"], row.hooks, strict=True)
            ]
            or [URLField()],
            final_callback=_choice(row.expect_final_callback),
            tag_filter=" ".join(webhook["tag_filter"]),
            repository_filter=" ".join(webhook["repository_filter"]),
            headers=[HeaderField(name) for name in webhook["headers"] or ()],
            version=version,
        )

    @classmethod
    def typed(cls, form: Form) -> WebhookForm:
        """Make the form of what was sent. It has an error if it has expired."""
        fields = (
            "hook_url",
            "hook_id",
            "payload_format",
            "template",
            "timeout_s",
            "tls",
            "ca",
            "public_key_sha256",
            "credentials",
            "supersede",
        )
        urls = [
            URLField(
                url.strip(),
                id_,
                format_ or DEFAULT_FORMAT,
                template.replace("\r\n", "\n"),
                timeout_s.strip(),
                tls if "tls" in form else None,
                ca.replace("\r\n", "\n"),
                key.strip(),
                credentials,
                supersede if "supersede" in form else None,
            )
            for url, id_, format_, template, timeout_s, tls, ca, key, credentials, supersede in zip_longest(
                *map(form.getlist, fields), fillvalue=""
            )
        ]
        names, values = form.getlist("header_name"), form.getlist("header_value")
        return cls(
            name=form.get("name", ""),
            urls=urls or [URLField()],
            final_callback=form.get("final_callback", ""),
            tag_filter=form.get("tag_filter", ""),
            repository_filter=form.get("repository_filter", ""),
            headers=[HeaderField(name.strip(), value) for name, value in zip(names, values, strict=False)],
            version=form.get("version", ""),
            errors={"": [_(EXPIRED)]} if is_expired(form) else {},
        )

    def content(self) -> dict[str, Any]:
        """Return the form as input of the API, without empty lines."""
        return {
            "name": self.name,
            "hooks": [_hook(each) for each in self.urls if each.url],
            "expect_final_callback": CHOICES.get(self.final_callback),
            "tag_filter": self.patterns(),
            "repository_filter": self.repository_filter.split(),
            "headers": {each.name: each.value or None for each in self.headers if each.name or each.value},
        }

    def patterns(self) -> list[str]:
        return self.tag_filter.split()

    def refuse(self, errors: Mapping[str, Any]) -> None:
        """Put the errors of the API at their fields."""
        for name, messages in errors.items():
            if name == "hooks":
                self._refuse_hooks(messages)
            elif name == "headers":
                places = {each.name: index for index, each in enumerate(self.headers)}
                for key, text in _flattened(messages):
                    self._add("headers" if key is None else f"header-{places[key]}", [text])
            elif name in ("tag_filter", "repository_filter"):
                patterns = getattr(self, name).split()
                self._add(
                    name, [_of(patterns[key], text) if key is not None else text for key, text in _flattened(messages)]
                )
            else:
                field = {"name": "name", "expect_final_callback": "final_callback"}.get(name, "")
                self._add(field, [text for __, text in _flattened(messages)])

    def _refuse_hooks(self, messages: Any) -> None:
        places = [index for index, each in enumerate(self.urls) if each.url]
        for key, within in messages.items() if isinstance(messages, Mapping) else [(None, messages)]:
            for name, text in _flattened(within):
                one = name if name in ("template", "timeout_s", "tls") else "url"
                self._add("urls" if key is None else f"{one}-{places[key]}", [text])

    def _add(self, name: str, texts: list[str]) -> None:
        self.errors.setdefault(name, []).extend(texts)

    def check(self) -> bool:
        """Check what the API allows and a form does not; return whether it has no errors."""
        if self.errors:
            return False
        if not any(each.url for each in self.urls):
            self._add("url-0", [_("Enter the URL to send pushes to.")])
        for index, line in enumerate(self.urls):
            if line.id and not line.url and any(each.url for each in self.urls):
                self._add(f"url-{index}", [_("Enter a URL or remove the line.")])
        names = [each.name for each in self.headers if each.name]
        for index, each in enumerate(self.headers):
            if names.count(each.name) > 1:
                self._add(f"header-{index}", [_("Appears more than once.")])
        return not self.errors

    def rearrange(self, action: str) -> None:
        """Do what a button asks for: `add-url`, `add-header`, `up-1`, `down-0`, `remove-url-1`, `remove-header-0`,
        `use-hint-0`, or `format-0` and `tls-0` after a choice."""
        what, __, index = action.rpartition("-")
        if action == "add-url":
            self.urls.append(URLField())
            self.focus = f"url-{len(self.urls) - 1}"
        elif action == "add-header":
            self.headers.append(HeaderField())
            self.focus = f"header-{len(self.headers) - 1}"
        elif re.fullmatch("[0-9]{1,4}", index):
            self._move(what, int(index))

    def _move(self, what: str, index: int) -> None:
        if what in ("up", "down") and index < len(self.urls):
            to = min(max(index + (1 if what == "down" else -1), 0), len(self.urls) - 1)
            self.urls.insert(to, self.urls.pop(index))
            self.focus = f"url-{to}"
        elif what == "remove-url" and index < len(self.urls) > 1:
            del self.urls[index]
            self.focus = f"url-{min(index, len(self.urls) - 1)}"
        elif what == "format" and index < len(self.urls):
            self.focus = f"{'template' if self.urls[index].payload_format == 'template' else 'format'}-{index}"
        elif what == "tls" and index < len(self.urls):
            self.focus = f"{'tls-value' if self.urls[index].tls else 'tls'}-{index}"
        elif what == "use-hint" and index < len(self.urls) and (better := self.urls[index].hint):
            self.urls[index] = replace(self.urls[index], url=better.url, payload_format=better.payload_format)
            self.focus = f"format-{index}"
        elif what == "remove-header" and index < len(self.headers):
            del self.headers[index]
            self.focus = "add-header"


def _choice(value: bool | None) -> str:
    return next(word for word, meaning in CHOICES.items() if meaning is value)


def _hook(typed: URLField) -> dict[str, Any]:
    hook: dict[str, Any] = {"hook_url": typed.url, "payload_format": typed.payload_format}
    if typed.payload_format == "template":
        hook["template"] = typed.template or None
    if typed.timeout_s:
        hook["timeout_s"] = int(typed.timeout_s) if re.fullmatch("[0-9]{1,9}", typed.timeout_s) else typed.timeout_s
    if typed.tls is not None:
        values = {"ca": typed.ca, "public_key_sha256": typed.public_key_sha256}
        hook["tls"] = {typed.tls: values.get(typed.tls, "")} if typed.tls else None
    if typed.credentials in ("keep", "remove"):
        hook["has_credentials"] = typed.credentials == "keep"
    if typed.supersede is not None:
        hook["supersede"] = CHOICES.get(typed.supersede)
    return hook | {"id": int(typed.id)} if re.fullmatch("[0-9]{1,19}", typed.id) else hook


def _of(pattern: str, text: str) -> str:
    return _("%(pattern)s: %(text)s", pattern=pattern, text=_(text))


def _flattened(messages: Any) -> list[tuple[Any, str]]:
    """Return pairs of a place within the field (an index or a name, None for the whole field) and a message."""
    if not isinstance(messages, Mapping):
        return [(None, text) for text in messages]
    return [(key, text) for key, within in messages.items() for __, text in _flattened(within)]
