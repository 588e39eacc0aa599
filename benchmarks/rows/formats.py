"""What payload formats other than Docker Hub's cost a worker, and how large their bodies are."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from statistics import median
from time import process_time

from flask_hubhooks.formats import PAYLOAD_FORMATS, Push, format_of

from ..contestants import engine, race
from ..host import EXTERNAL_URL, REPOSITORY
from ..row import Figure, Goal, Row, Run, ratios

TEMPLATE = json.dumps({"text": "{image}:{tag} was pushed by {pusher}", "digest": "{digest}", "then": "{callback_url}"})
BUILDS, BATCHES = 1_000, 7


def measure(run: Run) -> list[Figure]:
    due, bench = run.size(30_000, 3_000), run.bench
    with (
        engine(bench, due, bench.url("/formats/dockerhub")) as dockerhub,
        engine(bench, due, bench.url("/formats/harbor"), payload_format="harbor") as harbor,
    ):
        rates = race(run, "formats", {"dockerhub": dockerhub, "harbor": harbor})
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        Figure("harbor over dockerhub", ratios(rates["harbor"], rates["dockerhub"])),
        *(figure for name in PAYLOAD_FORMATS for figure in _cost(name)),
    ]


def _cost(name: str) -> list[Figure]:
    """The size of a body, and the processor time to build it and its `Push`: the median of several batches."""
    body_of = format_of(name, TEMPLATE).body
    times = []
    for _ in range(BATCHES):
        began = process_time()
        for _ in range(BUILDS):
            body_of(_push())
        times.append((process_time() - began) / BUILDS * 1e6)
    return [Figure(f"{name}, bytes", [len(body_of(_push()))]), Figure(f"{name}, \N{MICRO SIGN}s", [median(times)])]


def _push() -> Push:
    return Push(
        delivery_id=uuid.UUID(int=1),
        repository="acme/app",
        tag="latest",
        pusher="benchmark",
        pushed_at=datetime(2026, 1, 31, tzinfo=timezone.utc),
        details=_DETAILS,
        registry_host="registry.example.com",
        external_url=EXTERNAL_URL,
        callback_url=f"{EXTERNAL_URL}/u/acme/app/hook/{'0' * 36}.1.{'0' * 43}/",
        digest=f"sha256:{'0' * 64}",
        media_type="application/vnd.oci.image.index.v1+json",
    )


_DETAILS = REPOSITORY.snapshot()

ROW = Row(
    "formats",
    "deliveries/s of one worker with the format `harbor`, over `dockerhub`; the size of a body in each format, and the "
    "processor time to build it",
    measure,
    (Goal("harbor over dockerhub", 0.97, 1),),
)
