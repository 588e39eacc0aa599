"""The requests of clients: bodies, queries and forms, checked with marshmallow."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validates_schema
from marshmallow.validate import Length, OneOf, Range

from ..config import MAX_TIMEOUT_S, MIN_TIMEOUT_S
from ..crypto.signing import MAX_SECRET_BYTES, MIN_SECRET_BYTES, SECRET_PREFIX, BadSecret, check_secret
from ..formats import DEFAULT_FORMAT, PAYLOAD_FORMATS, url_placeholders
from ..formats.template import MAX_TEMPLATE_BYTES
from ..records.callbacks import Callback
from ..records.filters import (
    PATTERN_LIMIT,
    PATTERNS_LIMIT,
    REPOSITORY_PATTERN,
    TAG_PATTERN,
    BadPattern,
    check_repository_pattern,
    check_tag_pattern,
)
from ..records.models import DEFAULT_TIMEOUT_S, DOCKER_WORDS, NUMBER_LIMIT, OUTCOMES, Status
from ..records.request_headers import HEADERS_LIMIT, NAME_LIMIT, VALUE_LIMIT, BadHeader, check_name, check_value
from ..records.webhooks import HookWanted, template_fault, tls_fault
from ..registry import MAX_NAME_LENGTH as MAX_REPOSITORY_LENGTH
from ..registry import as_utc, storable
from ..state import current_state
from ..transport.egress import Forbidden, egress_of
from ..transport.hook_url import BadURL, split_credentials
from ..transport.tls import DEFAULT_TLS, MAX_CA_BYTES, PUBLIC_KEY_SHA256, TLS, BadTLS, own_ca, pinned_key
from ..worker.masking import without_tokens

CALLBACK_STATES = ("success", "failure", "error")
MAX_NAME_LENGTH = 255
"""Characters of a webhook's name."""
MAX_URL_LENGTH = 2048
"""Characters of a hook URL."""
MAX_DESCRIPTION_LENGTH, MAX_CONTEXT_LENGTH, MAX_TARGET_URL_LENGTH = 255, 100, 2048
"""Characters of a callback's texts."""
PAGE_SIZE, MAX_PAGE_SIZE = 25, 100
"""Entries of a page of the API."""

