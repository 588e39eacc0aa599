"""The JSON API under `/v2/repositories/<repository>/webhooks/`."""

WEBHOOKS = "/v2/repositories/<path:repository>/webhooks/"
WEBHOOK = WEBHOOKS + "<int:webhook_id>/"
HOOK = WEBHOOK + "hooks/<int:hook_id>/"
DELIVERY = WEBHOOK + "history/<uuid:delivery_id>/"
