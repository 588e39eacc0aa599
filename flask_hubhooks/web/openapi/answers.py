"""JSON Schemas of what our API answers, as `documents.py` makes it."""

from __future__ import annotations

from typing import Any

from ...records.models import DOCKER_WORDS, Kind, Status
from ..schemas import CALLBACK_STATES

JSONSchema = dict[str, Any]

HTTP_URL = "^[Hh][Tt][Tt][Pp][Ss]?:"
"""How every hook URL begins."""

TEXT: JSONSchema = {"type": "string"}
FLAG: JSONSchema = {"type": "boolean"}
NUMBER: JSONSchema = {"type": "integer", "minimum": 0}
ID: JSONSchema = {"type": "integer", "minimum": 1}
TIME: JSONSchema = {"type": "string", "format": "date-time"}
UUID: JSONSchema = {"type": "string", "format": "uuid"}
LINK: JSONSchema = {"type": "string", "format": "uri"}
HOOK_URL: JSONSchema = {
    "type": "string",
    "pattern": HTTP_URL,
    "description": "Users without write access see `https://host[:port]/…`.",
}


def _record(about: str, /, **properties: JSONSchema) -> JSONSchema:
    """An object with all of these, and no others."""
    return {
        "type": "object",
        "description": about,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: JSONSchema) -> JSONSchema:
    return {"type": "array", "items": items}


def _one_of(*values: str) -> JSONSchema:
    return {"type": "string", "enum": list(values)}


def _or_null(schema: JSONSchema) -> JSONSchema:
    if "type" not in schema or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return schema | {"type": [schema["type"], "null"]}


def _about(schema: JSONSchema, about: str) -> JSONSchema:
    return schema | {"description": about}


