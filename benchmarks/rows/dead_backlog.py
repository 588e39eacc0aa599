"""Deliveries to 16 destinations while 100,000 are due to a dead one, and claims while these are due or held."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from sqlalchemy import select
from sqlalchemy.orm import Session

from flask_hubhooks.records.models import Webhook
from flask_hubhooks.worker.claims import Released, claim, expire_overdue, release
from flask_hubhooks.worker.dispatcher import MIN_CLAIM

from ..contestants import LIMIT_S, WARM_UP, Engine, engine, race
from ..row import Figure, Goal, Row, Run, ratios
from ..servers import Bench, wait_until
from ..sites import Site, breakers_open, site

BACKLOG, BATCH = 100_000, 10_000
DESTINATIONS = 16
CLAIMS = 30


class Beside(Engine):
    """Workers with a backlog that never ends."""

    def warm(self) -> None:
        self.deliver(WARM_UP)


def measure(run: Run) -> list[Figure]:
    due, bench = run.size(10_000, 1_500), run.bench
    urls = [bench.url("/beside-the-dead", number) for number in range(DESTINATIONS)]
    with site(bench) as own, _dead_url() as dead:
        own.subscribe(dead)
        _lay_out_backlog(own, run.size(BACKLOG, BATCH))
        own.samples.clear()
        for url in urls:
            own.subscribe(url)
        own.lay_out(["v0"] * WARM_UP)
        run.progress("dead-backlog: the backlog is inserted")
        claims = [_claim_ms(own) for _ in range(CLAIMS)]
        without, beside_held = _claims_without(bench, urls), _claims_beside_held(own)
        with own.worker() as worker, engine(bench, due, *urls) as alone:
            wait_until(lambda: bool(breakers_open(worker)), [worker], 0.05, LIMIT_S)
            rates = race(run, "dead-backlog", {"beside it": Beside(own, [worker], due), "without it": alone})
    return [
        *(Figure(f"{name}, /s", values) for name, values in rates.items()),
        Figure("over without it", ratios(rates["beside it"], rates["without it"])),
        Figure("claim, ms", claims),
        Figure("claim beside held, ms", beside_held),
        Figure("claim beside held over without", ratios(beside_held, without)),
    ]


def _lay_out_backlog(own: Site, count: int) -> None:
    for _ in range(count // BATCH):
        own.lay_out(["v0"] * BATCH)
    own.settle()


@contextmanager
def _dead_url() -> Iterator[str]:
    """The URL of a port that refuses connections, and stays reserved."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


def _claims_without(bench: Bench, urls: Sequence[str]) -> list[float]:
    """How long claims take without the dead destination, in milliseconds."""
    with site(bench) as other:
        for url in urls:
            other.subscribe(url)
        other.lay_out(["v0"] * WARM_UP)
        other.settle()
        return [_claim_ms(other) for _ in range(CLAIMS)]


def _claims_beside_held(own: Site) -> list[float]:
    """How long claims take while the backlog is held because its webhook is paused, in milliseconds."""
    with Session(own.engine) as session:
        dead_id = session.scalars(select(Webhook.id).order_by(Webhook.id).limit(1)).one()
        session.get_one(Webhook, dead_id).active = False
        session.commit()
        more_to_hold = True
        while more_to_hold:
            taken, changes = claim(session, MIN_CLAIM)
            release(session, [Released(each) for each in taken])
            session.commit()
            more_to_hold = changes.more_due
    own.settle()
    claims = [_claim_ms(own) for _ in range(CLAIMS)]
    with Session(own.engine) as session:
        session.get_one(Webhook, dead_id).active = True
        session.commit()
        while expire_overdue(session, MIN_CLAIM).more_due:
            session.commit()
        session.commit()
    own.settle()
    return claims


def _claim_ms(own: Site) -> float:
    """How long a claim takes, in milliseconds; it is rolled back."""
    with Session(own.engine) as session:
        session.connection()
        began = perf_counter()
        claim(session, MIN_CLAIM)
        taken = (perf_counter() - began) * 1000
        session.rollback()
    return taken


ROW = Row(
    "dead-backlog",
    "deliveries/s to 16 destinations while 100,000 are due to a dead one, over the same without; how long a claim of "
    "64 takes with it, and how long while the 100,000 are held, over the same without",
    measure,
    (
        Goal("over without it", 0.9, 1.0),
        Goal("claim, ms", 10, 3, at_most=True),
        Goal("claim beside held over without", 1.2, 1.0, at_most=True),
    ),
    limited_by="leasing and reading the 64 deliveries, which takes two thirds of a claim, while finding the "
    "destinations takes an eighth",
)
