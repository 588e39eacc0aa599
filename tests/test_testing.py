"""What hosts use in their own tests, from a host's view: no Redis, no thread, receivers in the test's process."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from flask import Flask, Response, g, request
from flask.testing import FlaskClient

from flask_hubhooks.crypto.signing import new_secret
from flask_hubhooks.signals import chain_finished, delivery_finished, image_pushed
from flask_hubhooks.testing import Answer, Deliveries, Request

from .support import receivers
from .support.host import Host
from .support.marks import on_sqlite

pytest_plugins = ["flask_hubhooks.testing", "pytester"]

WEBHOOKS = "/v2/repositories/acme/app/webhooks/"
CI, DEPLOY, CHAT = (f"https://{name}.example.com/hook" for name in ("ci", "deploy", "chat"))
NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def database_uri(request: pytest.FixtureRequest) -> str:
    """Each database in turn; the one in memory has a single connection, which the host and we share."""
    return "sqlite://" if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_uri"))


@pytest.fixture
def redis_url() -> str:
    return NO_REDIS


@pytest.fixture
def host(make_host: Callable[..., Host], database_uri: str) -> Host:
    host = make_host(join_session=database_uri == "sqlite://")
    host.hubhooks.authorizer(lambda action, repository: "alice")
    return host


@pytest.fixture
def app(host: Host) -> Flask:
    return host.app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged as a warning or worse, of Redis least of all."""
    yield
    logged = [*caplog.get_records("setup"), *caplog.get_records("call")]
    assert not [each.getMessage() for each in logged if each.levelno >= logging.WARNING]


def push(app: Flask, tag: str = "latest") -> None:
    with app.app_context():
        image_pushed.send(app, repository="acme/app", tag=tag)
        app.extensions["sqlalchemy"].session.commit()


