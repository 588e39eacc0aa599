"""The JSON documents that the API answers with. Each schema serializes its document and describes it in OpenAPI.

To add a read-only field, add it to its schema: it reads the attribute of the same name of the value that an endpoint
returns, unless `read` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import Any, ClassVar, cast

from marshmallow import Schema, fields

from ..config import Config
from ..formats import dockerhub
from ..records.credentials import headers_of
from ..records.history import Around, Latest
from ..records.models import DOCKER_WORDS, Delivery, Kind, Status, Webhook
from ..state import State
from ..transport.causes import cause
from ..transport.hook_url import hosts, origin
from ..worker.masking import MASKED
from .schemas import CALLBACK_STATES, HTTP_URL

JSONSchema = dict[str, Any]
Read = Callable[[Any], Any]


@dataclass(frozen=True)
class Viewer:
    """The user a document is made for: readers see outcomes, writers see exchanges."""

    state: State
    may_write: bool

    def document(self, schema: Document, value: Any) -> Any:
        """Serialize a value, leaving out what this user may not see."""
        former = _viewer.set(self)
        try:
            return schema.dump(value)
        finally:
            _viewer.reset(former)


_viewer: ContextVar[Viewer] = ContextVar("hubhooks_viewer")


@dataclass(frozen=True)
class _View:
    """A row and what else its document shows; all other attributes are the row's."""

    row: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.row, name)


@dataclass(frozen=True)
class CreatedWebhook(_View):
    """A new webhook and its secret."""

    secret: str


@dataclass(frozen=True)
class AttemptView(_View):
    """An attempt and the body that it sent."""

    body: str


@dataclass(frozen=True)
class DeliveryView:
    """A delivery, its latest attempt, and the deliveries of its run in order.

    `attempts` is empty where the document does not list them.
    """

    row: Delivery
    latest: Latest
    chain: Sequence[Delivery]
    attempts: Sequence[AttemptView] = ()


@dataclass(frozen=True)
class Page:
    """Some entries of a list, and the URLs of the pages before and after them; only pages of webhooks are counted."""

    results: Sequence[Any]
    next: str | None
    previous: str | None
    count: int = 0


def delivery_views(rows: Sequence[Delivery], around: Around) -> list[DeliveryView]:
    return [DeliveryView(row, around.latest.get(row.id, Latest()), around.chains[row.push_id]) for row in rows]


def sent_body(row: Delivery, config: Config) -> str:
    """Return the body that every attempt of the delivery sent, without the callback token."""
    push = row.push
    content = dockerhub.payload(
        external_url=config.external_url,
        token=MASKED,
        repository=push.repository,
        tag=push.tag,
        pusher=push.pusher,
        pushed_at=push.pushed_at,
        details=push.snapshot,
    )
    return dockerhub.body(content).decode()


# Fields


class _Field(fields.Field[Any]):
    """A field of a document: always present, and null only where `null` says so."""

    json_schema: ClassVar[JSONSchema] = {}

    def __init__(self, description: str = "", *, read: str | Read = "", null: bool = False, **more: Any) -> None:
        described = {"description": description} if description else {}
        super().__init__(allow_none=null, metadata=self.json_schema | described | more)
        self.source = read

    def reader(self) -> Read:
        """Return the function that takes what the document shows and returns this field in JSON."""
        return _reader(self, self.source)


def _reader(field: fields.Field[Any], source: str | Read) -> Read:
    if callable(source):
        return source
    return attrgetter(source or f"{cast(Document, field.parent).prefix}{field.name}")


class Text(_Field):
    json_schema: ClassVar = {"type": "string"}


class Flag(_Field):
    json_schema: ClassVar = {"type": "boolean"}


class Count(_Field):
    json_schema: ClassVar = {"type": "integer", "minimum": 0}


class Number(_Field):
    """A number from 1, such as an id."""

    json_schema: ClassVar = {"type": "integer", "minimum": 1}


class Link(_Field):
    json_schema: ClassVar = {"type": "string", "format": "uri"}


class List(_Field):
    """A list of JSON values; `items` is their schema."""

    json_schema: ClassVar = {"type": "array"}


class Choice(_Field):
    """One of several words. A member of an enumeration is shown as its value."""

    json_schema: ClassVar = {"type": "string"}

    def __init__(self, words: Sequence[str], description: str = "", *, null: bool = False, **more: Any) -> None:
        super().__init__(description, null=null, enum=[*words, None] if null else [*words], **more)

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: word.value if isinstance(word := read(value), Enum) else word


class Time(_Field):
    """A time in RFC 3339, in UTC."""

    json_schema: ClassVar = {"type": "string", "format": "date-time"}

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: time(read(value))


