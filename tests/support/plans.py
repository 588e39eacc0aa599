"""PostgreSQL's plans of the statements that our code executes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from .host import Host


def analyze(host: Host) -> None:
    """Have PostgreSQL analyze the tables, as it does by itself from time to time."""
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(text("ANALYZE"))


@contextmanager
def explained(host: Host) -> Iterator[tuple[Session, list[dict[str, Any]]]]:
    """A session, and every node of the plans of what it executes, with the rows that were read."""
    plans: list[dict[str, Any]] = []

    def explain(statement: str, parameters: Any, cursor: Any) -> None:
        if not statement.startswith("SAVEPOINT"):
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plans.extend(_nodes(cursor.fetchone()[0][0]["Plan"]))
            cursor.execute("ROLLBACK TO SAVEPOINT before; SAVEPOINT before")

    with host.listening(explain), host.writing() as session:
        session.execute(text("SAVEPOINT before"))
        yield session, plans


def check_flat(plans: list[dict[str, Any]]) -> None:
    """Fail if one of these nodes scans all deliveries, or a whole backlog."""
    for each in plans:
        assert not (each["Node Type"] == "Seq Scan" and each["Relation Name"] == "hubhooks_delivery")
        assert each["Actual Rows"] * each["Actual Loops"] < 100, str(each)
        assert each.get("Rows Removed by Filter", 0) * each["Actual Loops"] < 100, str(each)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan and everything below it."""
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)
