"""Signals that the host sends to us, and signals that we send to the host.

The host sends `image_pushed.send(app, repository=…, tag=…)` with the fields of `ImagePush`. It sends the following two
in the transaction in which it makes the change; they raise if we cannot follow it:

- `repository_deleted.send(app, repository=…)`, as `HubHooks.repository_deleted`.
- `repository_renamed.send(app, old=…, new=…)`, as `HubHooks.repository_renamed`.

We send the others after commit, with the app as sender, mostly in worker processes:

- `delivery_finished(app, delivery=Delivery)`: a delivery succeeded, failed or expired.
- `chain_finished(app, deliveries=[Delivery, …])`: the last hook succeeded, or an earlier one ended the chain.
- `webhook_disabled(app, webhook=Webhook)`: we disabled a webhook; `webhook.disabled_reason` says why.
- `push_not_recorded(app, push=ImagePush, error=Exception)`: a push was lost because of an error of ours, or refused
  because it is not the push of a tag; sent in the process that received it. If there is no push, because a push adapter
  raised or the signal was sent outside of an app context, the error is only logged.
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


def send_signal(signal: Signal, sender: object, **details: Any) -> None:
    """Send a signal to all its receivers. If one raises, that is logged, and the others still get the signal."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **details)
        except Exception:
            logger.exception("a receiver of a hubhooks signal failed: %r", receiver)
