"""Where the host's repository loader runs: in the visitor's request, or in one that is made for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import has_request_context, request, session, url_for

from flask_hubhooks import ImagePush, Repository

from .support.host import Host, kept, things
from .support.marks import URL, MakeHost, on_sqlite
from .support.receivers import Receiver

pytestmark = pytest.mark.own_host
PUSH = ImagePush("acme/app", "latest")


def watch(host: Host) -> list[str]:
    """The host's functions around a request that are called; the one at its end undoes what is not committed."""
    called: list[str] = []

    @host.app.before_request
    def before() -> None:
        called.append("before")

    @host.app.teardown_request
    def teardown(_: object) -> None:
        called.append("teardown")
        host.db.session.rollback()

    @host.app.get("/own/<path:name>")
    def own(name: str) -> str:
        host.hubhooks.push(PUSH)
        host.db.session.commit()
        return name

    return called


@pytest.mark.parametrize("join_session", [False, True])
def test_urls_without_a_request(make_host: MakeHost, join_session: bool) -> None:
    """Outside of a request a loader can make external URLs, and what is the host's stays as it is.

    No function of the host's around a request is called, and `db.session` is what it is without our request: with
    join_session the host's own, with its savepoint and what it has pending.
    """
    external = "https://registry.example.com/below/hooks"
    config = {"HUBHOOKS_EXTERNAL_URL": external}
    host = make_host(join_session=join_session, url_prefix="/hooks/", config=config)
    called, thing, seen = watch(host), things(host), []

    with Receiver() as receiver:
        wanted: Any = {"name": "a", "hook_url": receiver.url}
        made = host.client.post("/hooks/v2/repositories/acme/app/webhooks/", json=wanted, headers={"X-User": "alice"})
        assert made.status_code == 201
        called.clear()

        @host.hubhooks.repository_loader
        def load(name: str) -> Repository:
            pending = [each.name for each in host.db.session.query(thing)]
            seen.append((host.db.session(), host.db.session().in_nested_transaction(), pending, dict(session)))
            if join_session:
                host.db.session.add(thing(name="by the loader"))
                host.db.session.flush()
            return Repository(repo_url=url_for("own", name=name, _external=True))

        with host.app.app_context():
            host.db.session.add(thing(name="pending"))
            own_session = host.db.session()
            host.hubhooks.push(PUSH)
            assert not has_request_context()
            assert host.db.session() is own_session
            host.db.session.commit()
        host.deliver()
    assert called == []
    ((loaders_session, nested, pending, visitors),) = seen
    assert (loaders_session is own_session, nested, pending, visitors) == (
        (True, True, ["pending"], {}) if join_session else (False, False, [], {})
    )
    assert kept(host, thing) == (["by the loader", "pending"] if join_session else ["pending"])
    payload = json.loads(receiver.requests[0].body)
    assert payload["repository"]["repo_url"] == "https://registry.example.com/below/own/acme/app"


@on_sqlite
@pytest.mark.parametrize("join_session", [False, True])
def test_urls_within_a_request(make_host: MakeHost, join_session: bool) -> None:
    """Within a request a loader runs in that request, and its end is the host's."""
    host, seen = make_host(join_session=join_session), []
    called = watch(host)

    @host.hubhooks.repository_loader
    def load(name: str) -> Repository:
        seen.append((request.path, url_for("own", name=name, _external=True)))
        return Repository()

    webhook = host.create(URL)
    called.clear()
    seen.clear()
    host.client.get("/own/acme/app", base_url="http://internal:8000")
    assert seen == [("/own/acme/app", "http://internal:8000/own/acme/app")]
    assert called == ["before", "teardown"]
    assert host.states(webhook) == ["pending"]


@on_sqlite
def test_orphans_have_no_visitor(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """`orphans` calls the loader without a request: one that needs a visitor fails, and does not deny. URLs work."""
    watch(host)
    host.create(URL), host.create(URL, repository="acme/old")

    @host.hubhooks.repository_loader
    def load(name: str) -> Repository | None:
        assert url_for("own", name=name, _external=True) == f"https://registry.example.com/own/{name}"
        return Repository() if name == "acme/app" or request.headers.get("X-User") else None

    result = host.app.test_cli_runner().invoke(args=["hubhooks", "orphans"])
    assert (result.exit_code, result.stdout) == (0, "")
    (record,) = caplog.records
    assert "the repository_loader failed for 'acme/old'" in record.getMessage()
    assert "Working outside of request context" in caplog.text
