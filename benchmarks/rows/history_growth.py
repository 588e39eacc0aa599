"""A worker and the pages of the history, with a thousand and with a million deliveries stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from sqlalchemy import Engine, event

from ..contestants import Engine as Workers
from ..contestants import race
from ..row import Figure, Goal, Row, Run, ratios
from ..servers import Failed
from ..stores import NAME, RARE, Store, stored

SMALL, LARGE, QUICK = 1_000, 1_000_000, 10_000
TIMES, QUICK_TIMES = 20, 3
"""How often each page is requested in a round."""
PAGE_SIZE = 25
EXPLAIN = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS OFF)"
_READS_ALL = re.compile(r"Seq Scan on hubhooks_(delivery|push|attempt)\b")


def measure(run: Run) -> list[Figure]:
    """Raises `Failed` if a page makes the large database read a whole table."""
    bench = run.bench
    with stored(bench, SMALL) as small, stored(bench, run.size(LARGE, QUICK)) as large:
        run.progress(f"history-growth: {small.size:,} and {large.size:,} deliveries stored")
        return [*_pages_compared(run, small, large), *_throughput_compared(run, small, large)]


def _pages_compared(run: Run, small: Store, large: Store) -> list[Figure]:
    small_urls, large_urls = _pages(small), _pages(large)
    for name, url in large_urls.items():
        _refuse_whole_reads(name, _plans(large, url))
    compared: dict[str, list[tuple[float, float]]] = {name: [] for name in large_urls}
    for round_ in run.rounds:
        for name, url in large_urls.items():
            compared[name].append(_compared((small, small_urls[name]), (large, url), run.size(TIMES, QUICK_TIMES)))
        worst = max(ratio[-1][1] for ratio in compared.values())
        run.progress(f"history-growth, round {round_} of {len(run.rounds)}: pages take up to {worst:.2f} times as long")
    pages = {name: tuple(zip(*each, strict=True)) for name, each in compared.items()}
    return [
        Figure("first page, ms", pages["first page"][0]),
        *(Figure(f"{name} over {SMALL:,} stored", ratio) for name, (_, ratio) in pages.items()),
    ]


def _throughput_compared(run: Run, small: Store, large: Store) -> list[Figure]:
    url, due = run.bench.url("/history-growth"), run.size(10_000, 1_500)
    contestants = {}
    with ExitStack() as stack:
        for name, store in (("little stored", small), ("much stored", large)):
            store.site.subscribe(url)
            contestants[name] = Workers(store.site, [stack.enter_context(store.site.worker())], due)
        rates = race(run, "history-growth", contestants)
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        Figure("throughput over 1,000 stored", ratios(rates["much stored"], rates["little stored"])),
    ]


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
        "state=failed": {"state": "failed"},
        "outcome=failed": {"outcome": "failed"},
        "outcome=succeeded": {"outcome": "succeeded"},
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
    """The HTML pages that are measured."""
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
    """The cursor of page 10,000, or of the middle page if there are fewer than 20,000."""
    page = min(10_000, store.size // PAGE_SIZE // 2)
    edge = store.time_of(store.pushes - (page - 1) * PAGE_SIZE * 9 // 10)
    first = urlencode({"until": edge.isoformat(), "page_size": 1})
    return {"cursor": _query(store.get(f"{store.webhook}history/?{first}")["next"])["cursor"]}


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def _compared(small: tuple[Store, str], large: tuple[Store, str], times: int) -> tuple[float, float]:
    """The milliseconds with the large store, and the ratio of large to small when both return as many rows."""
    rows = len(small[0].get(small[1]).get("results", [])) or 1
    whole, less, more = _medians([large, *((store, _sized(url, rows)) for store, url in (small, large))], times)
    return whole, more / less


def _sized(url: str, rows: int) -> str:
    """The same page with this many rows."""
    return f"{url}&page_size={rows}" if url.startswith("/v2/") and "/history/?" in url else url


def _medians(asked: Sequence[tuple[Store, str]], times: int) -> list[float]:
    """The median milliseconds of each, requested in turn."""
    all_taken: list[list[float]] = [[] for _ in asked]
    for _ in range(times):
        for (store, url), taken in zip(asked, all_taken, strict=True):
            began = perf_counter()
            store.get(url)
            taken.append((perf_counter() - began) * 1000)
    return [median(taken) for taken in all_taken]


def _plans(store: Store, url: str) -> list[str]:
    """The statements that a response needs, each with its query plan."""
    store.get(url)  # makes the queries that are made only once
    with _statements(store.site.engine) as statements:
        store.get(url)
    with store.site.engine.connect() as connection:
        return [
            "\n".join([statement, *connection.exec_driver_sql(f"{EXPLAIN} {statement}", parameters).scalars()])
            for statement, parameters in statements
        ]


@contextmanager
def _statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are sent to a database in the block, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", listen)


def _refuse_whole_reads(name: str, plans: Sequence[str]) -> None:
    for plan in plans:
        if _READS_ALL.search(plan):
            raise Failed(f"{name} reads a whole table:\n{plan}")


ROW = Row(
    "history-growth",
    "deliveries/s, and the time of each page of the history, with 1,000,000 deliveries stored, over 1,000",
    measure,
    (
        Goal("throughput over 1,000 stored", 0.95, 1.0),
        Goal("first page over 1,000 stored", 1.2, 1.0, at_most=True),
        Goal("page 10,000 over 1,000 stored", 1.2, 1.0, at_most=True),
    ),
    limited_by="something that we have not found: PostgreSQL's statements for a delivery take only 3 % longer",
)
