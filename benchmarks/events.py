"""Posts registry events at a fixed rate: `python -m benchmarks.events URL TOKEN RATE SECONDS`.

Each event is the push of a new tag to one of 20 repositories. Prints a JSON list of the milliseconds that each took,
counted from when it should have been sent: a late answer delays the events behind it, and their delay is included.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from time import perf_counter
from typing import Any

from .posting import Posting

CONNECTIONS = 16
REPOSITORIES = [f"acme/app{number}" for number in range(20)]


def event(number: int) -> dict[str, Any]:
    """The envelope of CNCF Distribution with one push."""
    digest = f"sha256:{number:064x}"
    repository = REPOSITORIES[number % len(REPOSITORIES)]
    target = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "size": 418,
        "digest": digest,
        "length": 418,
        "repository": repository,
        "url": f"http://registry.example.com/v2/{repository}/manifests/{digest}",
        "tag": f"v{number}",
    }
    request = {"id": str(uuid.uuid4()), "addr": "10.0.0.7:41000", "host": "registry.example.com", "method": "PUT"}
    pushed = {"id": str(uuid.uuid4()), "timestamp": "2026-11-24T02:58:07.310556791Z", "action": "push"}
    return {"events": [pushed | {"target": target, "request": request, "actor": {}, "source": {}}]}


async def post_events(url: str, token: str, rate: float, seconds: float) -> None:
    posting, began = Posting(CONNECTIONS), perf_counter()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(due - perf_counter(), 0))
        posting.add(url, json.dumps(event(number)).encode(), f"Authorization: Bearer {token}\r\n", due)
    await posting.done()
    print(json.dumps(posting.milliseconds), flush=True)


if __name__ == "__main__":
    asyncio.run(post_events(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
