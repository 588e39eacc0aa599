"""The JSON documents that the API answers with. Each schema serializes its document and describes it in OpenAPI.

To add a read-only field, add it here. It shows the attribute of the same name of the value that the endpoint returns,
unless `read` says otherwise. The first line of a docstring is the description in OpenAPI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar

from ..formats import PAYLOAD_FORMATS
from ..formats.hints import Hint, hint
from ..records.history import Context, LastAttempt
from ..records.models import DOCKER_WORDS, OUTCOMES, Attempt, Delivery, Hook, Kind, Push, Status, Webhook
from ..records.runs import outcome_of
from ..state import current_state
from ..transport.causes import cause
from ..transport.hook_url import hosts
from .document_fields import (
    UUID,
    Choice,
    Count,
    Document,
    Field,
    Flag,
    HeaderNames,
    HookURL,
    Inherited,
    JSONSchema,
    Link,
    List,
    Nested,
    Number,
    Text,
    Time,
    WritersField,
    WritersList,
    WritersText,
    viewer,
)
from .schemas import CALLBACK_STATES


@dataclass(frozen=True)
class CreatedWebhook:
    """A new webhook and its secret. All other attributes are those of the row."""

    row: Webhook
    secret: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.row, name)


@dataclass(frozen=True)
class AttemptView:
    """An attempt and the body that it sent."""

    row: Attempt
    body: str


@dataclass(frozen=True)
class PushView:
    """A push, and the name that its repository has for whoever looks at it."""

    row: Push
    repository: str


@dataclass(frozen=True)
class DeliveryView:
    """A delivery, its latest attempt, and the deliveries of its run in order.

    `attempts` is empty where the document does not list them.
    """

    row: Delivery
    latest: LastAttempt
    chain: Sequence[Delivery]
    waiting: str = ""
    """Why it waits. A held delivery has this only once its webhook is active again."""
    attempts: Sequence[AttemptView] = ()


@dataclass(frozen=True)
class Page:
    """Some entries of a list, and the URLs of the pages before and after them; only pages of webhooks are counted."""

    results: Sequence[Any]
    next: str | None
    previous: str | None
    count: int = 0


def delivery_views(rows: Sequence[Delivery], context: Context) -> list[DeliveryView]:
    return [
        DeliveryView(
            row,
            context.last_attempts.get(row.id, LastAttempt()),
            context.runs[row.push_id],
            context.waiting.get(row.id, ""),
        )
        for row in rows
    ]


def attempt_views(attempts: Sequence[Attempt]) -> list[AttemptView]:
    """Return the views of all attempts of a delivery, in order."""
    bodies: dict[int, str] = {}  # by round
    views = []
    for attempt in attempts:
        if attempt.request_body is not None:
            bodies[attempt.round] = attempt.request_body
        views.append(AttemptView(attempt, bodies.get(attempt.round, "")))
    return views


class HintDocument(Document):
    """A payload format that suits the receiver, recognized by its URL, better than the chosen one."""

    receiver = Text("The name of the receiver, such as Keel.")
    payload_format = Choice(PAYLOAD_FORMATS)
    hook_url = HookURL(read="url")


def _hints(hook: Hook) -> list[Hint]:
    found = hint(hook.hook_url, hook.payload_format)
    return [found] if found else []


def _timeout_s(hook: Hook) -> int:
    return min(hook.timeout_s, current_state().config.max_timeout_s)


class HookDocument(Document):
    """A destination URL of a webhook."""

    id = Number()
    hook_url = HookURL()
    host = Text("The host of the URL in ASCII, as it is looked up.", read=lambda hook: hosts(hook.hook_url)[0])
    host_unicode = Text(
        "The host of the URL in its own script.", read=lambda hook: hosts(hook.hook_url)[1]
    )  # both are shown, so that no host is taken for another
    payload_format = Choice(PAYLOAD_FORMATS)
    template = WritersText("The JSON of the payload format `template`. Null without write access.", null=True)
    supersede = Flag("Whether a newer push of a tag supersedes older ones.", read="supersedes")
    tls = WritersField(
        "TLS settings of the hook's own; null for the default, and without write access.",
        null=True,
        type="object",
        properties={"ca": {"type": "string"}, "public_key_sha256": {"type": "string"}},
        additionalProperties=False,
    )
    has_credentials = WritersField(
        "Whether requests carry a user name and password that were given in the URL, which shows neither. Null without "
        "write access.",
        null=True,
        type="boolean",
    )
    timeout_s = Number("The seconds that a request may take in all.", read=_timeout_s)
    hints = Nested(HintDocument, "Payload formats that suit the receiver better.", read=_hints, many=True)
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
    scope = Text("The repository it belongs to, or `acme/*` for the namespace `acme`, or `*` for the registry.")
    inherited = Inherited("Whether it belongs to a namespace of the repository or to the registry.")
    active = Flag()
    disabled_reason = Text('Why the registry disabled the webhook; "" if it did not.')
    expect_final_callback = Flag(read="expects_final_callback")
    tag_filter = List(items={"type": "string"}, read=lambda webhook: webhook.tag_filter.split())
    repository_filter = WritersList(
        "Patterns of repositories' names; empty unless it belongs to a namespace. Null without write access.",
        items={"type": "string"},
        read=lambda webhook: webhook.repository_filter.split(),
        null=True,
    )
    headers = HeaderNames(null=True)
    creator = Text()
    last_updater = Text()
    created = Time()
    last_updated = Time()
    former_secret_until = Time("Until then requests are also signed with the former secret.", null=True)
    hooks = Nested(HookDocument, many=True)

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Serialize webhooks. Of an inherited one everybody sees what readers see."""
        if self.many if many is None else many:
            return [self.dump(each, many=False) for each in obj]
        with viewer().of(obj.scope).looking():
            return super().dump(obj, many=False)


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

    prefix: ClassVar = "row."
    kind = Choice([each.value for each in Kind])
    repository = Text(read="repository")
    tag = Text()
    digest = Text()
    media_type = Text()
    images = List(
        "The digests of the images in an index.", items={"type": "string"}, read=lambda push: push.row.images or []
    )
    pusher = Text()
    pushed_at = Time()
    sent_without_tag = Flag(
        "The registry did not show the tag within 60 s, and it was sent nevertheless: receivers may have pulled an "
        "older image."
    )


