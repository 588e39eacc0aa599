"""What a registry that posts its events gets for an answer, and what is recorded by then."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask import request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, make_url, select, text
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from flask_hubhooks import BadEvent, ImagePush, Repository
from flask_hubhooks.records.models import Push
from flask_hubhooks.sources import SOURCES
from flask_hubhooks.sources.events import text_at

from ..sources import test_gitea as gitea
from ..sources import test_harbor as harbor
from ..sources import test_quay as quay
from ..sources import test_zot as zot
from ..support.host import Host, kept, problem, things
from ..support.marks import TOKENS, URL, WITH_SOURCES, MakeHost, on_postgresql, on_sqlite

EVENT: dict[str, Any] = {
    "id": "305abebd-bc0a-4c39-9005-05abe2494599",
    "timestamp": "2026-11-24T03:00:15.712462555Z",
    "action": "push",
    "target": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": "acme/app", "tag": "latest"},
}


@pytest.fixture(params=[False, True], ids=["own", "joined"])
def sourced(request: pytest.FixtureRequest, make_host: MakeHost) -> Host:
    """A host app that takes events, without and with a transactional outbox, on each database in turn."""
    return make_host(join_session=request.param, config=WITH_SOURCES)


@pytest.fixture
def own(make_host: MakeHost) -> Host:
    """A host app that takes events."""
    return make_host(config=WITH_SOURCES)


def envelope(*tags: str, **changes: Any) -> dict[str, Any]:
    """Distribution's envelope with a push of each tag."""
    return {"events": [EVENT | {"target": EVENT["target"] | {"tag": tag}} | changes for tag in tags]}


def send(host: Host, content: object, source: str = "distribution", **options: Any) -> TestResponse:
    """Post events, with the source's token unless there are other `headers`."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = options.pop("headers", {"Authorization": f"Bearer {TOKENS.get(source)}"})
    return host.client.post(f"/hubhooks/sources/{source}/", data=body, headers=headers, **options)


def tags(host: Host, webhook: dict[str, Any]) -> list[str]:
    """The tags of all pushes that were recorded, in order."""
    return [each["push"]["tag"] for each in host.history(webhook)][::-1]


# What is recorded


def test_committed_when_answered(sourced: Host) -> None:
    """A 2xx means that the push is committed, whatever becomes of the host's own transaction."""
    thing = things(sourced)

    @sourced.app.before_request
    def write() -> None:
        if request.path.startswith("/hubhooks/") and make_url(sourced.database_uri).get_backend_name() == "postgresql":
            sourced.db.session.execute(insert(thing).values(name="a"))  # on SQLite it would lock us out

    webhook = sourced.create(URL)
    answer = send(sourced, envelope("v1"))
    assert (answer.status_code, answer.get_json()) == (202, {"pushes": 1, "recorded": 1})
    assert tags(sourced, webhook) == ["v1"]
    assert kept(sourced, thing) == []
    with sourced.app.app_context():
        assert sourced.db.session.scalar(select(Push.source)) == "distribution"


def test_repeated(sourced: Host) -> None:
    """A registry may repeat its events: known pushes are skipped, and new ones beside them are recorded."""
    webhook = sourced.create(URL)
    answers = [send(sourced, envelope(*each)).get_json() for each in (["v1"], ["v1"], ["v1", "v2"], ["v2", "v1"])]
    assert answers == [{"pushes": len(each), "recorded": n} for each, n in (("1", 1), ("1", 0), ("12", 1), ("12", 0))]
    assert send(sourced, envelope("v1", id="another")).get_json()["recorded"] == 1
    assert tags(sourced, webhook) == ["v1", "v2", "v1"]


def test_repeated_after_renaming(sourced: Host) -> None:
    """An event that comes again after its repository was renamed is known, or of a repository without webhooks."""
    webhook = sourced.create(URL)
    send(sourced, envelope("v1"))
    with sourced.app.app_context():
        sourced.hubhooks.repository_renamed("acme/app", "acme/new")
        sourced.db.session.commit()
    assert send(sourced, envelope("v1")).get_json() == {"pushes": 1, "recorded": 0}
    assert len(sourced.history(webhook, "acme/new")) == 1


