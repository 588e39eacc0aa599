"""A repository or a namespace is deleted or renamed, and what webhooks of namespaces have of it ends or follows."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from flask_hubhooks import ImagePush, Repository, RepositoryHasWebhooks
from flask_hubhooks.records.models import Delivery, Push, Status, Webhook
from flask_hubhooks.records.scopes import covers, is_namespace, is_pattern, patterns_of
from flask_hubhooks.web import endpoints

from ..support.host import Host, problem
from ..support.marks import URL, on_postgresql, on_sqlite
from ..support.receivers import Receiver
from ..test_orphans import orphans
from .test_repositories import delete, names, rename

SCOPES = {"acme/*": "/v2/namespaces/acme/webhooks/", "*": "/v2/registry/webhooks/"}


def create(host: Host, scope: str, *urls: str, **more: Any) -> dict[str, Any]:
    """Create a webhook of a namespace or of the registry; of more than one URL a chain."""
    base = SCOPES.get(scope, f"/v2/namespaces/{scope[:-2]}/webhooks/")
    wanted = {"name": "shared", "hooks": [{"hook_url": url} for url in urls]} | more
    answer = host.api("POST", base, user="root", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def history(host: Host, webhook: dict[str, Any], repository: str = "") -> list[dict[str, Any]]:
    """The deliveries of a webhook as its owners see them, or as those of a repository do, latest push first."""
    base = f"{repository}/webhooks/" if repository else SCOPES.get(webhook["scope"], "")
    user = "bob" if repository.startswith("bob/") else "alice" if repository else "root"
    answer = host.api("GET", f"{base}{webhook['id']}/history/", user=user)
    assert answer.status_code == 200, answer.text
    return list(answer.get_json()["results"])


def shown(host: Host, webhook: dict[str, Any], repository: str = "") -> list[tuple[str, str, str]]:
    """The repository, tag and state of each delivery."""
    found = history(host, webhook, repository)
    return [(each["push"]["repository"], each["push"]["tag"], each["state"]) for each in found]


def push(host: Host, repository: str, tag: str) -> None:
    with host.app.app_context():
        host.hubhooks.push(ImagePush(repository, tag))
        host.db.session.commit()


def send_again(host: Host, webhook: dict[str, Any], position: int = 0) -> TestResponse:
    """Redeliver what stands at a position of the webhook's history, in the name of its owner."""
    delivery = history(host, webhook)[position]
    path = f"{SCOPES[webhook['scope']]}{webhook['id']}/history/{delivery['id']}/redeliver/"
    return host.api("POST", path, user="root")


def test_scopes() -> None:
    """The namespaces of a name are those that it begins with, by whole parts, and the registry."""
    assert patterns_of("acme/team/app") == ["acme/team/*", "acme/*", "*"]
    assert patterns_of("busybox") == ["*"]
    assert all(covers(each, "acme/team/app") for each in ("acme/team/app", "acme/team/*", "acme/*", "*"))
    assert not any(covers(each, "acme/app") for each in ("acme", "acme/ap", "acme/a*", "acme/app/*", "bob/*", "ac/*"))
    assert [is_pattern(each) for each in ("*", "a/*", "a*", "a/b*", "a/*/b")] == [True, True, False, False, False]
    assert [is_namespace(each) for each in ("a", "a/b", "", "/a", "a/", "a//b", "*", "a/*", "a?", "[a]")] == [
        True, True, *[False] * 8,
    ]  # fmt: skip


# Deleting a repository


def test_deleting_a_repository(either: Host) -> None:
    """Its deliveries of inherited webhooks are cancelled, also those that await a callback; the webhooks stay."""
    with Receiver() as receiver:
        webhooks = [create(either, scope, receiver.url, URL) for scope in SCOPES]
        own = either.create(URL)
        push(either, "acme/app", "v1")
        push(either, "acme/other", "v2")
        either.deliver()  # the first hook of each chain awaits its callback
        push(either, "acme/app", "v3")
        delete(either)
        called = [either.call_back(each.body).status_code for each in receiver.requests]
        assert sorted(called) == [200, 200, 410, 410]
        either.deliver()
    for webhook in webhooks:
        steps = shown(either, webhook)
        assert [each for each in steps if each[0] == "acme/app"] == [
            ("acme/app", tag, "cancelled") for tag in ("v3", "v3", "v1", "v1")
        ]
        assert next(state for name, _, state in steps if name == "acme/other") == "succeeded"
        reasons = {each["reason"] for each in history(either, webhook) if each["push"]["repository"] == "acme/app"}
        assert reasons == {"The repository was deleted."}
        refused = send_again(either, webhook)
        assert "repository was deleted" in problem(refused, 409)["detail"]
        recover = f"{SCOPES[webhook['scope']]}{webhook['id']}/recover/"
        done = either.api("POST", recover, user="root", json={"since": "2020-01-01T00:00:00Z"}).get_json()
        assert done["remaining"] == 0
        assert {state for name, _, state in shown(either, webhook) if name == "acme/app"} == {"cancelled"}
    assert either.api("GET", f"acme/app/webhooks/{own['id']}/").status_code == 404


