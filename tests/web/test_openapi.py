"""The OpenAPI document is valid, complete and correct."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from flask import Response, abort, request
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema
from schemathesis.generation.meta import TestPhase
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from flask_hubhooks.records.models import Delivery
from flask_hubhooks.state import State

from ..support.host import Host, api_rules
from ..support.marks import TOKENS, WITH_SOURCES, MakeHost, on_sqlite
from ..support.receivers import Receiver

Seen = set[tuple[str, str, str]]
"""Path, method and status of what was answered."""

DOCUMENT = "/hubhooks/openapi.json"
URL = "https://ci.example.com/hook?token=t0ken"
CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
}
FOREVER = {"since": "2000-01-01T00:00:00Z"}


def document(host: Host) -> dict[str, Any]:
    answer = host.client.get(DOCUMENT)
    assert answer.status_code == 200
    return dict(answer.get_json())


def path_of(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def resolved(content: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference points to."""
    for name in content.get("$ref", "#").split("/")[1:]:
        document = document[name]
    return document if "$ref" in content else content


# The document itself


@on_sqlite
def test_valid(host: Host) -> None:
    """The document is valid OpenAPI 3.1, and public, with and without a final slash."""
    schemathesis.openapi.from_dict(document(host)).validate()
    for path in (DOCUMENT, f"{DOCUMENT}/"):
        answer = host.client.get(path)
        assert (answer.status_code, answer.content_type) == (200, "application/json")
        assert answer.headers["Cache-Control"] == "no-store"
    answer = host.client.post(DOCUMENT)
    assert (answer.status_code, answer.content_type) == (405, "application/problem+json")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


@on_sqlite
def test_every_route(host: Host) -> None:
    """The document has every route of the blueprint with its methods, and no others."""
    paths = document(host)["paths"]
    rules = {path_of(rule.rule): rule for rule in api_rules(host.app)}
    assert set(paths) == set(rules)
    for path, rule in rules.items():
        ids = {"webhook_id": 1, "hook_id": 1, "delivery_id": uuid.UUID(int=0)}
        with host.app.test_request_context():
            names = {"repository": "acme/app", "namespace": "acme", "token": "t", "source": "zot"}
            _, url = rule.build(names | ids, append_unknown=False) or ("", "")
        allowed = set(host.client.options(url).headers["Allow"].lower().split(", "))
        assert {*paths[path], "options"} - {"parameters"} == allowed - {"head"}


@on_sqlite
def test_every_scope(host: Host) -> None:
    """The operations of namespaces and of the registry are those of repositories, but for their names."""
    paths = document(host)["paths"]
    base = "/v2/repositories/{repository}/webhooks/"
    for path in [each for each in paths if each.startswith(base)]:
        operations = dict(paths[path])
        parameters = operations.pop("parameters")[1:]
        ends = {"/v2/namespaces/{namespace}/webhooks/": "OfNamespace", "/v2/registry/webhooks/": "OfRegistry"}
        for other, end in ends.items():
            same = dict(paths[path.replace(base, other)])
            assert [each for each in same.pop("parameters", []) if each["name"] != "namespace"] == parameters
            renamed = {name: each | {"operationId": each["operationId"] + end} for name, each in operations.items()}
            assert same == renamed


@on_sqlite
def test_words(host: Host) -> None:
    """Every operation has a unique id, a summary and a tag with a description."""
    content = document(host)
    operations = [each for path in content["paths"].values() for method, each in path.items() if method != "parameters"]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names))
    tags = {each["name"] for each in content["tags"]}
    assert all(each["summary"] and set(each["tags"]) <= tags for each in operations)


@on_sqlite
def test_limits_and_servers(make_host: MakeHost) -> None:
    """The limits come from the config, and the server is the external URL, whatever the prefix in the app."""
    config = {"HUBHOOKS_MAX_HOOKS": 3, "HUBHOOKS_EXTERNAL_URL": "https://example.com/hub"}
    host = make_host(url_prefix="/hub", config=config)
    content = host.client.get(f"/hub{DOCUMENT}").get_json()
    assert content["servers"] == [{"url": "https://example.com/hub"}]
    assert DOCUMENT in content["paths"]
    [size] = [
        each["schema"]
        for each in content["paths"]["/v2/repositories/{repository}/webhooks/"]["get"]["parameters"]
        if each["name"] == "page_size"
    ]
    assert (size["default"], size["maximum"]) == (25, 100)
    assert content["components"]["schemas"]["WebhookWanted"]["properties"]["hooks"]["maxItems"] == 3
    listed = host.client.get("/hub/v2/repositories/acme/app/webhooks/", headers={"X-User": "alice"})
    assert listed.status_code == 200