def test_many_tags(own: Host) -> None:
    """However many tags an event tells of, the webhooks of a repository are read once."""
    own.create(URL, tag_filter=["v*"])
    with own.statements("hubhooks_webhook") as read:
        assert send(own, envelope("v1", "v2", "x1")).get_json() == {"pushes": 3, "recorded": 2}
    assert len(read) == 1


def test_the_hosts_own_event_ids(own: Host) -> None:
    """A host's own push with the same event id is another push."""
    webhook = own.create(URL)
    own.push(tag="latest", event_id=EVENT["id"])
    assert send(own, envelope("latest")).get_json()["recorded"] == 1
    assert tags(own, webhook) == ["latest", "latest"]


def test_unknown_repositories(own: Host) -> None:
    """A push that no webhook wants is taken; one whose details the loader does not know is recorded as private."""
    assert send(own, envelope("v1")).get_json() == {"pushes": 1, "recorded": 0}
    own.create(URL)
    own.hubhooks.repository_loader(lambda name: None)
    assert send(own, envelope("v1")).get_json() == {"pushes": 1, "recorded": 1}
    with own.app.app_context():
        assert own.db.session.scalar(select(Push.snapshot)) == Repository(is_private=True).snapshot()


@pytest.mark.parametrize(
    "target", [{"repository": "a" * 300}, {"repository": "a\0"}, {"repository": ""}, {"tag": "a b"}]
)
def test_impossible_images(own: Host, target: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """A push of what cannot be an image is ignored with a log entry, and others beside it are recorded."""
    webhook, content = own.create(URL), envelope("v1", "v2")
    content["events"][0]["target"] |= target
    assert send(own, content).get_json() == {"pushes": 1, "recorded": 1}
    assert tags(own, webhook) == ["v2"]
    assert "is ignored: not a" in caplog.text


# What is not recorded


@pytest.mark.parametrize("table", ["hubhooks_webhook", "hubhooks_push", "hubhooks_delivery"])
def test_a_fault_of_ours(sourced: Host, table: str, caplog: pytest.LogCaptureFixture) -> None:
    """Pushes that cannot be recorded are answered with 503, none is half recorded, and a repeat is taken."""
    webhook = sourced.create(URL)
    for names in (f"{table} RENAME TO away", f"away RENAME TO {table}"):
        with sourced.app.app_context(), sourced.db.engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {names}"))
        answer = send(sourced, envelope("v1", "v2"))
        if "TO away" in names:
            problem(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
    assert answer.get_json() == {"pushes": 2, "recorded": 2}
    assert tags(sourced, webhook) == ["v1", "v2"]
    assert "events of distribution are answered with 503" in caplog.text


def test_waits_for_nobody(own: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Where another transaction holds what is needed, the registry gets its 503 soon, and later its 202."""
    own.create(URL)
    with own.app.app_context(), own.db.engine.connect() as holder:
        if own.db.engine.dialect.name == "postgresql":
            holder.execute(text("LOCK TABLE hubhooks_push"))
        else:
            holder.execute(text("DELETE FROM hubhooks_push"))
        problem(send(own, envelope("v1")), 503)
        holder.rollback()
    assert send(own, envelope("v1")).get_json()["recorded"] == 1


@pytest.mark.own_host
@on_postgresql
def test_needs_no_connection_of_the_hosts(make_host: MakeHost) -> None:
    """Events are recorded while the host's request holds the only connection of its pool."""
    pool = {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}}
    host = make_host(config=WITH_SOURCES | pool)

    @host.app.before_request
    def read() -> None:
        host.db.session.execute(text("SELECT 1"))

    host.create(URL)
    host.hubhooks.repository_loader(lambda name: Repository(str(host.db.session.scalar(text("SELECT 'loaded'")))))
    assert send(host, envelope("v1")).get_json()["recorded"] == 1
    with host.app.app_context():
        assert (host.db.session.scalar(select(Push.snapshot)) or {})["description"] == "loaded"


# Who may send


@pytest.mark.parametrize(
    "authorization",
    ["Bearer {}", "bearer  {}", "{}", "Basic {basic}", "basic {basic}"],
)
def test_tokens(standing: Host, authorization: str) -> None:
    """The token is taken as registries can send it: Bearer, as it is, and as a password."""
    token = TOKENS["distribution"]
    basic = base64.b64encode(f"anybody:{token}".encode()).decode()
    header = {"Authorization": authorization.format(token, basic=basic)}
    assert send(standing, envelope("v1"), headers=header).status_code == 202


@pytest.mark.parametrize("source", SOURCES)
def test_wrong_tokens(standing: Host, source: str) -> None:
    """Without the source's own token nothing is taken, and nothing is told."""
    token, others = TOKENS[source], [each for name, each in TOKENS.items() if name != source]
    wrong = ["", "x", "é", token[:-1], f"{token}x", token.upper(), f"x {token}", f"Bearer x {token}", *others]
    headers = [{"Authorization": f"{scheme}{each}"} for each in wrong for scheme in ("", "Bearer ", "Basic ")]
    headers += [{}, {"Authorization": "Basic " + base64.b64encode(f"{token}:".encode()).decode()}, {"Token": token}]
    for each in headers:
        answer = send(standing, envelope("v1"), source, headers=each)
        assert problem(answer, 401)["detail"] and answer.headers["WWW-Authenticate"]
        assert token not in answer.text


def test_compared_in_constant_time(standing: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are compared by a function whose time does not tell how much of one is right."""
    compared: list[bytes] = []

    def compare(given: bytes, token: bytes) -> bool:
        compared.extend((given, token))
        return given == token

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for each in (TOKENS["zot"], f"Bearer {TOKENS['zot']}"):
        assert send(standing, envelope("v1"), headers={"Authorization": each}).status_code == 401
        assert {TOKENS["zot"].encode(), TOKENS["distribution"].encode()} <= set(compared)
        compared.clear()


def test_sources_that_are_off(make_host: MakeHost) -> None:
    """Without a token a source is off, and so is a source that does not exist."""
    host = make_host(config=WITH_SOURCES | {"HUBHOOKS_SOURCE_TOKENS": {"distribution": "x" * 16}})
    for source in ("zot", "nonsense", "\0"):
        problem(send(host, envelope("v1"), source), 404)


# What is understood


def test_bodies(standing: Host) -> None:
    """Only what is no JSON or no envelope is refused, and what is larger than 1 MiB."""
    for body in (b"", b"{", b"[]", b"{}"):
        problem(send(standing, body), 400)
    padded = json.dumps(envelope("v1")).encode().ljust(1024 * 1024)
    assert send(standing, padded).status_code == 202
    problem(send(standing, padded + b" "), 413)
    assert send(standing, envelope("v1"), content_type="text/plain").status_code == 202


@on_sqlite
def test_the_hosts_limit(make_host: MakeHost) -> None:
    """A host's limit for bodies does not keep a registry from sending."""
    host = make_host(config=WITH_SOURCES | {"MAX_CONTENT_LENGTH": 1000, "HUBHOOKS_MAX_BODY_BYTES": 1000})
    assert send(host, json.dumps(envelope("v1")).encode().ljust(2000)).status_code == 202


def test_unknown_events(standing: Host, caplog: pytest.LogCaptureFixture) -> None:
    """An envelope with events that nobody knows is taken, with one warning."""
    assert send(standing, {"events": [{"action": "a"}, {}, None]}).status_code == 202
    assert [record.levelno for record in caplog.records if record.name.startswith("flask_hubhooks")] == [
        logging.WARNING
    ]


# A source of the host's own


def read_own(headers: Mapping[str, str], body: bytes) -> Iterator[ImagePush]:
    if headers.get("x-registry") != "own":
        raise BadEvent("This is not our registry.")
    for tag in body.decode().split():
        yield ImagePush("acme/app", tag)


@on_sqlite
def test_own_source(make_host: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    """A host's function gets headers by lower-case names and the body; what it raises costs no push."""
    config = WITH_SOURCES | {"HUBHOOKS_SOURCE_TOKENS": {"our-own": "x" * 16}}
    host = make_host(config=config, sources={"our-own": read_own})
    webhook = host.create(URL)
    headers = {"Authorization": "x" * 16, "X-Registry": "own"}
    assert send(host, b"v1 v2", "our-own", headers=headers).get_json() == {"pushes": 2, "recorded": 2}
    assert tags(host, webhook) == ["v1", "v2"]
    refused = problem(send(host, b"v1", "our-own", headers={"Authorization": "x" * 16}), 400)
    assert refused["detail"] == "This is not our registry."
    problem(send(host, b"\xff", "our-own", headers=headers), 503)
    assert "UnicodeDecodeError" in caplog.text


# Registries with ways of their own


def test_signed_by_gitea(standing: Host) -> None:
    """Gitea's signature over the body stands for the token, for Gitea alone."""
    body = json.dumps(gitea.EVENT).encode()
    signature = hmac.new(TOKENS["gitea"].encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Gitea-Event": "package", "X-Gitea-Signature": signature}
    assert send(standing, body, "gitea", headers=headers).status_code == 202
    problem(send(standing, body + b" ", "gitea", headers=headers), 401)
    problem(send(standing, body, "gitea", headers=headers | {"X-Gitea-Signature": "é"}), 401)
    problem(send(standing, body, "zot", headers=headers), 401)
    problem(send(standing, body.ljust(2**20 + 1), "gitea", headers=headers), 413)


def test_token_in_the_query(standing: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A token in the URL is accepted from Quay alone, and never logged, even where it is answered with 503."""
    caplog.set_level(logging.DEBUG)
    content = {"repository": "acme/quay", "updated_tags": ["v1", "v2"]}
    webhook, quay = standing.create(URL, repository="acme/quay"), TOKENS["quay"]
    query = {"token": quay}
    for _ in range(2):  # Quay's events have no id, and a real push must not be taken for a repeat
        answer = send(standing, content, "quay", headers={}, query_string=query)
        assert answer.get_json() == {"pushes": 2, "recorded": 2}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Session, "execute", None)
        problem(send(standing, content, "quay", headers={}, query_string=query), 503)
    assert len(standing.history(webhook, "acme/quay")) == 4
    problem(send(standing, content, "quay", headers={}, query_string={"token": quay[:-1]}), 401)
    problem(send(standing, content, "quay", headers={}, environ_overrides={"QUERY_STRING": "token=\xff"}), 401)
    for other in TOKENS.keys() - {"quay"}:
        problem(send(standing, content, other, headers={}, query_string={"token": TOKENS[other]}), 401)
    assert not [token for token in TOKENS.values() if token in caplog.text]


# Anything at all


GOOD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "distribution": (EVENT, ["action", "target.repository", "target.tag"]),
    "zot": (zot.ATTRIBUTES | {"data": zot.DATA}, ["type", "data.name", "data.reference"]),
    "harbor": (harbor.DEFAULT, ["type", "event_data.repository.repo_full_name"]),
    "gitea": (
        gitea.EVENT,
        ["action", "package.type", "package.owner.login", "package.name", "package.version"],
    ),
    "quay": (quay.EVENT, ["repository"]),
}
"""An event of each registry with a push, and the texts without which it has none."""
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("latest"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def spoiled(content: Any) -> st.SearchStrategy[Any]:
    """The same content, but parts of it may be missing or anything else."""
    if isinstance(content, dict):
        whole = st.fixed_dictionaries({}, optional={key: spoiled(value) for key, value in content.items()})
        return st.just(content) | whole | anything
    if isinstance(content, list):
        return st.just(content) | st.lists(st.one_of(*map(spoiled, content)), max_size=3) | anything
    return st.just(content) | st.just(content) | anything


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), source=st.sampled_from(list(SOURCES)))
def test_anything(standing: Host, data: st.DataObject, source: str) -> None:
    """Whatever is sent, it is understood or refused with 400, and what does not name a tag is no push."""
    good, needed = GOOD[source]
    body = data.draw(st.binary(max_size=60) | spoiled(good).map(lambda content: json.dumps(content).encode()))
    headers = {"Authorization": TOKENS[source], "X-Gitea-Event": "package"}
    answer = send(standing, body, source, headers=headers)
    assert answer.status_code in (202, 400), answer.text
    if answer.status_code == 202 and answer.get_json()["pushes"]:
        assert all(text_at(json.loads(body), *path.split(".")) for path in needed)


@pytest.mark.parametrize("source", SOURCES)
def test_good_events(standing: Host, source: str) -> None:
    """The events that the test above spoils are pushes."""
    headers = {"Authorization": TOKENS[source], "X-Gitea-Event": "package"}
    assert send(standing, GOOD[source][0], source, headers=headers).get_json()["pushes"] > 0