def time(value: datetime | None) -> str | None:
    """Format a time as RFC 3339 in UTC."""
    return value.isoformat().replace("+00:00", "Z") if value else None


class UUID(_Field):
    json_schema: ClassVar = {"type": "string", "format": "uuid"}

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: str(read(value))


class HookURL(_Field):
    """A hook URL. Readers see its origin only, since receivers put credentials into paths and queries."""

    json_schema: ClassVar = {
        "type": "string",
        "pattern": HTTP_URL,
        "description": "Users without write access see `https://host[:port]/…`.",
    }

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: read(value) if _viewer.get().may_write else f"{origin(read(value))}/…"


class HeaderNames(_Field):
    """The names of a webhook's request headers, each with null for its value."""

    json_schema: ClassVar = {
        "type": "object",
        "additionalProperties": {"type": "null"},
        "description": "The names of the request headers; null without write access, and if they cannot be decrypted.",
    }

    def reader(self) -> Read:
        def read(webhook: Webhook) -> dict[str, None] | None:
            viewer = _viewer.get()
            headers = headers_of(viewer.state.secrets, webhook) if viewer.may_write else None
            return None if headers is None else dict.fromkeys(headers)

        return read


class Nested(fields.Nested):
    """Another document, or a list of documents."""

    def __init__(
        self,
        schema: type[Document],
        description: str = "",
        *,
        read: str | Read = "",
        many: bool = False,
        null: bool = False,
        writers_only: bool = False,
    ) -> None:
        metadata = {"description": description} if description else {}
        super().__init__(schema, many=many, allow_none=null, metadata=metadata)
        self.source = read
        self.writers_only = writers_only

    def reader(self) -> Read:
        read, dump = _reader(self, self.source), self.schema.dump

        def read_nested(value: Any) -> Any:
            nested = None if self.writers_only and not _viewer.get().may_write else read(value)
            return None if nested is None else dump(nested)

        return read_nested


# Documents. The first line of a docstring is the description in OpenAPI.


class Document(Schema):
    """A JSON object with all of its fields, and no others."""

    prefix: ClassVar[str] = ""
    """Comes before the names of the attributes that fields without `read` show."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._readers = [(name, field.reader()) for name, field in self.fields.items()]  # type: ignore[attr-defined]

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Serialize a value. marshmallow's own `dump` would make a page of 100 deliveries a third slower."""
        if self.many if many is None else many:
            return [self.dump(each, many=False) for each in obj]
        return {name: read(obj) for name, read in self._readers}


class HookDocument(Document):
    """A destination URL of a webhook."""

    id = Number()
    hook_url = HookURL()
    host = Text("The host of the URL in ASCII, as it is looked up.", read=lambda hook: hosts(hook.hook_url)[0])
    host_unicode = Text(
        "The host of the URL in its own script.", read=lambda hook: hosts(hook.hook_url)[1]
    )  # both are shown, so that no host is taken for another
    active = Flag(read="webhook.active")
    failing_since = Time(null=True)
    creator = Text()
    last_updater = Text()
    date_added = Time()
    last_updated = Time()


class HookListDocument(Document):
    """The hooks of a webhook in order."""

    results = Nested(HookDocument, many=True)


class WebhookDocument(Document):
    """A webhook, whose hooks are called one after the other when a tag is pushed."""

    id = Number()
    slug = Text("The name in a form for URLs.")
    name = Text()
    active = Flag()
    disabled_reason = Text('Why the registry disabled the webhook; "" if it did not.')
    expect_final_callback = Flag(read="expects_final_callback")
    tag_filter = List(items={"type": "string"}, read=lambda webhook: webhook.tag_filter.split())
    headers = HeaderNames(null=True)
    creator = Text()
    last_updater = Text()
    created = Time()
    last_updated = Time()
    former_secret_until = Time("Until then requests are also signed with the former secret.", null=True)
    hooks = Nested(HookDocument, many=True)


class CreatedWebhookDocument(WebhookDocument):
    """A new webhook with its secret."""

    secret = Text("Shown only once.", pattern="^whsec_")


class WebhookPageDocument(Document):
    """A page of webhooks."""

    count = Count()
    next = Link(null=True)
    previous = Link(null=True)
    results = Nested(WebhookDocument, many=True)


class MatchingTagsDocument(Document):
    """The recent tags of the repository, by whether they match."""

    matching = List(items={"type": "string"})
    other = List(items={"type": "string"})


class NewSecretDocument(Document):
    """A new secret."""

    secret = Text("Shown only once.", pattern="^whsec_")
    former_secret_until = Time(null=True)


class PushDocument(Document):
    """A push of a tag, or a test."""

    kind = Choice([each.value for each in Kind])
    repository = Text()
    tag = Text()
    digest = Text()
    media_type = Text()
    pusher = Text()
    pushed_at = Time()