# What is answered


class Checked:
    """An app whose every response is strictly checked against the document."""

    def __init__(self, host: Host) -> None:
        self.document: dict[str, Any] = {}
        self.seen: Seen = set()
        host.app.after_request(self._check)
        self.document = document(host)

    def _check(self, response: Response) -> Response:
        if self.document and request.url_rule is not None and request.method not in ("HEAD", "OPTIONS"):
            path, method, status = path_of(request.url_rule.rule), request.method.lower(), str(response.status_code)
            operations = self.document["paths"][path]
            if method in operations:
                said = operations[method]["responses"][status]
                self.seen.add((path, method, status))
            else:
                said = operations[next(iter(operations.keys() - {"parameters"}))]["responses"][status]
                self.seen.add((path, "", status))
            self._compare(resolved(said, self.document), response)
        return response

    def _compare(self, said: dict[str, Any], response: Response) -> None:
        assert set(said.get("headers", ())) == {
            name
            for name in ("ETag", "Location", "Allow", "Retry-After", "WWW-Authenticate")
            if name in response.headers
        }
        if "content" in said:
            [(kind, content)] = said["content"].items()
            assert response.content_type == kind
            schema = {**content["schema"], "components": self.document["components"]}
            jsonschema_rs.validator_for(schema, validate_formats=True).validate(json.loads(response.data))

    def missing(self) -> Seen:
        """Return the operations without a success, and the statuses that no operation answered with."""
        documented = {
            (path, method, status)
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
            if method != "parameters"
            for status in operation["responses"]
        }
        statuses = {status for _, _, status in self.seen}
        return {each for each in documented - self.seen if each[2].startswith("2") or each[2] not in statuses}


