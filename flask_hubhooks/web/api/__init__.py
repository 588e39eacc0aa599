"""The JSON API under `/v2/repositories/<repository>/webhooks/`: which route is answered by what."""

from __future__ import annotations

from flask import Blueprint

from ..pipeline import reads, route, writes
from . import deliveries, webhooks


def add_routes(blueprint: Blueprint) -> None:
    every = "/v2/repositories/<path:repository>/webhooks/"
    one = every + "<int:webhook_id>/"
    hook = one + "hooks/<int:hook_id>/"
    delivery = one + "history/<uuid:delivery_id>/"
    route(blueprint, every, "webhooks", GET=reads(webhooks.list_all), POST=writes(webhooks.create))
    route(blueprint, every + "matching-tags/", "matching_tags", GET=reads(webhooks.matching_tags))
    route(
        blueprint,
        one,
        "webhook",
        GET=reads(webhooks.read),
        PATCH=writes(webhooks.edit),
        DELETE=writes(webhooks.delete),
    )
    route(blueprint, one + "hooks/", "hooks", GET=reads(webhooks.list_hooks), POST=writes(webhooks.add_hook))
    route(
        blueprint,
        hook,
        "hook",
        GET=reads(webhooks.read_hook),
        PATCH=writes(webhooks.edit_hook),
        DELETE=writes(webhooks.remove_hook),
    )
    route(blueprint, one + "rotate-secret/", "rotate_secret", POST=writes(webhooks.rotate_secret))
    route(blueprint, one + "test/", "test", POST=writes(deliveries.send_test))
    route(blueprint, one + "recover/", "recover", POST=writes(deliveries.recover))
    route(blueprint, one + "history/", "history", GET=reads(deliveries.list_all))
    route(blueprint, delivery, "delivery", GET=reads(deliveries.read))
    route(blueprint, delivery + "redeliver/", "redeliver", POST=writes(deliveries.redeliver))