def test_the_next_owner_of_the_name(host: Host) -> None:
    """A new repository of the name sees nothing of the former one's pushes in the history of inherited webhooks."""
    webhook = create(host, "acme/*", URL)
    host.push("acme/app", "secret", pusher="former")
    host.deliver()
    delete(host)
    former = history(host, webhook)[0]["id"]
    host.create(URL)
    host.push("acme/app", "mine")
    assert shown(host, webhook, "acme/app") == [("acme/app", "mine", "pending")]
    assert host.api("GET", f"acme/app/webhooks/{webhook['id']}/history/{former}/").status_code == 404
    assert host.api("GET", "acme/app/webhooks/matching-tags/").get_json()["matching"] == ["mine"]
    assert [each[:2] for each in shown(host, webhook)] == [("acme/app", "mine"), ("acme/app", "secret")]
    rename(host)  # the new one's pushes alone follow it
    assert shown(host, webhook, "acme/new") == [("acme/new", "mine", "pending")]
    assert [each[:2] for each in shown(host, webhook)] == [("acme/new", "mine"), ("acme/app", "secret")]


def test_deleting_twice(host: Host) -> None:
    """Repeating a deletion changes nothing, and deleting what has neither webhooks nor pushes does no harm."""
    webhook = create(host, "acme/*", URL)
    delete(host)
    host.push()
    delete(host)
    before = history(host, webhook)
    delete(host)
    assert history(host, webhook) == before


# Renaming a repository


@pytest.mark.parametrize("owns", [True, False], ids=["with webhooks", "without"])
def test_renaming_within(host: Host, owns: bool) -> None:
    """Renamed within a namespace, a repository keeps its deliveries there, its history and its callbacks."""
    with Receiver() as receiver:
        webhooks = [create(host, scope, receiver.url, expect_final_callback=True) for scope in SCOPES]
        if owns:
            host.create(URL)
        host.push("acme/app", "v1")
        host.deliver()
        host.push("acme/app", "v2")
        rename(host)
        assert [host.call_back(each.body).status_code for each in receiver.requests[:2]] == [200, 200]
        host.deliver()
        sent = [json.loads(each.body)["repository"]["repo_name"] for each in receiver.requests]
    assert sent == ["acme/app"] * 2 + ["acme/new"] * 2
    for webhook in webhooks:
        states = [("acme/new", "v2", "awaiting_callback"), ("acme/new", "v1", "succeeded")]
        assert shown(host, webhook) == shown(host, webhook, "acme/new") == states
        assert shown(host, webhook, "acme/app") == []
        assert send_again(host, webhook, 1).status_code == 202


@pytest.mark.parametrize("owns", [True, False], ids=["with webhooks", "without"])
def test_renaming_out(host: Host, owns: bool) -> None:
    """Renamed out of a namespace, a repository ends its deliveries there, and the namespace does not see its new name.

    The registry keeps its deliveries, and so do the repository's own webhooks.
    """
    with Receiver() as receiver:
        lost, kept = (create(host, scope, receiver.url, expect_final_callback=True) for scope in SCOPES)
        own = host.create(receiver.url, name="own") if owns else None
        gains = create(host, "bob/*", URL)
        host.push("acme/app", "v1")
        host.deliver()
        host.push("acme/app", "v2")
        rename(host, new="bob/app")
        host.deliver()
        sent = [json.loads(each.body)["repository"]["repo_name"] for each in receiver.requests]
    assert sent == ["acme/app"] * (2 + owns) + ["bob/app"] * (1 + owns)
    assert shown(host, lost) == [("acme/app", "v2", "cancelled"), ("acme/app", "v1", "cancelled")]
    assert "bob/app" not in json.dumps(history(host, lost))
    query = f"{SCOPES['acme/*']}{lost['id']}/history/?repository=bob/app"
    assert host.api("GET", query, user="root").get_json()["results"] == []
    assert {each["reason"] for each in history(host, lost)} == {
        "The repository was renamed and has left the namespace."
    }
    assert send_again(host, lost).status_code == 409
    both = [("bob/app", "v2", "awaiting_callback"), ("bob/app", "v1", "awaiting_callback")]
    assert shown(host, kept) == shown(host, kept, "bob/app") == both
    if own:
        answer = host.api("GET", f"bob/app/webhooks/{own['id']}/history/", user="bob")
        assert [each["push"]["repository"] for each in answer.get_json()["results"]] == ["bob/app"] * 2
    assert host.api("GET", f"bob/app/webhooks/{lost['id']}/", user="bob").status_code == 404
    assert shown(host, gains, "bob/app") == []


