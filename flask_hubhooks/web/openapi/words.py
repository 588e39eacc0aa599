"""What only we can say of each operation: its name, what it is for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

TITLE = "Webhooks of the registry's repositories"
ABOUT = """\
How a client signs in is the registry's choice: where it is not by an `Authorization` header, the registry tells. It may
answer 401, or redirect to a page to sign in, before anything that stands here. Who may not read a repository's webhooks
gets the same 404 as for what does not exist.

Every URL is served with and without its final slash. `HEAD` is answered wherever `GET` is, `OPTIONS` everywhere, with
the methods that are possible in `Allow`; all other methods are answered with 405. Nothing may be cached. A URL that
matches none of these gets the registry's own 404.
"""
TAGS = {
    "webhooks": "What is called when a tag is pushed, and its hooks.",
    "deliveries": "The history, and what sends again.",
    "callbacks": "For receivers: what became of a delivery.",
    "documentation": "This document.",
}
PARAMETERS = {
    "repository": "The repository's whole name, slashes and all: `acme/app`, as it is or with `%2F`.",
    "webhook_id": "The webhook's `id`.",
    "hook_id": "The hook's `id`.",
    "delivery_id": "The delivery's `id`.",
    "token": "The token that ends the payload's `callback_url`: it is all the authority that is needed.",
}
SIGN_IN = "How a client signs in is the registry's choice; often it takes this header."
IF_MATCH = "An `ETag` that was read: the request is refused with 412 where it was changed since."


@dataclass(frozen=True)
class Words:
    """What is said of an operation. `answer` names one of `SCHEMAS`, "" for none."""

    operation_id: str
    summary: str
    answer: str
    tag: str = "webhooks"
    status: int = 200
    headers: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()
    """Those that do not follow from what the operation takes, and of whom."""
    if_match: bool = False


_TAGGED = ("ETag",)
_SENDS = (409, 429)
_LATE = (404, 409, 410, 503)

OPERATIONS = {
    ("webhooks", "GET"): Words("listWebhooks", "List the webhooks of a repository", "WebhookPage"),
    ("webhooks", "POST"): Words(
        "createWebhook",
        "Create a webhook: with one hook_url, with hooks for a chain, or with neither",
        "CreatedWebhook",
        status=201,
        headers=("ETag", "Location"),
    ),
    ("matching_tags", "GET"): Words("matchTags", "Which recent tags a filter would let through", "MatchingTags"),
    ("webhook", "GET"): Words("readWebhook", "Read a webhook", "Webhook", headers=_TAGGED),
    ("webhook", "PATCH"): Words(
        "editWebhook", "Change what is named of a webhook", "Webhook", headers=_TAGGED, if_match=True
    ),
    ("webhook", "DELETE"): Words("deleteWebhook", "Delete a webhook", "", status=204, if_match=True),
    ("hooks", "GET"): Words("listHooks", "List the hooks of a webhook's chain", "HookList"),
    ("hooks", "POST"): Words(
        "addHook", "Add a hook behind the others", "Hook", status=201, headers=("ETag", "Location")
    ),
    ("hook", "GET"): Words("readHook", "Read a hook", "Hook", headers=_TAGGED),
    ("hook", "PATCH"): Words(
        "editHook",
        "Give a hook another URL: what it has still to send goes there",
        "Hook",
        headers=_TAGGED,
        if_match=True,
    ),
    ("hook", "DELETE"): Words(
        "removeHook",
        "Remove a hook: what it has not sent is cancelled, with what waits behind it",
        "",
        status=204,
        problems=(400,),  # where it has still more hooks than allowed
        if_match=True,
    ),
    ("rotate_secret", "POST"): Words(
        "rotateSecret", "Replace the secret; for a while requests are signed with both", "NewSecret"
    ),
    ("test", "POST"): Words(
        "sendTest",
        "Send a test push, to this webhook alone",
        "Delivery",
        "deliveries",
        202,
        ("Location",),
        _SENDS,
    ),
    ("recover", "POST"): Words(
        "recover",
        "Send again all that could not be delivered, 500 pushes at a time",
        "Recovered",
        "deliveries",
        problems=_SENDS,
    ),
    ("history", "GET"): Words("listDeliveries", "List deliveries, newest push first", "DeliveryPage", "deliveries"),
    ("delivery", "GET"): Words(
        "readDelivery",
        "Read a delivery, with each attempt's request, answer, times and cause",
        "DeliveryWithAttempts",
        "deliveries",
    ),
    ("redeliver", "POST"): Words(
        "redeliver",
        "Send a delivery again, and after it the rest of its chain",
        "Delivery",
        "deliveries",
        202,
        ("Location",),
        (*_SENDS, 415),
    ),
    ("callback", "POST"): Words(
        "postCallback",
        "Say what became of a delivery; any Content-Type will do",
        "CallbackTaken",
        "callbacks",
        problems=_LATE,
    ),
    ("openapi", "GET"): Words("readOpenAPI", "Read this document", "OpenAPI", "documentation"),
}

PROBLEMS = {
    400: "The request is not valid: `errors` says it by field.",
    403: "The client may read, not change; or another site had its browser send this; or nobody may use webhooks here.",
    404: "There is no such thing here, or the client may not read it.",
    405: "Another method than those of this URL.",
    409: "Not now: `detail` says why.",
    410: "The delivery has ended without a callback.",
    412: "It was changed since it was read: see `If-Match`.",
    413: "The body is too large.",
    415: "The body is not sent as JSON.",
    429: "Too many tests, redeliveries and recoveries of this repository within a minute.",
    503: "The registry's database or its Redis cannot be used now, or the repository is being changed.",
}
SIGN_IN_FIRST = "The registry asks the client to sign in: what it says is its own."
HEADERS = {
    "ETag": "The version that was read or made, for `If-Match`.",
    "Location": "The absolute URL of what was made or sent.",
    "Allow": "The methods that are possible here.",
    "Retry-After": "Seconds to wait.",
}
