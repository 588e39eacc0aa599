"""The JSON API of webhooks. Each rule continues those of `endpoints.WEBHOOKS_OF`."""

WEBHOOKS = ""
WEBHOOK = WEBHOOKS + "<int:webhook_id>/"
HOOK = WEBHOOK + "hooks/<int:hook_id>/"
DELIVERY = WEBHOOK + "history/<uuid:delivery_id>/"