def create(client: FlaskClient, *urls: str, **more: Any) -> dict[str, Any]:
    answer = client.post(WEBHOOKS, json={"name": "ci", "hooks": [{"hook_url": url} for url in urls]} | more)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def history(client: FlaskClient, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    return list(client.get(f"{WEBHOOKS}{webhook['id']}/history/").get_json()["results"])


def states(client: FlaskClient, webhook: dict[str, Any]) -> list[str]:
    return [each["state"] for each in history(client, webhook)]


# Delivered in the test's thread


@pytest.mark.usefixtures("quiet")
def test_a_chain_step_by_step(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """A push is delivered, verified and called back, hook after hook, where there is no Redis at all."""
    ci, deploy = hubhooks.receiver(CI), hubhooks.receiver(DEPLOY)
    webhook = create(client, CI, DEPLOY)
    push(app)
    assert hubhooks.deliver_now() == 1
    assert ci.payloads[0]["push_data"]["tag"] == "latest"
    ci.verify(webhook["secret"])
    assert not deploy.requests
    answer = ci.call_back("success", description="387 tests PASSED")
    assert (answer.status_code, answer.get_json()["state"]) == (200, "success")
    assert hubhooks.deliver_now() == 1
    assert deploy.call_back().status_code == 200
    assert hubhooks.deliver_now() == 0
    first, second = history(client, webhook)
    assert (first["state"], second["state"]) == ("succeeded", "succeeded")
    assert first["callback"]["description"] == "387 tests PASSED"


@pytest.mark.usefixtures("quiet")
def test_callbacks_before_the_answers(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """A chain of three whose receivers call back while they are called goes through in one delivery, in order."""
    chain = [hubhooks.receiver(url, calls_back="success") for url in (CI, DEPLOY, CHAT)]
    webhook = create(client, CI, DEPLOY, CHAT)
    push(app)
    assert hubhooks.deliver_now() == 3
    assert states(client, webhook) == ["succeeded"] * 3
    assert [[answer.status_code for answer in each.callbacks] for each in chain] == [[200]] * 3
    assert [each["attempt_count"] for each in history(client, webhook)] == [1, 1, 1]


@pytest.mark.usefixtures("quiet")
def test_interrupted_by_a_callback(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """A receiver may call back with a failure, and what it does can be changed from push to push."""
    ci, deploy = hubhooks.receiver(CI, calls_back="failure"), hubhooks.receiver(DEPLOY)
    webhook = create(client, CI, DEPLOY)
    push(app, "v1")
    assert hubhooks.deliver_now() == 1
    ci.calls_back = "success"
    push(app, "v2")
    assert hubhooks.deliver_now() == 2
    assert states(client, webhook) == ["succeeded", "awaiting_callback", "failed", "skipped"]
    assert [each["push_data"]["tag"] for each in deploy.payloads] == ["v2"]


@pytest.mark.usefixtures("quiet")
def test_a_retry(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """After a 500 nothing is due, until the test lets the time of the retry come; the id stays the same."""
    ci = hubhooks.receiver(CI, 500, Answer(201, b"thanks", {"X-Build": "7"}))
    webhook = create(client, CI)
    push(app)
    assert hubhooks.deliver_now() == 1
    assert hubhooks.deliver_now() == 0
    assert states(client, webhook) == ["pending"]
    hubhooks.make_due()
    assert hubhooks.deliver_now() == 1
    assert states(client, webhook) == ["succeeded"]
    assert len({each.headers["webhook-id"] for each in ci.requests}) == 1
    [delivery] = history(client, webhook)
    details = client.get(f"{WEBHOOKS}{webhook['id']}/history/{delivery['id']}/").get_json()
    assert [each["status_code"] for each in details["attempts"]] == [500, 201]
    assert details["attempts"][1]["response"]["body"] == "thanks"
    assert details["attempts"][1]["response"]["headers"] == [["X-Build", "7"]]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_app_contexts(app: Flask, client: FlaskClient, hubhooks: Deliveries, inside: bool) -> None:
    """It works outside and inside of an app context, whose `g` the app's own code never sees."""
    seen: list[bool] = []

    @app.before_request
    def note(*_: object, **__: object) -> None:
        seen.append("mine" in g)

    ci = hubhooks.receiver(CI, calls_back="success")
    create(client, CI, expect_final_callback=True)
    push(app)
    with app.app_context() if inside else nullcontext(), delivery_finished.connected_to(note, app):
        if inside:
            g.mine = True
        assert hubhooks.deliver_now() == 1
        assert ci.call_back().status_code == 200
        hubhooks.make_due()
    assert seen == [False] * 4  # creating, calling back, hearing of it, calling back again


@pytest.mark.usefixtures("quiet")
def test_signals(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """The host's own listeners hear what has finished, as in a worker."""
    heard: list[str] = []

    def finished(sender: Flask, **details: Any) -> None:
        heard.extend(details)

    hubhooks.receiver(CI, 301)
    create(client, CI)
    push(app)
    with delivery_finished.connected_to(finished, app), chain_finished.connected_to(finished, app):
        hubhooks.deliver_now()
    assert heard == ["delivery", "deliveries"]


def test_no_threads(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """No thread is started: receivers and callbacks run in the test's."""
    before = threading.enumerate()
    during: list[list[threading.Thread]] = []
    ran_in: list[threading.Thread] = []

    @app.before_request
    def note() -> None:
        during.append(threading.enumerate())
        ran_in.append(threading.current_thread())

    hubhooks.receiver(CI, calls_back="success")
    create(client, CI)
    for tag in ("v1", "v2", "v3"):
        push(app, tag)
    assert hubhooks.deliver_now() == 3
    assert during == [before] * 4
    assert set(ran_in) == {threading.current_thread()}
    assert threading.enumerate() == before


# What a receiver got


def test_what_is_recorded(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """A request is recorded as a real receiver gets it, and its headers are found whatever their case."""
    with receivers.Receiver() as real:
        create(client, CI, expect_final_callback=False)
        create(client, real.url, name="real")
        ci = hubhooks.receiver(CI)
        push(app)
        hubhooks.deliver_now()
    got = ci.last
    assert (got.method, got.url, got.payload) == ("POST", CI, json.loads(got.body))
    assert got.headers["content-type"] == got.headers["Content-Type"] == "application/json"
    assert (got.headers["Host"], int(got.headers["Content-Length"])) == ("ci.example.com", len(got.body))
    expected = set(real.requests[0].headers) - {"accept-encoding"}  # which the real transport always adds
    assert {name.lower() for name in got.headers} == expected


def test_nothing_came(hubhooks: Deliveries) -> None:
    """What needs a request says that none came."""
    ci = hubhooks.receiver(CI)
    assert (ci.payloads, hubhooks.deliver_now()) == ([], 0)
    for needs_one in (lambda: ci.last, lambda: ci.verify(new_secret()), ci.call_back):
        with pytest.raises(AssertionError, match=f"no request came to {CI}"):
            needs_one()


@on_sqlite
def test_signatures(app: Flask, client: FlaskClient, hubhooks: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good signature passes here and with Standard Webhooks' own library; each way of being bad is told apart."""
    ci = hubhooks.receiver(CI)
    secret = create(client, CI)["secret"]
    push(app)
    hubhooks.deliver_now()
    good = ci.last
    good.verify(secret)
    standardwebhooks.Webhook(secret).verify(good.body, dict(good.headers))

    def but(**changed: Any) -> Request:
        headers = {**good.headers, **changed.pop("headers", {})}
        return Request(**{"method": "POST", "url": CI, "headers": headers, "body": good.body} | changed)

    several = but(headers={"webhook-signature": f"v1,AAAA {good.headers['webhook-signature']}"})
    several.verify(secret)
    with pytest.raises(AssertionError, match="with another secret, or changed since"):
        ci.verify(new_secret())
    with pytest.raises(AssertionError, match="with another secret, or changed since"):
        but(body=good.body + b" ").verify(secret)
    with pytest.raises(AssertionError, match="with another secret, or changed since"):
        but(headers={"webhook-id": "another"}).verify(secret)
    with pytest.raises(AssertionError, match="is not signed"):
        but(headers={"webhook-timestamp": ""}).verify(secret)
    later = time.time() + 301
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(AssertionError, match=r"signed 30\d s ago, not within 300"):
        ci.verify(secret)
    ci.verify(secret, tolerance_s=1000)


@on_sqlite
def test_a_fault_of_the_host(app: Flask, client: FlaskClient, hubhooks: Deliveries) -> None:
    """What the app raises while a receiver calls back fails the test, and the next delivery is not hindered."""
    app.testing = True
    broken = [True]

    @app.before_request
    def stumble() -> Response | None:
        if request.path.startswith("/u/") and broken:
            raise LookupError("the host's own fault")
        return None

    hubhooks.receiver(CI, calls_back="success")
    webhook = create(client, CI)
    push(app)
    with pytest.raises(LookupError, match="the host's own fault"):
        hubhooks.deliver_now()
    broken.clear()
    hubhooks.make_due()
    assert hubhooks.deliver_now() == 1
    assert states(client, webhook) == ["succeeded"]


@on_sqlite
def test_a_test_that_is_broken_off(
    app: Flask, client: FlaskClient, hubhooks: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends a test in the middle of a delivery passes through, and leaves nothing that would hang."""
    ci = hubhooks.receiver(CI)
    create(client, CI)
    push(app)
    with monkeypatch.context() as patches:
        patches.setattr(ci, "answer", lambda request: pytest.fail("broken off"))
        with pytest.raises(pytest.fail.Exception, match="broken off"):
            hubhooks.deliver_now()
    assert hubhooks.deliver_now() == 0


# Over the network


@on_sqlite
def test_other_urls(app: Flask, client: FlaskClient, hubhooks: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL without a receiver in this process is called over the network, as far as the app's config lets it."""
    private = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 9))]
    names = {"ci.example.com": lambda *_, **__: private}
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_, **__: names.get(name, look_up)(name, *_, **__))
    with receivers.Receiver() as real:
        allowed, refused = create(client, real.url), create(client, "http://ci.example.com:9/hook", name="refused")
        push(app)
        assert hubhooks.deliver_now() == 2
        assert len(real.requests) == 1
    assert (states(client, allowed), states(client, refused)) == (["succeeded"], ["failed"])
    assert "is not public" in history(client, refused)[0]["reason"]


# Before and after


@on_sqlite
def test_restored(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Afterwards the app wakes workers again, with the very client that it had before."""
    create(host.client, CI)
    with Deliveries(host.app):
        push(host.app)
    assert "redis" not in vars(host.state)
    assert not caplog.records
    push(host.app)
    assert "no worker was woken, Redis cannot be reached" in caplog.text
    client = host.state.redis
    with Deliveries(host.app):
        assert host.state.redis is not client
    assert host.state.redis is client


def test_not_registered() -> None:
    """For an app without the extension the cause is said."""
    with pytest.raises(RuntimeError, match=r"app\.register_blueprint\(hubhooks\)"):
        Deliveries(Flask("host"))


CONFTEST = """
import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_hubhooks import HubHooks
from flask_hubhooks.testing import Answer

pytest_plugins = ["flask_hubhooks.testing"]

@pytest.fixture(scope="session")
def app(tmp_path_factory):
    db = SQLAlchemy()
    hubhooks = HubHooks(db)
    hubhooks.authorizer(lambda action, repository: "alice")
    app = Flask("host")
    app.config.update(
        TESTING=True,
        SECRET_KEY="a test's secret key",
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path_factory.mktemp('host') / 'host.db'}",
        HUBHOOKS_EXTERNAL_URL="https://registry.example.com",
        HUBHOOKS_REDIS_URL="redis://127.0.0.1:1/0",
    )
    db.init_app(app)
    app.register_blueprint(hubhooks)
    with app.app_context():
        db.create_all()
        yield app
        db.engine.dispose()

@pytest.fixture
def client(app):
    return app.test_client()
"""
AFTERWARDS = """

def test_afterwards(app, caplog):
    image_pushed.send(app, repository="acme/app", tag="latest")
    assert "no worker was woken" in caplog.text
"""


def test_the_documented_example(pytester: pytest.Pytester) -> None:
    """The example in `docs/testing.md` passes as it stands, in a host's own suite; after it the app is as before."""
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text("utf-8")
    found = re.search(r"```python\n(from flask_hubhooks.*?)```", page, re.DOTALL)
    assert found
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(found[1] + AFTERWARDS)
    result = pytester.runpytest_inprocess("-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