def test_every_answer(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """All responses in a webhook's life match the document in every field; every operation and status occurs.

    Headers are compared both ways, and no schema of an answer lets pass what it does not name.
    """
    config = WITH_SOURCES | {"HUBHOOKS_MAX_SENDS_PER_MINUTE": 4, "TESTING": True}
    host = make_host(config=config, namespaces=False)
    checked = Checked(host)
    _use_webhooks(host)
    _deliver(host)
    _be_refused(host, monkeypatch)
    assert not checked.missing()


def _use_webhooks(host: Host) -> None:
    webhook = host.create(URL, URL, headers={"Authorization": "Bearer x"})
    host.create(name="empty")
    one = f"acme/app/webhooks/{webhook['id']}/"
    tag = host.api("GET", one, user="reader").headers["ETag"]
    host.api("PATCH", one, json={"name": "other", "active": False}, headers={"If-Match": tag})
    host.api("PATCH", one, json={"active": True}, headers={"If-Match": tag})  # 412
    hook = host.api("POST", f"{one}hooks/", json={"hook_url": URL}).get_json()
    host.api("GET", f"{one}hooks/")
    host.api("GET", f"{one}hooks/{hook['id']}/")
    host.api("PATCH", f"{one}hooks/{hook['id']}/", json={"hook_url": "http://b\u00fccher.example/"})
    host.api("DELETE", f"{one}hooks/{hook['id']}/")
    host.api("POST", f"{one}rotate-secret/")
    for query in ("", "?page_size=1", "?page_size=1&page=2", "?page=x"):
        host.api("GET", f"acme/app/webhooks/{query}")
    host.api("DELETE", one)
    host.client.get(DOCUMENT)
    host.client.post("/hubhooks/sources/zot/", json={})  # 401
    host.client.post(
        "/hubhooks/sources/distribution/", json={"events": []}, headers={"Authorization": TOKENS["distribution"]}
    )


def _deliver(host: Host) -> None:
    with Receiver(200, 500) as receiver:
        webhook = host.create(receiver.url, receiver.url, name="chain")
        one = f"acme/app/webhooks/{webhook['id']}/"
        host.api("POST", f"{one}test/", json={"chain": True})
        host.push(digest="sha256:0", pusher="alice")
        host.api("GET", f"{one}history/?page_size=1")
        host.deliver()
        bodies = [each.body for each in receiver.requests]
    [first] = [each["id"] for each in host.history(webhook) if each["state"] == "awaiting_callback"]
    host.api("POST", f"{one}history/{first}/decide/", json={"state": "success"})
    host.call_back(bodies[0], description="387 tests PASSED", context="CI", target_url="https://ci.example.com/7")
    host.call_back(bodies[0], state="failure")  # 409
    host.api("GET", "acme/app/webhooks/matching-tags/?tag_filter=l*")
    host.api("POST", "acme/app/webhooks/preview/", json={"hook_url": URL, "headers": {"X-Key": "k"}})
    deliveries = host.history(webhook)
    older = host.api("GET", f"{one}history/?page_size=2").get_json()["next"]
    host.api("GET", f"{one}history/?{older.partition('?')[2]}")
    for each in deliveries:
        host.details(webhook, each)
    host.api("POST", f"{one}history/{deliveries[-1]['id']}/redeliver/")
    host.api("POST", f"{one}recover/", json=FOREVER)
    host.api("PATCH", one, json={"active": False})
    host.api("POST", f"{one}history/{deliveries[-1]['id']}/redeliver/")  # 409
    for _ in range(5):  # however slow the machine is
        host.api("POST", f"{one}test/")  # 429
    host.set_all(Delivery, status="cancelled", callback_state="")
    host.call_back(bodies[-1])  # 409 or 410
    host.call_back(bodies[1])


def _be_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    every = "acme/app/webhooks/"
    host.api("GET", every, user=None)  # 401
    host.api("POST", every, user="reader", json={"name": "x"})  # 403
    host.api("GET", "acme/missing/webhooks/")  # 404
    host.api("PUT", every)  # 405
    host.api("POST", every, json={"name": "x", "hooks": [{"hook_url": URL}, {"hook_url": "ftp://x"}]})  # 400
    host.api("POST", every, data=b"{}", content_type="text/plain")  # 415
    host.api("POST", every, data=b" " * 70_000, content_type="application/json")  # 413
    host.client.post("/u/acme/app/hook/token/", json={"state": "success"})  # 404

    def away(_: State) -> Any:
        raise OperationalError("SELECT 1", {}, Exception("away"))

    monkeypatch.setattr(State, "reading", away)
    host.api("GET", every)  # 503


# Schemathesis


USER = "alice"
CONFIG: dict[str, Any] = {
    "seed": 1,
    "auth": {"openapi": {"registry": {"api_key": USER}, "source": {"bearer": TOKENS["distribution"]}}},
    "generation": {"deterministic": True, "database": "none", "max-examples": 10},
    "phases": {"stateful": {"max-steps": 6, "generation": {"max-examples": 10}}},
    "checks": {
        # It sends its probes with an option that Schemathesis cannot pass to a WSGI app: see test_sign_in.
        "ignored_auth": {"enabled": False},
        # A body that is too large is refused with 413, whatever else is wrong with it.
        "negative_data_rejection": {
            "expected-statuses": ["400", "401", "403", "404", "405", "409", "412", "413", "415"]
        },
        # An If-Match that is made up is refused with 412, as it must be.
        "positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "409", "412"]},
    },
    "operations": [
        {
            # What they take cannot be told by a schema: names that are free, ids of hooks that are there, URLs with a
            # host, base64 of so many bytes, patterns without an impossible range, cursors that were given out,
            # the webhook's repository.
            "include-operation-id": [
                "createWebhook",
                "previewWebhook",
                "editWebhook",
                "addHook",
                "editHook",
                "rotateSecret",
                "sendTest",
                "matchTags",
                "listDeliveries",
                "postCallback",
                "takeEvents",
            ],
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    ],
}


def authorize(action: str, repository: str) -> str | None:
    """Accept a user who is named in the header that the document describes."""
    if request.headers.get("Authorization") != USER:
        abort(401)
    return USER if repository.startswith("acme/") else None


def not_found(_: Exception) -> Response:
    """The host's own 404, for URLs outside our routes, such as one with an id that is not a number."""
    content = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "No such page."}
    return Response(json.dumps(content), 404, content_type="application/problem+json")


@pytest.fixture
def signed_in(make_host: MakeHost) -> Host:
    """A host app whose clients sign in with the Authorization header."""
    limits = {"HUBHOOKS_MAX_SENDS_PER_MINUTE": 1_000_000, "HUBHOOKS_MAX_WEBHOOKS": 10_000}
    host = make_host(config=WITH_SOURCES | limits, namespaces=False)
    host.hubhooks.authorizer(authorize)
    host.app.register_error_handler(404, not_found)
    with host.app.app_context():
        event.listen(host.db.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    return host


@pytest.fixture
def aimed(signed_in: Host) -> Iterator[None]:
    """Point a path at existing things unless Schemathesis made it wrong on purpose or took it from a response."""
    numbers = count()
    ids: dict[str, Any] = {}

    def before_call(context: object, case: Any, kwargs: object) -> None:
        path = case.meta.components.get(ParameterLocation.PATH) if case.meta else None
        if path and path.mode.is_positive and case.meta.phase.name is not TestPhase.STATEFUL:
            if not ids:
                ids.update(made(signed_in, f"n{next(numbers)}"))
            case.path_parameters.update({name: ids[name] for name in case.path_parameters})

    def after_call(context: object, case: Any, response: Any) -> None:
        if case.method != "GET" and response.status_code < 300:  # what there was may have changed, or be gone
            ids.clear()

    schemathesis.hook(before_call)
    schemathesis.hook(after_call)
    yield
    schemathesis.hooks.unregister(before_call)
    schemathesis.hooks.unregister(after_call)


def made(host: Host, name: str) -> dict[str, Any]:
    """The path parameters of a new webhook with a delivery under way."""

    def post(path: str, content: object) -> dict[str, Any]:
        url = f"/v2/repositories/acme/app/webhooks/{path}"
        return dict(host.client.post(url, json=content, headers={"Authorization": USER}).get_json())

    webhook = post("", {"name": name, "hooks": [{"hook_url": URL}, {"hook_url": URL}]})
    delivery = post(f"{webhook['id']}/test/", {"chain": True})["id"]
    return {
        "repository": "acme/app",
        "webhook_id": webhook["id"],
        "hook_id": webhook["hooks"][0]["id"],
        "delivery_id": delivery,
        "token": host.state.tokens.make(uuid.UUID(delivery), 1),
        "source": "distribution",
    }


@on_sqlite
def test_sign_in(signed_in: Host) -> None:
    """Exactly the operations that declare it require signing in."""
    with signed_in.deliveries:
        ids = made(signed_in, "deploy")
    content = document(signed_in)
    for path, operations in content["paths"].items():
        for method in operations.keys() - {"parameters"}:
            url = path.format_map(ids)
            status = signed_in.client.open(url, method=method, json={"state": "success"}).status_code
            assert bool(operations[method]["security"]) is (status == 401), f"{method} {path}"


@on_sqlite
@pytest.mark.usefixtures("aimed")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of Hypothesis' own, for what it had generated
@pytest.mark.no_cover  # tracing takes more than half of the time, and adds nothing that other tests do not cover
def test_schemathesis(signed_in: Host) -> None:
    """No request that Schemathesis generates from the document gets an undocumented response."""
    config = SchemathesisConfig.from_dict(CONFIG)
    schema = schemathesis.openapi.from_wsgi(DOCUMENT, signed_in.app, config=config)
    with signed_in.deliveries:
        happened = list(from_schema(schema).execute())
    faults = [str(each.value) for each in happened if isinstance(each, events.NonFatalError)]
    scenarios = [each.recorder for each in happened if isinstance(each, events.ScenarioFinished)]
    checks = [check for each in scenarios for checks in each.checks.values() for check in checks]
    failures = [_told(each.failure_info) for each in checks if each.failure_info]
    answers = [each.response for scenario in scenarios for each in scenario.interactions.values() if each.response]
    print(f"{len(answers)} answers:", dict(Counter(each.status_code for each in answers)))
    print(f"{len(checks)} checks:", dict(Counter(each.name for each in checks)))
    assert isinstance(happened[-1], events.EngineFinished)
    assert {check.name for check in checks} >= CHECKS
    assert not faults
    assert not failures, "\n\n".join(failures)


def _told(failure: Any) -> str:
    return f"{failure.failure.title}: {failure.failure.message}\n{failure.code_sample}"
