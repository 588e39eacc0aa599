"""The rivals' RQ jobs, as a Flask developer would write them."""

from __future__ import annotations

from datetime import datetime, timezone

import requests

from .host import Notification, create_app, db

app = create_app()
http = requests.Session()
TIMEOUT_S = 15


def deliver(notification_id: int) -> None:
    """One job per delivery: load the row, POST its body with a shared `Session`, write the status, commit.

    It keeps no history of attempts, does not sign, checks no address and does not retry.
    """
    with app.app_context():
        notification = db.session.get_one(Notification, notification_id)
        response = http.post(
            notification.url,
            data=notification.body.encode(),
            headers={"Content-Type": "application/json"},
            timeout=TIMEOUT_S,
        )
        notification.status = "delivered" if response.ok else "failed"
        notification.status_code = response.status_code
        notification.sent_at = datetime.now(timezone.utc)
        db.session.commit()


def post(url: str, body: str) -> None:
    """The simplest possible job: it only POSTs its arguments."""
    http.post(url, data=body.encode(), headers={"Content-Type": "application/json"}, timeout=TIMEOUT_S)