class CallbackDocument(Document):
    """The callback that the receiver posted."""

    state = Choice(CALLBACK_STATES, read="callback_state")
    description = Text(read="callback_description")
    context = Text(read="callback_context")
    target_url = Text("Often a URL, but receivers may send any text.", read="callback_target_url")
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
    outcome = Choice(
        list(OUTCOMES), "The outcome of its run.", read=lambda view: outcome_of(each.status for each in view.chain)
    )
    reason = Text(
        "Why it ended or is held, if no attempt says so.",
        read=lambda view: "" if view.waiting and view.row.next_attempt_at is None else view.row.reason,
    )
    cause = Text(
        'Why it waits, or why the latest attempt failed, and what to do; "" otherwise.',
        read=lambda view: (
            view.waiting or (view.row.reason if view.row.status is Status.PENDING else "") or view.latest.cause
        ),
    )
    hook = Nested(DeliveryHookDocument)
    position = Count("The position of the hook in its chain, from 0.")
    chain_length = Number()
    round = Number("Starts at 1 and grows with each redelivery.")
    chain = Nested(StepDocument, "All deliveries of the run in order.", read="chain", many=True)
    attempt_count = Count()
    duration_ms = Count("The duration of the latest attempt.", read="latest.duration_ms", null=True)
    push = Nested(
        PushDocument,
        read=lambda view: PushView(view.row.push, view.row.former_repository or view.row.push.repository),
    )
    callback_expected = Flag()
    callback = Nested(CallbackDocument, read=lambda view: view.row if view.row.callback_state else None, null=True)
    created_at = Time()
    next_attempt_at = Time(read="row.due_at", null=True)
    received_at = Time(null=True)
    expires_at = Time("Until when it awaits its callback.", null=True)
    finished_at = Time(null=True)


