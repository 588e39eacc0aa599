"""Signals in and out.

`image_pushed` is for a host to send: `image_pushed.send(app, repository=…, tag=…)` with the fields of
`ImagePush`. So are these two, in the transaction in which the host makes the change; a receiver of ours that fails
raises:

- `repository_deleted.send(app, repository=…)`, as `HubHooks.repository_deleted`.
- `repository_renamed.send(app, old=…, new=…)`, as `HubHooks.repository_renamed`.

The others are sent by us after commit, with the app as sender, mostly in worker processes:

- `delivery_finished(app, delivery=Delivery)`: a delivery succeeded, failed or expired.
- `chain_finished(app, deliveries=[Delivery, …])`: the last hook succeeded, or an earlier one ended the chain.
- `webhook_disabled(app, webhook=Webhook)`: we disabled a webhook; `webhook.disabled_reason` says why.
- `push_not_recorded(app, push=ImagePush, error=Exception)`: a push was lost by a fault of ours; sent in the process
  that received the push. Not sent where there is no push to name: a push adapter raised, or the signal was sent
  outside of an app context. These are logged only.
"""

from __future__ import annotations

import logging
from typing import Any

from blinker import Signal

image_pushed = Signal()
repository_deleted = Signal()
repository_renamed = Signal()
delivery_finished = Signal()
chain_finished = Signal()
webhook_disabled = Signal()
push_not_recorded = Signal()

logger = logging.getLogger(__name__)


def tell(signal: Signal, sender: object, **details: Any) -> None:
    """Send `signal` to each receiver; one that raises is logged and keeps no other from hearing it."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **details)
        except Exception:
            logger.exception("a receiver of a hubhooks signal failed: %r", receiver)
