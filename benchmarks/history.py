"""The history's pages with a thousand deliveries and with a million: how much longer a user waits for them.

`python -m benchmarks.history` measures these alone, and prints how the database carries out each query as well.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from sqlalchemy import Engine, event

from . import report
from .report import ROUNDS, Figure, Progress, ratios
from .servers import Bench, Failed, started
from .stores import NAME, RARE, Store, stored

ROW = "history"
SMALL, LARGE, QUICK = 1_000, 1_000_000, 100_000
TIMES, QUICK_TIMES = 20, 7
"""How often each page is asked for in a round."""
PAGE_SIZE = 25
EXPLAIN = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS OFF)"
_READS_ALL = re.compile(r"Seq Scan on hubhooks_(delivery|push|attempt)\b")


@dataclass
class Result:
    """What was measured, and of each page the statements it took on the large database, with their plans."""

    figures: list[Figure] = field(default_factory=list)
    plans: dict[str, list[str]] = field(default_factory=dict)


def measured(bench: Bench, quick: bool, progress: Progress) -> Result:
    """Measure all pages; raises `Failed` where one has the large database read a whole table."""
    times = QUICK_TIMES if quick else TIMES
    with stored(bench, SMALL) as small, stored(bench, QUICK if quick else LARGE) as large:
        progress(f"history: {small.size:,} and {large.size:,} deliveries stored")
        small_urls, large_urls = _pages(small), _pages(large)
        result = Result(plans={name: _plans(large, url) for name, url in large_urls.items()})
        _refuse_whole_reads(result.plans)
        progress("history: no plan reads a whole table")
        for name, url in large_urls.items():
            result.figures += _compared(name, (small, small_urls[name]), (large, url), times)
            progress(f"history: {name} {_said(result.figures[-2:])}")
    return result


def _pages(store: Store) -> dict[str, str]:
    """The URL of each page that is measured."""
    history = f"{store.webhook}history/"
    middle = store.time_of(store.pushes // 2)
    hour = timedelta(hours=1)
    within = {"since": (middle - hour).isoformat(), "until": (middle + hour).isoformat()}
    deep = _deep(store)
    there = store.get(f"{history}?{urlencode(deep)}")
    queries = {
        "first page": {},
        "page 10,000": deep,
        "the one older": _query(there["next"]),
        "the one newer": _query(there["previous"]),
        "status=error": {"status": "error"},
        "status=failed": {"status": "failed"},
        "status=pending": {"status": "pending"},
        "tag common": {"tag": "v7"},
        "tag rare": {"tag": RARE},
        "tag absent": {"tag": "absent"},
        "pusher rare": {"pusher": RARE},
        "since and until": within,
    }
    pages = {name: f"{history}?{urlencode(query)}" for name, query in queries.items()}
    pages["one delivery"] = f"{history}{there['results'][0]['id']}/"
    pages |= _html(store, there["results"][0]["id"])
    pages["matching-tags"] = f"/v2/repositories/{NAME}/webhooks/matching-tags/?tag_filter=v1*"
    return pages


def _html(store: Store, delivery: str) -> dict[str, str]:
    """The same as people see it."""
    every = f"/r/{NAME}/webhooks/"
    history = f"{every}{store.webhook.rstrip('/').rpartition('/')[2]}/history/"
    return {
        "HTML webhooks": every,
        "HTML history": history,
        "HTML history, failed": f"{history}?outcome=failed",
        "HTML history, succeeded": f"{history}?outcome=succeeded",
        "HTML history, tag": f"{history}?tag=v7",
        "HTML history, page 10,000": f"{history}?{urlencode(_deep(store))}",
        "HTML one delivery": f"{history}{delivery}/",
    }


def _deep(store: Store) -> dict[str, str]:
    """The cursor of page 10,000, or of the middle one of fewer."""
    page = min(10_000, store.size // PAGE_SIZE // 2)
    edge = store.time_of(store.pushes - (page - 1) * PAGE_SIZE * 9 // 10)
    first = urlencode({"until": edge.isoformat(), "page_size": 1})
    return {"cursor": _query(store.get(f"{store.webhook}history/?{first}")["next"])["cursor"]}


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def _compared(name: str, small: tuple[Store, str], large: tuple[Store, str], times: int) -> list[Figure]:
    """How long the large one takes, and how much longer than the small one where both answer as many deliveries."""
    rows = len(small[0].get(small[1]).get("results", [])) or 1
    equal = [(store, _sized(url, rows)) for store, url in (small, large)]
    rounds = [_medians([large, *equal], times) for _ in range(ROUNDS)]
    whole, less, more = zip(*rounds, strict=True)
    return [
        Figure(ROW, f"{name}, ms", list(whole)),
        Figure(ROW, f"{name}, over {small[0].size:,}", ratios(more, less)),
    ]


def _sized(url: str, rows: int) -> str:
    """The same page with as many rows."""
    return f"{url}&page_size={rows}" if url.startswith("/v2/") and "/history/?" in url else url


def _medians(asked: Sequence[tuple[Store, str]], times: int) -> list[float]:
    """The milliseconds each of them takes, asked by turns."""
    all_taken: list[list[float]] = [[] for _ in asked]
    for _ in range(times):
        for (store, url), taken in zip(asked, all_taken, strict=True):
            began = perf_counter()
            store.get(url)
            taken.append((perf_counter() - began) * 1000)
    return [median(taken) for taken in all_taken]


def _said(figures: Sequence[Figure]) -> str:
    milliseconds, ratio = (median(each.values) for each in figures)
    return f"{milliseconds:.1f} ms, {ratio:.2f} times as long"


def _plans(store: Store, url: str) -> list[str]:
    """Each statement that an answer takes, with how the database carries it out."""
    store.get(url)  # with what is asked only once
    with _statements(store.engine) as statements:
        store.get(url)
    with store.engine.connect() as connection:
        return [
            "\n".join([statement, *connection.exec_driver_sql(f"{EXPLAIN} {statement}", parameters).scalars()])
            for statement, parameters in statements
        ]


@contextmanager
def _statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to a database meanwhile, with its parameters."""
    sent: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", listen)


def _refuse_whole_reads(plans: dict[str, list[str]]) -> None:
    for name, each in plans.items():
        for plan in each:
            if _READS_ALL.search(plan):
                raise Failed(f"{name} reads a whole table:\n{plan}")


def main() -> int:
    """Measure the history alone; 1 where the run is worth nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    logging.basicConfig(level=logging.WARNING)
    print(report.heading(), file=sys.stderr)
    try:
        with started() as bench:
            result = measured(bench, False, report.clock())
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    for name, plans in result.plans.items():
        print(f"== {name}", *plans, "", sep="\n")
    print(report.table(result.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