class CallbackDocument(Document):
    """The callback that the receiver posted."""

    state = Choice(CALLBACK_STATES, read="callback_state")
    description = Text(read="callback_description")
    context = Text(read="callback_context")
    target_url = Text(read="callback_target_url")
    received_at = Time(read="callback_at")


class StepDocument(Document):
    """A delivery of the same run, in short."""

    id = UUID()
    position = Count()
    hook_url = HookURL(read="hook.hook_url")
    state = Choice([each.value for each in Status], read="status")
    callback = Choice(CALLBACK_STATES, read=lambda delivery: delivery.callback_state or None, null=True)


class DeliveryHookDocument(Document):
    """The hook of a delivery."""

    id = Number()
    hook_url = HookURL()


def _next_attempt_at(view: DeliveryView) -> datetime | None:
    """None while an attempt is under way. An urgent delivery is due since before it was made."""
    delivery = view.row
    if delivery.lease_token or delivery.next_attempt_at is None:
        return None
    return max(delivery.next_attempt_at, delivery.created_at)


class DeliveryDocument(Document):
    """A delivery: one hook of a webhook for one push."""

    prefix: ClassVar = "row."
    id = UUID("Receivers get it in the header `webhook-id`.")
    status = Choice(
        DOCKER_WORDS,
        "Docker Hub's word for the state; `success` once the receiver has accepted it.",
        read="row.docker_status",
    )
    state = Choice([each.value for each in Status], "The exact state.", read="row.status")
    reason = Text("Why it ended or is held, if no attempt says so.")
    cause = Text('Why the latest attempt failed, and what to do; "" if it did not fail.', read="latest.cause")
    hook = Nested(DeliveryHookDocument)
    position = Count("The position of the hook in its chain, from 0.")
    chain_length = Number()
    round = Number("Starts at 1 and grows with each redelivery.")
    chain = Nested(StepDocument, "All deliveries of the run in order.", read="chain", many=True)
    attempt_count = Count()
    duration_ms = Count("The duration of the latest attempt.", read="latest.duration_ms", null=True)
    push = Nested(PushDocument)
    callback_expected = Flag()
    callback = Nested(CallbackDocument, read=lambda view: view.row if view.row.callback_state else None, null=True)
    created_at = Time()
    next_attempt_at = Time(read=_next_attempt_at, null=True)
    received_at = Time(null=True)
    finished_at = Time(null=True)


class DeliveryPageDocument(Document):
    """A page of deliveries."""

    next = Link(null=True)
    previous = Link(null=True)
    results = Nested(DeliveryDocument, many=True)


_HEADER_PAIRS: JSONSchema = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}


class RequestDocument(Document):
    """The request, without secrets and the callback token. Null without write access."""

    url = HookURL(read="hook_url")
    headers = List(items=_HEADER_PAIRS, read="request_headers")
    body = Text()


class ResponseDocument(Document):
    """The response of the receiver. Null without write access, and if there was none."""

    headers = List(items=_HEADER_PAIRS, read="response_headers")
    body = Text(read=lambda attempt: attempt.response_body.decode("utf-8", "replace"))
    truncated = Flag(read="response_truncated")


class AttemptDocument(Document):
    """One request of a delivery and its response."""

    number = Number()
    round = Number()
    trigger = Choice(["push", "test", "chain", "retry", "redelivery"])
    started_at = Time()
    duration_ms = Count()
    connect_ms = Count(null=True)
    wait_ms = Count(null=True)
    status_code = _Field("Null if there was no response.", null=True, type="integer")
    cause = Text(
        'Why the attempt failed, and what to do; "" if it did not fail.',
        read=lambda attempt: cause(attempt.status_code, attempt.error),
    )
    request = Nested(RequestDocument, read=lambda attempt: attempt, null=True, writers_only=True)
    response = Nested(
        ResponseDocument,
        read=lambda attempt: None if attempt.status_code is None else attempt,
        null=True,
        writers_only=True,
    )


class DeliveryWithAttemptsDocument(DeliveryDocument):
    """A delivery with all its attempts."""

    attempts = Nested(AttemptDocument, read="attempts", many=True)


class RecoveredDocument(Document):
    """How many runs were started again, and how many are left."""

    recovered = Count()
    remaining = Count()


class CallbackTakenDocument(Document):
    """An accepted callback."""

    delivery = UUID()
    state = Choice(CALLBACK_STATES)


class OpenAPIDocument(Document):
    """An OpenAPI 3.1 document."""

    openapi = Text()
    info = _Field(type="object")
    servers = List()
    tags = List()
    paths = _Field(type="object")
    components = _Field(type="object")