HTTP_URL = "^[Hh][Tt][Tt][Pp][Ss]?:"
"""How every hook URL begins, for JSON Schema."""
_PRINTABLE = {"pattern": r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"}
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> None:
    """Refuse control characters, and lone surrogates, which UTF-8 cannot hold."""
    if _UNSTORABLE.search(text):
        raise ValidationError("Must not contain control characters.")


def hook_url(url: str) -> None:
    """Refuse a URL that we cannot or must not send to. The addresses of a name are checked for each request."""
    if len(url) > MAX_URL_LENGTH:
        raise ValidationError(f"Longer than maximum length {MAX_URL_LENGTH}.")
    printable(url)
    try:
        url, _ = split_credentials(url)
        url_placeholders.check(url)
        egress_of(current_state().config).target(url)
    except (BadURL, Forbidden) as refused:
        raise ValidationError(str(refused)) from None


def timeout_s(seconds: int) -> None:
    """Refuse a time-out that is too short, or longer than the operator allows."""
    longest = current_state().config.max_timeout_s
    if not MIN_TIMEOUT_S <= seconds <= longest:
        raise ValidationError(f"Must be {MIN_TIMEOUT_S} to {longest} seconds.")


def name(text: str) -> None:
    """Refuse a name that is blank or too long."""
    if len(text) > MAX_NAME_LENGTH:
        raise ValidationError(f"Longer than maximum length {MAX_NAME_LENGTH}.")
    if not text:
        raise ValidationError("Must not be blank.")
    printable(text)


def tag_pattern(text: str) -> None:
    """Refuse a pattern that no tag can match."""
    try:
        check_tag_pattern(text)
    except BadPattern as bad:
        raise ValidationError(str(bad)) from None


def repository_pattern(text: str) -> None:
    """Refuse a pattern that no repository can match."""
    try:
        check_repository_pattern(text)
    except BadPattern as bad:
        raise ValidationError(str(bad)) from None


def callback_text(text: str | None) -> str:
    """Return a text of a callback as it is stored and shown: without callback tokens, and "" for None."""
    return without_tokens(storable(text or "").encode()).decode()


class StrictBoolean(fields.Boolean):
    """True or false, and no other value that reads like one of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Stripped(fields.String):
    """Text without spaces around it."""

    def _deserialize(self, value: Any, *arguments: Any, **kwargs: Any) -> str:
        return super()._deserialize(value, *arguments, **kwargs).strip()


class WholeNumber(fields.Integer):
    """ASCII digits only, unlike `int`."""

    def _deserialize(self, value: Any, *arguments: Any, **kwargs: Any) -> int:
        if not (isinstance(value, str) and value.isascii() and value.isdigit()):
            raise self.make_error("invalid")
        return super()._deserialize(value, *arguments, **kwargs)


class Time(fields.Field[datetime]):
    """A time in RFC 3339; without an offset it is UTC.

    A `+` that was typed into a query as it is, and not as `%2B`, arrives as a space, and is taken for the plus.
    """

    def __init__(self, **options: Any) -> None:
        about = {"type": "string", "format": "date-time", "description": "Without an offset it is UTC."}
        super().__init__(metadata=about, **options)

    def _deserialize(self, value: Any, *arguments: Any, **kwargs: Any) -> datetime:
        try:
            time, space, offset = value.replace("Z", "+00:00").rpartition(" ")
            plus = "+" if ":" in time else space  # else the space is between the day and the time
            parsed = as_utc(datetime.fromisoformat(f"{time}{plus}{offset}"))
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise ValidationError("Must be a time such as 2026-01-31T03:00:00Z.") from None
        return parsed


class HookURL(fields.String):
    """A URL that we may send to."""

    def __init__(self, **options: Any) -> None:
        about = {"pattern": HTTP_URL, "maxLength": MAX_URL_LENGTH}
        super().__init__(validate=hook_url, metadata=about, **options)


class Strict(Schema):
    """A JSON object or a query without unknown keys."""

    json_schema: ClassVar[dict[str, Any]] = {}
    """JSON Schema for what is checked across fields."""

    class Meta:
        unknown = RAISE


class PayloadFormat(fields.String):
    """The name of a payload format."""

    def __init__(self) -> None:
        super().__init__(validate=OneOf(PAYLOAD_FORMATS), metadata={"default": DEFAULT_FORMAT})


class TemplateField(fields.String):
    """The JSON of the payload format `template`, as text. Null is as if it was not given."""

    def __init__(self) -> None:
        about = "JSON with placeholders such as {tag} in its strings; only with the payload format `template`."
        super().__init__(allow_none=True, metadata={"maxLength": MAX_TEMPLATE_BYTES, "description": about})


class SupersedeField(StrictBoolean):
    """Whether a newer push of a tag supersedes older ones."""

    def __init__(self) -> None:
        about = "Whether a newer push of a tag supersedes older ones. Null: if the payload format carries a digest."
        super().__init__(allow_none=True, metadata={"description": about})


class TLSField(fields.Field[TLS]):
    """TLS settings of the hook's own. Null is the default."""

    def __init__(self) -> None:
        super().__init__(
            metadata={
                "type": ["object", "null"],
                "description": "How the receiver's certificate is verified: by authorities that replace the public "
                "ones, or by the SHA-256 of its public key in base64. Null is the default.",
                "properties": {
                    "ca": {"type": "string", "description": "PEM", "maxLength": MAX_CA_BYTES},
                    "public_key_sha256": {"type": "string", "pattern": f"^{PUBLIC_KEY_SHA256}$"},
                },
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            }
        )

    def deserialize(self, value: Any, *arguments: Any, **kwargs: Any) -> TLS:
        return DEFAULT_TLS if value is None else super().deserialize(value, *arguments, **kwargs)

    def _deserialize(self, value: Any, *arguments: Any, **kwargs: Any) -> TLS:
        if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= _TLS.keys():
            raise ValidationError("Must be null, or an object with either ca or public_key_sha256.")
        [(name, text)] = value.items()
        if not isinstance(text, str):
            raise ValidationError({name: ["Not a valid string."]})
        try:
            return _TLS[name](text)
        except BadTLS as bad:
            raise ValidationError({name: [str(bad)]}) from None


_TLS = {"ca": own_ca, "public_key_sha256": pinned_key}


class TimeoutField(fields.Integer):
    """The seconds that a request may take in all."""

    def __init__(self) -> None:
        about = {"minimum": MIN_TIMEOUT_S, "maximum": MAX_TIMEOUT_S, "default": DEFAULT_TIMEOUT_S}
        super().__init__(strict=True, validate=timeout_s, metadata=about | {"description": "In seconds."})


class HookSchema(Strict):
    """A hook of the webhook, or a new one.

    Loading it returns a `HookWanted`.
    """

    json_schema: ClassVar = {"minProperties": 1}
    id = fields.Integer(strict=True)
    hook_url = HookURL()
    payload_format = PayloadFormat()
    template = TemplateField()
    supersede = SupersedeField()
    tls = TLSField()
    timeout_s = TimeoutField()
    has_credentials = StrictBoolean(metadata={"description": "False removes the user name and password of the hook."})

    @validates_schema
    def _is_known_or_new(self, data: Mapping[str, Any], **_: Any) -> None:
        if not data:
            raise ValidationError({"hook_url": ["Missing data for required field."]})

    @post_load
    def _as_wanted(self, data: dict[str, Any], **_: Any) -> HookWanted:
        return _wanted(data)


def _wanted(values: dict[str, Any]) -> HookWanted:
    """Return the hook that is wanted, with the user name and password taken out of its URL."""
    if "hook_url" in values:
        url, credentials = split_credentials(values["hook_url"])
        values = values | {"hook_url": url, "credentials": credentials}
    return HookWanted(**values)


class HeadersField(fields.Field[dict[str, str | None]]):
    """Request headers by name. A value of null keeps the stored one."""

    def __init__(self) -> None:
        super().__init__(
            metadata={
                "type": "object",
                "description": "Request headers by name; null keeps the stored value.",
                "propertyNames": {"minLength": 1, "maxLength": NAME_LIMIT},
                "additionalProperties": {"type": ["string", "null"], "minLength": 1, "maxLength": VALUE_LIMIT},
                "maxProperties": HEADERS_LIMIT,
            }
        )

    def _deserialize(self, value: Any, *arguments: Any, **kwargs: Any) -> dict[str, str | None]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object of header names and values.")
        if len(value) > HEADERS_LIMIT:
            raise ValidationError(f"Longer than maximum length {HEADERS_LIMIT}.")
        if bad := {name: [reason] for name, each in value.items() if (reason := _fault_of_header(name, each, value))}:
            raise ValidationError(bad)
        return value


def _fault_of_header(name: str, value: Any, headers: Mapping[str, Any]) -> str:
    try:
        check_name(name)
        if value is not None:
            check_value(value if isinstance(value, str) else "")
    except BadHeader as bad:
        return str(bad)
    again = [each for each in headers if each.lower() == name.lower()]
    return "Appears more than once." if len(again) > 1 else ""


def secret(text: str) -> None:
    """Refuse what is not a secret of Standard Webhooks."""
    try:
        check_secret(text)
    except BadSecret as bad:
        raise ValidationError(str(bad)) from None


SECRET = {
    "pattern": f"^{SECRET_PREFIX}[A-Za-z0-9+/]+=*$",
    "minLength": len(SECRET_PREFIX) + 4 * math.ceil(MIN_SECRET_BYTES / 3),
    "maxLength": len(SECRET_PREFIX) + 4 * math.ceil(MAX_SECRET_BYTES / 3),
}
TAG_FILTER, REPOSITORY_FILTER = (
    fields.List(
        fields.String(validate=check, metadata={"pattern": f"^{pattern.pattern}$", "maxLength": PATTERN_LIMIT}),
        validate=Length(max=PATTERNS_LIMIT),
    )
    for check, pattern in ((tag_pattern, TAG_PATTERN), (repository_pattern, REPOSITORY_PATTERN))
)


OF_HOOK = ("payload_format", "template", "timeout_s", "supersede", "tls")
"""The fields of a hook that stand beside `hook_url` in a webhook with one hook."""


NAME = {"minLength": 1, "maxLength": MAX_NAME_LENGTH} | _PRINTABLE


class WebhookSchema(Strict):
    """A webhook, or the fields of one to change.

    `hook_url` is short for `hooks` with one hook, which the fields of `OF_HOOK` belong to.
    """

    json_schema: ClassVar = {
        "not": {"required": ["hook_url", "hooks"]},
        "dependentRequired": {name: ["hook_url"] for name in OF_HOOK},
    }
    name = Stripped(required=True, validate=name, metadata=NAME)
    active = StrictBoolean()
    expect_final_callback = StrictBoolean(allow_none=True)
    tag_filter = TAG_FILTER
    repository_filter = REPOSITORY_FILTER
    headers = HeadersField()
    secret = fields.String(validate=secret, metadata=SECRET)
    hook_url = HookURL()
    payload_format = PayloadFormat()
    template = TemplateField()
    supersede = SupersedeField()
    tls = TLSField()
    timeout_s = TimeoutField()
    hooks = fields.List(fields.Nested(HookSchema))

    @validates_schema
    def _has_hooks_once(self, data: Mapping[str, Any], **_: Any) -> None:
        if "hook_url" in data and "hooks" in data:
            raise ValidationError({"hook_url": ["Give either hook_url or hooks."]})
        of_hook = data.keys() & set(OF_HOOK)
        if of_hook and "hook_url" not in data:
            raise ValidationError({name: ["Give it with hook_url, or in hooks."] for name in of_hook})
        if of_hook and (fault := template_fault(data.get("payload_format", DEFAULT_FORMAT), data.get("template"))):
            raise ValidationError({"template": [fault]})
        if of_hook and (fault := tls_fault(data["hook_url"], data.get("tls", DEFAULT_TLS))):
            raise ValidationError({"tls": [fault]})

    @post_load
    def _as_chain(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if "hook_url" in data:
            values = {name: data.pop(name) for name in ("hook_url", *OF_HOOK) if name in data}
            data["hooks"] = [_wanted(values)]
        return data


class PreviewSchema(WebhookSchema):
    """A webhook as for creating it, or its hooks alone, and the push to preview it with."""

    name = Stripped(validate=name, metadata=NAME)
    push = fields.String(
        load_default="latest",
        validate=OneOf(["latest", "sample"]),
        metadata={"description": "`latest` is the latest push to the repository's webhooks, or a sample if none."},
    )


class SecretSchema(Strict):
    """The owner's own secret. Without it a secret is generated."""

    secret = fields.String(validate=secret, load_default=None, metadata=SECRET)


class SendTestSchema(Strict):
    """A test of the first hook, or of the whole chain."""

    chain = StrictBoolean(load_default=False)
    repository = fields.String(
        load_default=None,
        validate=[Length(min=1, max=MAX_REPOSITORY_LENGTH), printable],
        metadata={
            "maxLength": MAX_REPOSITORY_LENGTH,
            "description": "Of a namespace or the registry: the repository whose push it is, by default a made-up one.",
        }
        | _PRINTABLE,
    )


class RecoverSchema(Strict):
    """The time from which to redeliver what could not be delivered, until now or `until`."""

    since = Time(required=True)
    until = Time(load_default=None)


class DecisionSchema(Strict):
    """An owner's decision in place of a callback.

    It loads to a `Callback` without a context.
    """

    state = fields.String(required=True, validate=OneOf(CALLBACK_STATES))
    description = fields.String(load_default="", allow_none=True, validate=Length(max=MAX_DESCRIPTION_LENGTH))

    @post_load
    def _as_callback(self, data: dict[str, Any], **_: Any) -> Callback:
        return Callback(data["state"], callback_text(data["description"]))


class TagFilterSchema(Strict):
    """A filter to try."""

    tag_filter = TAG_FILTER


class PageSchema(Strict):
    page_size = WholeNumber(load_default=PAGE_SIZE, validate=Range(1, MAX_PAGE_SIZE))


class WebhookListSchema(PageSchema):
    """A page of the webhooks whose names contain `name`."""

    page = WholeNumber(load_default=1, validate=Range(1, 10**6))
    active = fields.Boolean(load_default=None, truthy={"true"}, falsy={"false"})
    name = fields.String(load_default="", validate=printable, metadata=_PRINTABLE)


VOCABULARIES: Mapping[str, Sequence[str]] = {
    "status": DOCKER_WORDS,
    "state": [each.value for each in Status],
    "outcome": list(OUTCOMES),
}
"""The words of each of these parameters: Docker Hub's for a delivery, ours for a delivery, and ours for a run."""


class Word(OneOf):
    """A word of one vocabulary. The error for a word of another one names the parameter that takes it."""

    def __init__(self, vocabulary: str) -> None:
        super().__init__(VOCABULARIES[vocabulary])

    def __call__(self, value: Any) -> Any:
        takers = [f"{name}={value}" for name, words in VOCABULARIES.items() if value in words]
        if value not in self.choices and takers:
            raise ValidationError(f"Must be one of: {self.choices_text}. Did you mean {' or '.join(takers)}?")
        return super().__call__(value)


class HistorySchema(PageSchema):
    """A page of deliveries. With `outcome`, each run is listed once, by the delivery that decides it."""

    repository = fields.String(load_default=None, validate=printable, metadata=_PRINTABLE)
    cursor = fields.String(load_default=None)
    status = fields.String(
        load_default=None, validate=Word("status"), metadata={"description": "Docker Hub's word for the state."}
    )
    state = fields.String(
        load_default=None, validate=Word("state"), metadata={"description": "The exact state of the delivery."}
    )
    outcome = fields.String(
        load_default=None,
        validate=Word("outcome"),
        metadata={"description": "The outcome of the run; lists the delivery that decides it."},
    )
    tag = fields.String(load_default=None, validate=printable, metadata=_PRINTABLE)
    pusher = fields.String(load_default=None, validate=printable, metadata=_PRINTABLE)
    since = Time(load_default=None)
    until = Time(load_default=None)


class WebhooksPageSchema(Schema):
    """The query of the page of webhooks."""

    class Meta:
        unknown = EXCLUDE

    page = WholeNumber(load_default=1, validate=Range(1, 10**6))


class HistoryPageSchema(Schema):
    """The query of the history page. Forms send "" for no filter."""

    class Meta:
        unknown = EXCLUDE

    cursor = fields.String(load_default="")
    outcome = fields.String(load_default="", validate=OneOf(["", *OUTCOMES]))
    repository = Stripped(load_default="", validate=printable)
    tag = Stripped(load_default="", validate=printable)


class RecoverPageSchema(Schema):
    """The query of the page to recover: of which time, and how many pushes of it were sent again so far."""

    class Meta:
        unknown = EXCLUDE

    since = Time(load_default=None)
    until = Time(load_default=None)
    recovered = fields.Integer(load_default=0, validate=Range(min=0, max=NUMBER_LIMIT))


class DeliveryPageSchema(Schema):
    """The query of a delivery's page: the number of an attempt, by default the latest, and how to show the payload."""

    class Meta:
        unknown = EXCLUDE

    attempt = WholeNumber(load_default=None, validate=Range(1, NUMBER_LIMIT))
    payload = fields.String(load_default="pretty", validate=OneOf(["pretty", "raw"]))


class EventsSchema(Schema):
    """What a registry sends: see `docs/sources.md`."""

    json_schema: ClassVar[dict[str, Any]] = {"type": "object", "additionalProperties": True}


class CallbackSchema(Schema):
    """A callback as Docker Hub documented it. Unknown keys are ignored, and null counts as absent.

    It loads to a `Callback`. `target_url` need not be a URL: Jenkins without a root URL sends a relative path.
    """

    class Meta:
        unknown = EXCLUDE

    state = fields.String(required=True, validate=OneOf(CALLBACK_STATES))
    description = fields.String(load_default="", allow_none=True, validate=Length(max=MAX_DESCRIPTION_LENGTH))
    context = fields.String(load_default="", allow_none=True, validate=Length(max=MAX_CONTEXT_LENGTH))
    target_url = fields.String(load_default="", allow_none=True, validate=Length(max=MAX_TARGET_URL_LENGTH))

    @post_load
    def _as_callback(self, data: dict[str, Any], **_: Any) -> Callback:
        return Callback(**{name: callback_text(text) for name, text in data.items()})