def test_renamed_out_while_a_push_is_recorded(host: Host) -> None:
    """A push recorded at that moment keeps its name for the namespace, whether or not a worker corrects it."""

    def load(name: str) -> Repository:
        host.hubhooks.repository_loader(lambda name: Repository())
        rename(host, new="bob/app")
        return Repository()

    with Receiver() as receiver, Receiver() as theirs:
        webhook = create(host, "acme/*", theirs.url)
        host.create(receiver.url)
        host.hubhooks.repository_loader(load)
        host.push()
        host.deliver()
        host.run_job()
    assert json.loads(receiver.requests[0].body)["repository"]["repo_name"] == "bob/app"
    assert "bob/app" not in json.dumps(history(host, webhook))
    assert b"bob/app" not in b"".join(each.body for each in theirs.requests)


@on_sqlite
def test_settled_after_the_renaming(host: Host) -> None:
    """What was recorded under the old name before the commit is cut off from the namespace when a worker settles it."""
    webhook, own = create(host, "acme/*", URL), host.create(URL)
    host.push()
    with host.writing() as session:  # as if the push had been recorded while the renaming was not committed yet
        session.execute(update(Webhook).where(Webhook.id == own["id"]).values(scope="bob/app", unsettled=True))
    host.run_job()
    assert [each[0] for each in shown(host, webhook)] == ["acme/app"]
    with host.writing() as session:
        assert session.scalars(select(Push.repository)).all() == ["bob/app"]
        rows = session.execute(select(Delivery.webhook_id, Delivery.former_repository)).all()
        assert {each.webhook_id: each.former_repository for each in rows} == {
            webhook["id"]: "acme/app",
            own["id"]: None,
        }


# Namespaces


def test_deleting_a_namespace(either: Host) -> None:
    """Deleting `acme/*` deletes its webhooks alone: those of its repositories and of other scopes stay."""
    with Receiver() as receiver:
        webhook = create(either, "acme/*", receiver.url, expect_final_callback=True)
        others = [create(either, scope, URL) for scope in ("acme/team/*", "*")]
        either.create(URL)
        push(either, "acme/app", "v1")
        either.deliver()
        push(either, "acme/app", "v2")
        delete(either, "acme/*")
        assert either.call_back(receiver.requests[0].body).status_code == 410
    assert either.api("GET", f"{SCOPES['acme/*']}{webhook['id']}/").status_code == 404
    with either.writing() as session:
        states = session.scalars(select(Delivery.status).where(Delivery.webhook_id == webhook["id"])).all()
        assert set(states) == {Status.CANCELLED}
        live = session.scalars(select(Webhook.scope).where(Webhook.deleted_id == 0).order_by(Webhook.id)).all()
        assert live == [*(each["scope"] for each in others), "acme/app"]
    create(either, "acme/*", URL)
    delete(either, "*")
    assert either.api("GET", SCOPES["*"], user="root").get_json()["count"] == 0


