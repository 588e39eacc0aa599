"""What hostile owners and receivers cannot find out, and cannot use up."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import uuid
from typing import Any

import pytest
from sqlalchemy import event, func, select

from flask_hubhooks import ImagePush
from flask_hubhooks.records.filters import PATTERN_LIMIT, PATTERNS_LIMIT, Filter, check_tag_pattern
from flask_hubhooks.records.models import Attempt, Delivery, Push

from ..support.host import Host
from ..support.marks import URL, MakeHost, on_sqlite
from ..support.receivers import Receiver

WEBHOOKS, TAGS, REGISTRIES = 50, 500, 2


# Scanning


def told(host: Host, webhook: dict[str, Any], port: int) -> str:
    """Return everything the API shows of a webhook, without what differs between runs."""
    shown = [host.api("GET", f"acme/app/webhooks/{webhook['id']}/").text]
    shown += [json.dumps(each) + json.dumps(host.details(webhook, each)) for each in host.history(webhook)]
    text = "\n".join(shown).replace(str(port), "PORT").replace(webhook["name"], "NAME").replace(webhook["slug"], "SLUG")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r'"(?:id|duration_ms|webhook-timestamp|pushed_at)": ?\d+', "NUMBER", text)
    text = re.sub(r'\["webhook-timestamp", "\d+"\]', "TIMESTAMP", text)
    text = re.sub(r'\\"pushed_at\\":\d+', "TIME", text)
    return re.sub(r"v1,[\w+/=]+|sha256=[0-9a-f]+", "SIGNATURE", text)


@pytest.mark.parametrize("kind", ["test", "push"])
@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
@on_sqlite
def test_an_open_port_looks_like_a_closed_one(make_host: MakeHost, kind: str, address: str) -> None:
    """For a forbidden address the API shows the same whether its port is open or closed."""
    host, strict = make_host(), make_host(config={"HUBHOOKS_ALLOWED_NETWORKS": []})  # what was allowed when saved
    said = []
    with Receiver() as receiver, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: closed, and nobody else's
        for name, port in (("open", receiver.port), ("closed", unused.getsockname()[1])):
            webhook = host.create(f"http://{address}:{port}/hook", name=name)
            if kind == "test":
                assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/test/").status_code == 202
            else:
                host.push()
            strict.deliver()
            said.append(told(host, webhook, port))
            host.api("PATCH", f"acme/app/webhooks/{webhook['id']}/", json={"active": False})
        assert receiver.connections == 0
    assert said[0] == said[1]
    assert ("is not public (loopback)" in said[0]) != ("is the worker's own machine" in said[0])
    assert '"connect_ms": null' in said[0]


# Using up


@on_sqlite
def test_bodies_are_capped_before_they_are_read(served: Host) -> None:
    """Every route refuses a body that declares too large a size at once, however little was sent."""
    webhook = served.create(URL)
    host, port = "127.0.0.1", int(served.state.config.external_url.rpartition(":")[2])
    one = f"/v2/repositories/acme/app/webhooks/{webhook['id']}/"
    token = served.state.tokens.make(uuid.UUID(int=1), 1)
    paths = [("POST", "/v2/repositories/acme/app/webhooks/"), ("PATCH", one), ("POST", f"{one}rotate-secret/")]
    paths += [("POST", f"{one}test/"), ("POST", f"{one}recover/"), ("POST", f"/u/acme/app/hook/{token}/")]
    for method, path in paths:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-User: alice\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, port), timeout=10) as client:
            client.sendall(f"{head}Content-Length: {10**12}\r\n\r\n{{".encode())
            assert client.recv(20).startswith(b"HTTP/1.1 413"), path


@on_sqlite
def test_json_depth(host: Host) -> None:
    """JSON of up to 16 levels is accepted, one level more is refused, and 30,000 levels do no harm."""
    path = "acme/app/webhooks/"

    def answer(body: str) -> tuple[int, str]:
        said = host.api("POST", path, data=body, content_type="application/json")
        return said.status_code, said.get_json()["detail"]

    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for depth, refused in ((15, False), (16, True), (60_000 // len(opening + closing), True)):
            body = '{"name": ' + opening * depth + "1" + closing * depth + "}"
            status, detail = answer(body)
            assert status == 400 and ("levels deep" in detail) is refused, depth
            status, detail = answer('{"name": ' + opening * depth)
            assert status == 400
    assert answer('{"name": ' + "1" * 60_000 + "}")[0] == 400
    assert answer('{"name": 1e999999999}')[0] == 400


@on_sqlite
def test_page_size(make_host: MakeHost) -> None:
    """No page has more than 100 entries, and a far page costs no more than a near one."""
    host = make_host()
    webhook, *_ = (host.create(URL, name=f"{number}") for number in range(5))
    for path in ("acme/app/webhooks/", f"acme/app/webhooks/{webhook['id']}/history/"):
        for size in ("101", "1000000", "9" * 5000, "-1", "0", "3.0", "1e1", " 3", "\u0663", "3&page_size=3000"):
            answer = host.api("GET", f"{path}?page_size={size}")
            assert answer.status_code == (200 if "&" in size else 400), size
            assert len(answer.get_json().get("results", [])) <= 3
    assert len(host.api("GET", "acme/app/webhooks/?page_size=3").get_json()["results"]) == 3
    assert host.api("GET", "acme/app/webhooks/?page=1000000&page_size=3").get_json()["results"] == []


PATTERNS = ["*a" * 63 + "b", "*?" * 63 + "b", "*" * 127 + "b", "*[ab]" * 25 + "c", "a*" * 64, "*" + "a*" * 62 + "b"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_hostile_globs(pattern: str) -> None:
    """No combination of pattern and tag takes long to match."""
    check_tag_pattern(pattern[:PATTERN_LIMIT])
    tag_filter = Filter([pattern[:PATTERN_LIMIT]] * (PATTERNS_LIMIT // 2) + [f"!{pattern[:127]}"] * 10)
    began = time.process_time()
    for tag in ("a" * 128, "ab" * 64, "a" * 127 + "c"):
        tag_filter.matches(tag)
    assert time.process_time() - began < 0.5


@on_sqlite
def test_hostile_globs_in_the_api(host: Host) -> None:
    """Twenty of the worst patterns are tried on all recent tags quickly; more patterns are refused."""
    host.create(URL)
    for number in range(100):
        host.push(tag="a" * 120 + f"{number}")
    query = {"tag_filter": [PATTERNS[number % len(PATTERNS)][:PATTERN_LIMIT] for number in range(PATTERNS_LIMIT)]}
    began = time.process_time()
    answer = host.api("GET", "acme/app/webhooks/matching-tags/", query_string=query)
    assert (answer.status_code, time.process_time() - began < 2) == (200, True)
    assert sum(map(len, answer.get_json().values())) == 100
    query["tag_filter"].append("a")
    assert host.api("GET", "acme/app/webhooks/matching-tags/", query_string=query).status_code == 400


def test_a_storm_of_tags(make_host: MakeHost, database_uri: str) -> None:
    """Five hundred tags pushed at once by several processes to a repository with fifty webhooks are all recorded."""
    host = make_host(config={"HUBHOOKS_MAX_WEBHOOKS": WEBHOOKS})
    if database_uri.startswith("sqlite"):
        with host.app.app_context():
            event.listen(
                host.db.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF")
            )
            host.db.engine.dispose()  # no test pulls the plug
    for number in range(WEBHOOKS):
        host.create(URL, name=f"{number}")
    answer = host.api("POST", "acme/app/webhooks/", json={"name": "one more", "hook_url": URL})
    assert (answer.status_code, list(answer.get_json()["errors"])) == (400, ["name"])

    def push(first: int) -> None:
        with host.app.app_context():
            for number in range(first, TAGS, REGISTRIES):
                host.hubhooks.push(ImagePush("acme/app", f"tag-{number}"))

    threads = [threading.Thread(target=push, args=(first,)) for first in range(REGISTRIES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with host.writing() as session:
        of_each = select(Push.tag, func.count(func.distinct(Delivery.webhook_id)), func.count(Delivery.id))
        rows = session.execute(of_each.join(Delivery, Delivery.push_id == Push.id).group_by(Push.tag)).all()
    assert {row.tag for row in rows} == {f"tag-{number}" for number in range(TAGS)}
    assert {(row[1], row[2]) for row in rows} == {(WEBHOOKS, WEBHOOKS)}
    assert host.count(Attempt) == 0