class DeliveryPageDocument(Document):
    """A page of deliveries."""

    next = Link(null=True)
    previous = Link(null=True)
    results = Nested(DeliveryDocument, many=True)


_HEADER_PAIRS: JSONSchema = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}


class RequestDocument(Document):
    """The request, without secrets and the callback token. Null without write access."""

    url = HookURL(read="row.hook_url")
    headers = List(items=_HEADER_PAIRS, read="row.request_headers")
    body = Text()


class ResponseDocument(Document):
    """The response of the receiver. Null without write access, and if there was none."""

    headers = List(items=_HEADER_PAIRS, read="response_headers")
    body = Text(read=lambda attempt: attempt.response_body.decode("utf-8", "replace"))
    truncated = Flag(read="response_truncated")


class CertificateDocument(Document):
    """The certificate of a receiver."""

    subject = Text("Common name and organization.", read=itemgetter("subject"))
    names = List("The host names and addresses that it is for.", items={"type": "string"}, read=itemgetter("names"))
    issuer = Text("Common name and organization.", read=itemgetter("issuer"))
    not_before = Text(read=itemgetter("not_before"), format="date-time")
    not_after = Text(read=itemgetter("not_after"), format="date-time")
    public_key_sha256 = Text(
        "The SHA-256 of its public key in base64, as `tls` takes it.", read=itemgetter("public_key_sha256")
    )


class AttemptDocument(Document):
    """One request of a delivery and its response."""

    prefix: ClassVar = "row."
    number = Number()
    round = Number()
    trigger = Choice(["push", "test", "chain", "retry", "redelivery"])
    payload_format = Choice(PAYLOAD_FORMATS)
    started_at = Time()
    duration_ms = Count()
    connect_ms = Count(null=True)
    wait_ms = Count(null=True)
    status_code = Field("Null if there was no response.", null=True, type="integer")
    cause = Text(
        'Why the attempt failed, and what to do; "" if it did not fail.',
        read=lambda view: cause(view.row.status_code, view.row.error),
    )
    request = Nested(RequestDocument, read=lambda view: view, null=True, writers_only=True)
    response = Nested(
        ResponseDocument,
        read=lambda view: None if view.row.status_code is None else view.row,
        null=True,
        writers_only=True,
    )
    certificate = Nested(
        CertificateDocument,
        "The certificate of the receiver, if it was refused. Null without write access.",
        null=True,
        writers_only=True,
    )


class DeliveryWithAttemptsDocument(DeliveryDocument):
    """A delivery with all its attempts."""

    attempts = Nested(AttemptDocument, read="attempts", many=True)


class PreviewedRequestDocument(Document):
    """A request as a hook would get it, without secrets and the callback token."""

    method = Choice(["POST"])
    url = HookURL()
    headers = List("Values that are secret or new with each request are masked.", items=_HEADER_PAIRS)
    body = Text()
    error = Text('Why it could not be sent; "" if it could.')


class PreviewDocument(Document):
    """The requests that a webhook would send for a push, in the order of its hooks."""

    is_sample = Flag("Whether the push is made up.")
    push = Nested(PushDocument, read=lambda preview: PushView(preview.push, preview.push.repository))
    requests = Nested(PreviewedRequestDocument, many=True)


class RecoveredDocument(Document):
    """How many runs were started again, and how many are left."""

    recovered = Count()
    remaining = Count()


class CallbackTakenDocument(Document):
    """An accepted callback."""

    delivery = UUID()
    state = Choice(CALLBACK_STATES)


class EventsTakenDocument(Document):
    """What became of a registry's events."""

    pushes = Count("Tags that were pushed, as the events say.")
    recorded = Count("Pushes that are new and that a webhook wants.")


class OpenAPIDocument(Document):
    """An OpenAPI 3.1 document."""

    openapi = Text()
    info = Field(type="object")
    servers = List()
    tags = List()
    paths = Field(type="object")
    components = Field(type="object")
