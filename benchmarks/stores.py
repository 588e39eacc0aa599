"""Sites with a long or a short history, which is inserted with SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Connection, text

from .host import REPOSITORY
from .servers import Bench, Failed
from .sites import Site, site

NAME = "acme/pushed"
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
STEP = timedelta(seconds=30)
RARE = "rare"
"""A tag that was pushed three times, and a user with three other pushes; everything else is evenly distributed."""

# Pushes with `mod(id, 9) = 0` go to a chain of two, so that 9 pushes make 10 deliveries.
_PUSHES = """
INSERT INTO hubhooks_push (id, kind, repository, tag, digest, media_type, pusher, pushed_at, snapshot)
SELECT id, 'push', :repository,
    CASE mod(id, :pushes / 3) WHEN 7 THEN :rare ELSE 'v' || mod(id, 50) END,
    'sha256:' || encode(sha256(int4send(id)), 'hex'), 'application/vnd.oci.image.manifest.v1+json',
    CASE mod(id, :pushes / 3) WHEN 8 THEN :rare ELSE 'pusher-' || mod(id, 7) END,
    CAST(:start AS timestamptz) + id * CAST(:step AS interval), CAST(:snapshot AS json)
FROM generate_series(1, :pushes) AS id
"""

# 1 in 45 pushes has failed, so that a short history also has some failed ones (20). The newest are pending. Ids
# begin with the time, as those of the extension do.
_DELIVERIES = """
INSERT INTO hubhooks_delivery (id, push_id, webhook_id, hook_id, position, chain_length, callback_expected,
    repository_key, pushed_at, status, next_attempt_at, give_up_at, received_at, created_at, finished_at,
    callback_state, callback_at)
SELECT
    CAST(lpad(to_hex(CAST(extract(epoch FROM pushed_at) * 1000 AS bigint)), 12, '0')
        || overlay(overlay(substr(md5(id || '-' || position), 1, 20) PLACING '7' FROM 1 FOR 1)
            PLACING '8' FROM 5 FOR 1) AS uuid),
    id, :webhook, CASE position WHEN 0 THEN :hook_1 ELSE :hook_2 END, position, 1 + chained, position < chained,
    1, pushed_at, status,
    CASE status WHEN 'pending' THEN pushed_at END,
    CASE status WHEN 'pending' THEN pushed_at + interval '3 days' END,
    CASE status WHEN 'succeeded' THEN pushed_at + interval '1 s' END, pushed_at,
    CASE WHEN status IN ('succeeded', 'failed') THEN pushed_at + interval '2 s' END,
    CASE WHEN status = 'succeeded' AND position < chained THEN 'success' ELSE '' END,
    CASE WHEN status = 'succeeded' AND position < chained THEN pushed_at + interval '2 s' END
FROM hubhooks_push
    CROSS JOIN LATERAL (SELECT CAST(mod(id, 9) = 0 AS int) AS chained) AS is_a_chain
    CROSS JOIN LATERAL generate_series(0, chained) AS position
    CROSS JOIN LATERAL (
        SELECT CASE WHEN mod(id, 45) = 40 THEN 'failed' WHEN id <= :pushes - 18 THEN 'succeeded'
            WHEN position = 0 THEN 'pending' ELSE 'waiting' END AS status
    ) AS stands
"""

_ATTEMPTS = """
INSERT INTO hubhooks_attempt (delivery_id, number, round, trigger, hook_url, started_at, duration_ms, connect_ms,
    wait_ms, status_code, error, request_headers, response_headers, response_body, response_truncated)
SELECT id, 1, 1, CASE position WHEN 0 THEN 'push' ELSE 'chain' END, :url, pushed_at + interval '1 s', 80, 20, 60,
    CASE status WHEN 'failed' THEN 410 WHEN 'pending' THEN 503 ELSE 200 END, '',
    CAST(:sent AS json), CAST(:answered AS json), '{"status": "ok"}', false
FROM hubhooks_delivery WHERE status <> 'waiting'
"""

_NEXT_PUSH = "SELECT setval(pg_get_serial_sequence('hubhooks_push', 'id'), :pushes)"

_SENT = [
    ["Content-Type", "application/json"],
    ["User-Agent", "hubhooks"],
    ["webhook-id", "01890a5d-ac96-774b-bcce-b302099a8057"],
    ["webhook-timestamp", "1735689600"],
    ["webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="],
]
_ANSWERED = [["Server", "ci"], ["Content-Type", "application/json"], ["Content-Length", "16"]]


@dataclass(frozen=True)
class Store:
    """A site with one webhook, which has `size` deliveries."""

    site: Site
    size: int
    client: FlaskClient
    webhook: str
    """The URL of the webhook in the API."""

    @property
    def pushes(self) -> int:
        return pushes(self.size)

    def time_of(self, push: int) -> datetime:
        """The time of a push; pushes are numbered from 1."""
        return START + push * STEP

    def get(self, url: str) -> dict[str, Any]:
        """Return the API's answer, or {} for a page; raises `Failed` for any status but 200."""
        answer = self.client.get(url)
        if answer.status_code != 200:
            raise Failed(f"{url}: {answer.text}")
        content: dict[str, Any] = answer.get_json(silent=True) or {}
        return content


def pushes(deliveries: int) -> int:
    """How many pushes make this many deliveries."""
    return deliveries * 9 // 10


@contextmanager
def stored(bench: Bench, size: int) -> Iterator[Store]:
    """A site with `size` deliveries. Its webhook is created with the API, its history with SQL."""
    with site(bench) as own:
        urls = [bench.url("/history/1"), bench.url("/history/2")]
        own.create(NAME, *urls)
        client = own.app.test_client()
        every = f"/v2/repositories/{NAME}/webhooks/"
        webhook = client.get(every).get_json()["results"][0]
        with own.engine.begin() as connection:
            _fill(connection, size, webhook)
        own.settle()
        yield Store(own, size, client, f"{every}{webhook['id']}/")


def _fill(connection: Connection, size: int, webhook: dict[str, Any]) -> None:
    values = {
        "repository": NAME,
        "pushes": pushes(size),
        "rare": RARE,
        "start": START,
        "step": STEP,
        "snapshot": json.dumps(REPOSITORY.snapshot()),
        "webhook": webhook["id"],
        "hook_1": webhook["hooks"][0]["id"],
        "hook_2": webhook["hooks"][1]["id"],
        "url": webhook["hooks"][0]["hook_url"],
        "sent": json.dumps(_SENT),
        "answered": json.dumps(_ANSWERED),
    }
    connection.execute(text("SET LOCAL session_replication_role = replica"))  # does not check foreign keys
    for statement in (_PUSHES, _DELIVERIES, _ATTEMPTS, _NEXT_PUSH):
        connection.execute(text(statement), values)
