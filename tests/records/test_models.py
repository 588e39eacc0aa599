"""The tables in both databases."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from time import time_ns
from typing import Any

import pytest
from sqlalchemy import BigInteger, String, Uuid, insert, inspect, select, text, update

from flask_hubhooks.dialects import now_plus, time_ordered_uuid, utcnow
from flask_hubhooks.records.models import Push, attempts, copy_tables, deliveries, hooks, pushes, webhooks
from flask_hubhooks.registry import Repository
from flask_hubhooks.transport.hook_url import canonical_origin
from flask_hubhooks.worker.claims import claim

from ..support.host import Host

URL = "https://ci.example.com/"
EAST = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("name", "columns", "holding"),
    [
        ("ix_hubhooks_delivery_due", ["repository_key", "next_attempt_at"], "next_attempt_at IS NOT NULL"),
        (
            "ix_hubhooks_delivery_hook_due",
            ["repository_key", "hook_id", "next_attempt_at"],
            "next_attempt_at IS NOT NULL",
        ),
        ("ix_hubhooks_delivery_overdue", ["give_up_at"], "give_up_at IS NOT NULL"),
    ],
)
def test_partial_indexes(host: Host, name: str, columns: list[str], holding: str) -> None:
    """The indexes for claims and for the sweep of overdue deliveries hold only the rows that these look for."""
    with host.app.app_context():
        indexes = inspect(host.db.engine).get_indexes("hubhooks_delivery")
        index = next(each for each in indexes if each["name"] == name)
    condition = index["dialect_options"].get("postgresql_where", index["dialect_options"].get("sqlite_where"))
    assert index["column_names"] == columns
    assert str(condition).strip("()") == holding


def test_claims_use_their_index(host: Host) -> None:
    """The statement that claims due deliveries is answered from the partial index."""
    statements: list[tuple[str, Any]] = []
    with host.app.app_context(), host.state.writing() as session:
        with host.listening(lambda statement, parameters, _: statements.append((statement, parameters))):
            claim(session, 10)
        connection = session.connection()
        claiming, values = statements[0]
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # the table is empty
            plan = connection.exec_driver_sql(f"EXPLAIN {claiming}", values).all()
        else:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {claiming}", values).all()
    assert "ix_hubhooks_delivery_due" in str(plan)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 2, 28, 23, 59, 59, 123456, timezone.utc),
        datetime(2026, 3, 1, 5, 29, 59, 123456, EAST),
        datetime(1969, 12, 31, tzinfo=timezone.utc),
    ],
)
def test_times_round_trip(host: Host, moment: datetime) -> None:
    """A time comes back as the same moment to the microsecond, aware and in UTC, whatever its zone was."""
    with host.app.app_context():
        host.db.session.add(a_push(pushed_at=moment))
        host.db.session.commit()
        host.db.session.expire_all()
        read = host.db.session.scalars(select(Push)).one().pushed_at
    assert read == moment
    assert read.tzinfo == timezone.utc


def test_the_database_clock(host: Host) -> None:
    """The database's clock agrees with Python's, adds seconds and fractions, compares and orders."""
    with host.app.app_context():
        for seconds in (-90000.0, 0.0, 1.25):
            values = dict(a_row(), pushed_at=now_plus(seconds))
            host.db.session.execute(insert(pushes).values(values))
        read = host.db.session.scalars(select(Push.pushed_at).order_by(Push.pushed_at)).all()
        earlier = host.db.session.scalars(select(Push.id).where(Push.pushed_at <= now_plus(0.0))).all()
    past, present, future = read
    assert abs(present - utcnow()) < timedelta(seconds=30)
    assert timedelta(hours=24) < present - past < timedelta(hours=26)
    assert timedelta(seconds=1) < future - present < timedelta(seconds=30)
    assert len(earlier) == 2


def test_ids_are_ordered_by_time() -> None:
    """Ids are unique version 7 UUIDs: they sort by the millisecond in which they were made."""
    before = time_ns() // 1_000_000
    ids = [time_ordered_uuid() for _ in range(2000)]
    after = time_ns() // 1_000_000
    milliseconds = [each.int >> 80 for each in ids]
    assert milliseconds == sorted(milliseconds)
    assert before <= milliseconds[0] <= milliseconds[-1] <= after
    assert {each.version for each in ids} == {7}
    assert {each.variant for each in ids} == {"specified in RFC 4122"}
    assert len(set(ids)) == len(ids)


def test_tables_are_copied_once(host: Host) -> None:
    """Copying the tables again leaves existing ones as they are."""
    before = dict(host.db.metadata.tables)
    copy_tables(host.db.metadata)
    assert dict(host.db.metadata.tables) == before
    assert len(before) == 6
    assert all(name.startswith("hubhooks_") for name in before)


@pytest.mark.parametrize(
    ("hook_url", "expected"),
    [
        ("http://example.com/a?b", "http://example.com:80"),
        ("https://Example.COM/a", "https://example.com:443"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("http://[2001:DB8::1]/a", "http://[2001:db8::1]:80"),
    ],
)
def test_destination(hook_url: str, expected: str) -> None:
    """A destination is scheme, host and port, spelled in one way."""
    assert canonical_origin(hook_url) == expected


def a_row() -> dict[str, object]:
    texts = {name: "" for name in ("tag", "digest", "media_type", "pusher")}
    return {"repository": "acme/app", "pushed_at": utcnow(), "snapshot": Repository().snapshot(), **texts}


def a_push(**values: object) -> Push:
    return Push(**(a_row() | values))


def test_ids_beyond_32_bits(host: Host) -> None:
    """Ids above 32 bits are assigned, referred to, paged through and found."""
    host.create(f"{URL}old", name="old")
    host.push()
    first = 2**40
    with host.writing() as session:
        for table in (webhooks, hooks, pushes):
            if session.connection().dialect.name == "postgresql":
                session.execute(text(f"ALTER SEQUENCE {table.name}_id_seq RESTART WITH {first}"))
            else:
                session.execute(update(table).values(id=first - 1))  # SQLite goes on from the largest
    webhook = host.create(URL)
    assert [webhook["id"], webhook["hooks"][0]["id"]] == [first, first]
    for tag in ("v1", "v2"):
        host.push(tag=tag)
    path = f"acme/app/webhooks/{first}/"
    page = host.api("GET", f"{path}history/?page_size=1").get_json()
    assert page["results"][0]["push"]["tag"] == "v2"
    older = host.client.get(page["next"].partition(".com")[2], headers={"X-User": "alice"}).get_json()
    assert older["results"][0]["push"]["tag"] == "v1"
    assert host.api("GET", f"{path}history/{older['results'][0]['id']}/").status_code == 200
    assert host.api("PATCH", path, json={"hooks": [{"id": first, "hook_url": f"{URL}new"}]}).status_code == 200
    assert host.api("DELETE", path).status_code == 204, "its own id marks it as deleted"


@pytest.mark.parametrize("database_uri", ["postgresql"], indirect=True)
def test_keys_are_64_bit(host: Host) -> None:
    """Every key that grows, and every column that refers to one, is a BIGINT in PostgreSQL."""
    with host.app.app_context():
        found = inspect(host.db.engine)
        for table in (webhooks, hooks, pushes, deliveries, attempts):
            types = {each["name"]: each["type"] for each in found.get_columns(table.name)}
            ids = {name: type_ for name, type_ in types.items() if name == "id" or name.endswith("_id")}
            assert all(isinstance(each, BigInteger | Uuid | String) for each in ids.values()), (table.name, ids)
