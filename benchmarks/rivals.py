"""The rivals' processes: `python -m benchmarks.rivals bare URL` or `… simple|worker QUEUE`."""

from __future__ import annotations

import sys
from time import perf_counter

import requests
from redis import Redis
from rq import SimpleWorker, Worker
from rq.worker import BaseWorker

from .host import example_body


def bare_loop(url: str) -> None:
    """For each number read, POST that many times in a plain loop, and print the seconds that it took."""
    http = requests.Session()
    body = example_body()
    for line in sys.stdin:
        started = perf_counter()
        for _ in range(int(line)):
            http.post(url, data=body, headers={"Content-Type": "application/json"})
        print(perf_counter() - started, flush=True)


def rq_worker(kind: type[BaseWorker], queue: str) -> None:
    """Run an RQ worker that has imported everything, so that forked jobs need not import it again."""
    from .jobs import app

    kind([queue], connection=Redis.from_url(app.config["HUBHOOKS_REDIS_URL"])).work(logging_level="WARNING")


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "bare":
        bare_loop(*arguments)
    else:
        rq_worker({"simple": SimpleWorker, "worker": Worker}[what], *arguments)