def test_renaming_a_namespace(host: Host) -> None:
    """Renaming the namespace and then its repositories keeps all deliveries, webhooks and histories."""
    with Receiver() as receiver:
        webhook = create(host, "acme/*", receiver.url)
        host.create(receiver.url, name="own")
        host.push("acme/app", "v1")
        rename(host, "acme/*", "bob/*")
        rename(host, "acme/app", "bob/app")
        host.deliver()
        host.push("acme/app")
        host.push("bob/app", "v2")
        host.deliver()
        assert len(receiver.requests) == 4
    answer = host.api("GET", f"/v2/namespaces/bob/webhooks/{webhook['id']}/history/", user="bob")
    found = answer.get_json()["results"]
    assert [(each["push"]["repository"], each["push"]["tag"]) for each in found] == [
        ("bob/app", "v2"),
        ("bob/app", "v1"),
    ]
    create(host, "acme/*", URL)
    with pytest.raises(RepositoryHasWebhooks):
        rename(host, "acme/*", "bob/*")
    assert names(host, "acme/app") == ["shared"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("acme/app", "acme/*"), ("acme/*", "acme/app"), ("*", "acme/*"), ("acme/*", "*"), ("/*", "a/*"), ("a*/*", "a/*")],
)
@on_sqlite
def test_bad_names(host: Host, old: str, new: str) -> None:
    """A repository does not become a namespace, the registry has no other name, and a namespace has no wildcard."""
    create(host, "acme/*", URL)
    with pytest.raises(ValueError, match=r"cannot be renamed|not a namespace"):
        rename(host, old, new)
    assert host.api("GET", SCOPES["acme/*"]).get_json()["count"] == 1


# Orphans


@on_sqlite
def test_orphans(host: Host) -> None:
    """A namespace is an orphan if the loader knows none of its repositories any more. It is not asked for patterns."""
    gone, alive, new = (create(host, f"{each}/*", URL, name=each) for each in ("gone", "alive", "new"))
    create(host, "*", URL)
    host.create(URL)
    host.hubhooks.authorizer(lambda *_: "alice")
    host.create(URL, repository="Gone/a")
    for repository in ("gone/a", "gone/b", "alive/a", "alive/b"):
        host.push(repository)
    asked: set[str] = set()

    @host.hubhooks.repository_loader
    def load(name: str) -> Repository | None:
        asked.add(name)
        return None if name.startswith("gone/") or name == "alive/a" else Repository()

    listed = orphans(host)
    assert listed.stdout.splitlines() == [f"gone/*\tgone\t{gone['id']}"]
    assert "1 of 6 webhooks" in listed.stderr
    assert asked == {"gone/a", "gone/b", "alive/a", "alive/b", "Gone/a", "acme/app"}
    assert orphans(host, "--delete", "--yes", "--force").exit_code == 0
    with host.writing() as session:
        live = session.scalars(select(Webhook.scope).where(Webhook.deleted_id == 0)).all()
        assert set(live) == {"alive/*", "new/*", "*", "Gone/a", "acme/app"}
    assert alive["id"] and new["id"]


# Beside others


@on_postgresql
def test_an_open_deletion(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a host's deletion is open, other repositories of the namespace go on, and may be deleted too.

    Only changes of the namespace's webhooks wait, without a connection, and end in a 503.
    """
    monkeypatch.setattr(endpoints, "MAX_LOCKED_S", 0.5)
    with Receiver() as receiver:
        webhook = create(host, "acme/*", receiver.url)
        for repository in ("acme/app", "acme/other"):
            host.push(repository)
        one = f"{SCOPES['acme/*']}{webhook['id']}/"
        with host.app.app_context(), ThreadPoolExecutor(1) as pool:
            host.hubhooks.repository_deleted("acme/app")
            pool.submit(host.deliver).result(timeout=20)
            assert len(receiver.requests) == 1
            pool.submit(delete, host, "acme/other").result(timeout=20)
            pool.submit(host.push, "acme/third").result(timeout=20)
            locked = pool.submit(host.app.test_client().patch, one, json={"active": False}, headers={"X-User": "alice"})
            assert problem(locked.result(timeout=20), 503)
            host.db.session.commit()
    assert host.api("PATCH", one, json={"active": False}).status_code == 200
    assert [each[::2] for each in shown(host, webhook)] == [
        ("acme/third", "pending"), ("acme/other", "succeeded"), ("acme/app", "cancelled"),
    ]  # fmt: skip


@on_sqlite
def test_superseding(host: Host) -> None:
    """Pushes of a tag are put in order by repository, and a renaming within the namespace keeps that order."""
    webhook = create(host, "acme/*")
    hooks = f"{SCOPES['acme/*']}{webhook['id']}/hooks/"
    assert host.api("POST", hooks, json={"hook_url": URL, "supersede": True}).status_code == 201
    for repository in ("acme/app", "acme/other"):
        host.push(repository)
    rename(host)
    host.push("acme/new")
    with host.writing() as session:
        images = session.scalars(select(Delivery.ordered_image).order_by(Delivery.push_id)).all()
    assert images == ["acme/new:latest", "acme/other:latest", "acme/new:latest"]
