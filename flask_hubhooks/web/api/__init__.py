"""The JSON API under `/v2/repositories/<repository>/webhooks/`: which route is answered by what, and what it takes."""

from __future__ import annotations

from flask import Blueprint

from ..pipeline import Route, reads, route, writes
from ..schemas import (
    HistorySchema,
    HookSchema,
    RecoverSchema,
    SecretSchema,
    SendTestSchema,
    TagFilterSchema,
    WebhookListSchema,
    WebhookSchema,
)
from . import deliveries, webhooks


def add_routes(blueprint: Blueprint) -> list[Route]:
    every = "/v2/repositories/<path:repository>/webhooks/"
    one = every + "<int:webhook_id>/"
    return [*_of_webhooks(blueprint, every), *_of_one(blueprint, one), *_of_deliveries(blueprint, one)]


def _of_webhooks(blueprint: Blueprint, every: str) -> list[Route]:
    return [
        route(
            blueprint,
            every,
            "webhooks",
            GET=reads(webhooks.list_all, WebhookListSchema()),
            POST=writes(webhooks.create, WebhookSchema()),
        ),
        route(
            blueprint,
            every + "matching-tags/",
            "matching_tags",
            GET=reads(webhooks.matching_tags, TagFilterSchema()),
        ),
    ]


def _of_one(blueprint: Blueprint, one: str) -> list[Route]:
    change = WebhookSchema(partial=True, exclude=["hook_url", "secret"])
    url = HookSchema(exclude=["id"])
    return [
        route(
            blueprint,
            one,
            "webhook",
            GET=reads(webhooks.read),
            PATCH=writes(webhooks.edit, change),
            DELETE=writes(webhooks.delete),
        ),
        route(
            blueprint,
            one + "hooks/",
            "hooks",
            GET=reads(webhooks.list_hooks),
            POST=writes(webhooks.add_hook, url),
        ),
        route(
            blueprint,
            one + "hooks/<int:hook_id>/",
            "hook",
            GET=reads(webhooks.read_hook),
            PATCH=writes(webhooks.edit_hook, url),
            DELETE=writes(webhooks.remove_hook),
        ),
        route(
            blueprint,
            one + "rotate-secret/",
            "rotate_secret",
            POST=writes(webhooks.rotate_secret, SecretSchema(), optional=True),
        ),
    ]


def _of_deliveries(blueprint: Blueprint, one: str) -> list[Route]:
    delivery = one + "history/<uuid:delivery_id>/"
    test = writes(deliveries.send_test, SendTestSchema(), optional=True)
    return [
        route(blueprint, one + "test/", "test", POST=test),
        route(blueprint, one + "recover/", "recover", POST=writes(deliveries.recover, RecoverSchema())),
        route(blueprint, one + "history/", "history", GET=reads(deliveries.list_all, HistorySchema())),
        route(blueprint, delivery, "delivery", GET=reads(deliveries.read)),
        route(blueprint, delivery + "redeliver/", "redeliver", POST=writes(deliveries.redeliver)),
    ]