def ref(name: str) -> JSONSchema:
    """What stands under this name in `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


_STATE = _one_of(*(each.value for each in Status))
_CALLBACK_STATE = _one_of(*CALLBACK_STATES)
_HEADERS = _list({"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2})
_SECRET = _about({"type": "string", "pattern": "^whsec_"}, "It is shown this once.")

_HOOK = _record(
    "A destination URL of a webhook.",
    id=ID,
    hook_url=HOOK_URL,
    host=_about(TEXT, "The URL's host in ASCII, as it is looked up."),
    host_unicode=_about(TEXT, "The URL's host as it reads in its own script."),
    active=FLAG,
    failing_since=_or_null(TIME),
    creator=TEXT,
    last_updater=TEXT,
    date_added=TIME,
    last_updated=TIME,
)
_WEBHOOK = _record(
    "A name and the hooks that are called, one after the other, when a tag is pushed.",
    id=ID,
    slug=_about(TEXT, "The name, to be used in a URL."),
    name=TEXT,
    active=FLAG,
    disabled_reason=_about(TEXT, 'Why the registry disabled it; "" where it did not.'),
    expect_final_callback=FLAG,
    tag_filter=_list(TEXT),
    headers={
        "type": ["object", "null"],
        "additionalProperties": {"type": "null"},
        "description": "The names of the headers that go with its requests; null without write access, and where they "
        "cannot be decrypted.",
    },
    creator=TEXT,
    last_updater=TEXT,
    created=TIME,
    last_updated=TIME,
    former_secret_until=_about(_or_null(TIME), "Until then requests are also signed with the secret before."),
    hooks=_list(ref("Hook")),
)
_CREATED_WEBHOOK = _record(
    "A new webhook with its secret.",
    **_WEBHOOK["properties"],
    secret=_SECRET,
)
_STEP = _record(
    "How far a hook of the chain has come.",
    id=UUID,
    position=NUMBER,
    hook_url=HOOK_URL,
    state=_STATE,
    callback=_or_null(_CALLBACK_STATE),
)
_PUSH = _record(
    "A tag that was pushed, or a test.",
    kind=_one_of(*(each.value for each in Kind)),
    repository=TEXT,
    tag=TEXT,
    digest=TEXT,
    media_type=TEXT,
    pusher=TEXT,
    pushed_at=TIME,
)
_CALLBACK = _record(
    "What the receiver posted to the callback URL.",
    state=_CALLBACK_STATE,
    description=TEXT,
    context=TEXT,
    target_url=TEXT,
    received_at=TIME,
)
_DELIVERY = _record(
    "One hook of a webhook for one push.",
    id=_about(UUID, "Receivers see it as `webhook-id`."),
    status=_about(_one_of(*DOCKER_WORDS), "Docker Hub's word: `success` where it was received."),
    state=_about(_STATE, "Where it exactly stands."),
    reason=_about(TEXT, "Why it ended or is held, where no attempt tells."),
    cause=_about(TEXT, 'What is wrong by the latest attempt, and what to do; "" where nothing is.'),
    hook=_record("The hook that is called.", id=ID, hook_url=HOOK_URL),
    position=_about(NUMBER, "Of the hook in its chain, from 0."),
    chain_length=ID,
    round=_about(ID, "It is one more each time that the delivery is sent again."),
    chain=_about(_list(ref("Step")), "All hooks of the chain."),
    attempt_count=NUMBER,
    duration_ms=_about(_or_null(NUMBER), "Of the latest attempt."),
    push=ref("Push"),
    callback_expected=FLAG,
    callback=_or_null(ref("Callback")),
    created_at=TIME,
    next_attempt_at=_or_null(TIME),
    received_at=_or_null(TIME),
    finished_at=_or_null(TIME),
)
_ATTEMPT = _record(
    "One request of a delivery, and what came of it.",
    number=ID,
    round=ID,
    trigger=_one_of("push", "test", "chain", "retry", "redelivery"),
    started_at=TIME,
    duration_ms=NUMBER,
    connect_ms=_or_null(NUMBER),
    wait_ms=_or_null(NUMBER),
    cause=_about(TEXT, 'Why it failed, and what to do; "" where it did not.'),
    status_code=_about(_or_null({"type": "integer"}), "Null where there was no answer."),
    request=_or_null(ref("Request")),
    response=_or_null(ref("Response")),
)
_REQUEST = _record(
    "What was sent, without secrets and the callback's token. Null without write access.",
    url=HOOK_URL,
    headers=_HEADERS,
    body=TEXT,
)
_RESPONSE = _record(
    "What the receiver answered. Null without write access, and where there was no answer.",
    headers=_HEADERS,
    body=TEXT,
    truncated=FLAG,
)
_PROBLEM: JSONSchema = {
    "type": "object",
    "description": "What is wrong and what to do (RFC 9457).",
    "properties": {
        "type": {"const": "about:blank"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "errors": {"type": "object", "description": "Messages by field: a list, or within a field the same again."},
    },
    "required": ["type", "title", "status", "detail"],
    "additionalProperties": False,
}

SCHEMAS: dict[str, JSONSchema] = {
    "Webhook": _WEBHOOK,
    "CreatedWebhook": _CREATED_WEBHOOK,
    "WebhookPage": _record(
        "A page of webhooks.", count=NUMBER, next=_or_null(LINK), previous=_or_null(LINK), results=_list(ref("Webhook"))
    ),
    "MatchingTags": _record("The repository's recent tags.", matching=_list(TEXT), other=_list(TEXT)),
    "NewSecret": _record("The secret from now on.", secret=_SECRET, former_secret_until=_or_null(TIME)),
    "Hook": _HOOK,
    "HookList": _record("The hooks of a chain in order.", results=_list(ref("Hook"))),
    "Delivery": _DELIVERY,
    "DeliveryPage": _record(
        "A page of deliveries.", next=_or_null(LINK), previous=_or_null(LINK), results=_list(ref("Delivery"))
    ),
    "DeliveryWithAttempts": _record(
        "A delivery with all its attempts.", **_DELIVERY["properties"], attempts=_list(ref("Attempt"))
    ),
    "Step": _STEP,
    "Push": _PUSH,
    "Callback": _CALLBACK,
    "Attempt": _ATTEMPT,
    "Request": _REQUEST,
    "Response": _RESPONSE,
    "Recovered": _record("How much was sent again, and how much is left.", recovered=NUMBER, remaining=NUMBER),
    "CallbackTaken": _record("The callback was taken.", delivery=UUID, state=_CALLBACK_STATE),
    "OpenAPI": {"type": "object", "description": "An OpenAPI 3.1 document.", "required": ["openapi", "info", "paths"]},
    "Problem": _PROBLEM,
}
