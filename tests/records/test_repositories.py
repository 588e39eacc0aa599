"""A repository is deleted or renamed by the host, and its webhooks follow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from flask_hubhooks import ImagePush, Repository, RepositoryHasWebhooks
from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.models import Delivery, Hook, Push, Status, Webhook
from flask_hubhooks.signals import delivery_finished, repository_deleted, repository_renamed
from flask_hubhooks.web import endpoints

from ..support.host import Host, problem
from ..support.marks import URL, MakeHost, on_postgresql
from ..support.receivers import Receiver, poll
from ..worker.test_races import Held


def delete(host: Host, name: str = "acme/app") -> None:
    with host.app.app_context():
        host.hubhooks.repository_deleted(name)
        host.db.session.commit()


def rename(host: Host, old: str = "acme/app", new: str = "acme/new") -> None:
    with host.app.app_context():
        host.hubhooks.repository_renamed(old, new)
        host.db.session.commit()


def push(host: Host, tag: str = "latest") -> None:
    with host.app.app_context():
        host.hubhooks.push(ImagePush("acme/app", tag))
        host.db.session.commit()


def names(host: Host, repository: str) -> list[str]:
    return [each["name"] for each in host.api("GET", f"{repository}/webhooks/").get_json()["results"]]


def stored(host: Host, column: Any) -> list[Any]:
    """Return the values of a column, in the order of the deliveries, webhooks or pushes."""
    with host.writing() as session:
        return list(session.scalars(select(column).order_by(column.class_.id)))


def sent(host: Host, **more: Any) -> tuple[dict[str, Any], bytes]:
    """Push to a webhook with one hook; return the webhook and the payload it got."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, **more)
        push(host)
        host.deliver()
    return webhook, receiver.requests[-1].body


# Deleting


def test_the_next_owner_starts_anew(either: Host) -> None:
    """A new repository does not inherit webhooks, history or tags of a deleted one with its name."""
    with Receiver() as receiver:
        webhook = either.create(receiver.url)
        push(either, "secret")
        delete(either)
        assert names(either, "acme/app") == []
        assert either.api("GET", f"acme/app/webhooks/{webhook['id']}/history/").status_code == 404
        either.create(URL)
        push(either, "mine")
        either.deliver()
    assert not receiver.requests
    assert either.api("GET", "acme/app/webhooks/matching-tags/").get_json() == {"matching": ["mine"], "other": []}


def test_deleting_cancels(host: Host) -> None:
    """Everything unfinished is cancelled, including what awaits a callback; the callback then gets 410."""
    with Receiver() as receiver:
        host.create(receiver.url, URL, name="a chain")
        host.push()
        host.deliver()
        host.create(URL.replace("://", "://name:password@"), name="of one")
        host.push()
        delete(host)
        assert stored(host, Delivery.status) == [Status.CANCELLED] * 5
        assert set(stored(host, Delivery.reason)) == {"The repository was deleted."}
        assert host.call_back(receiver.requests[0].body).status_code == 410
    assert stored(host, Webhook.encrypted_headers) == [None, None]
    assert stored(host, Hook.encrypted_authorization) == [None, None, None]


def test_deleting_ends_what_nobody_waited_for(host: Host) -> None:
    """A delivery that succeeded without a callback accepts none after its repository is deleted."""
    _, payload = sent(host, expect_final_callback=False)
    delete(host)
    assert host.call_back(payload, state="failure").status_code == 410
    assert stored(host, Delivery.callback_state) == [""]


def test_deleted_while_a_push_is_recorded(host: Host) -> None:
    """A push matched before the deletion and recorded after it is never sent."""

    def load(name: str) -> Repository:
        host.hubhooks.repository_loader(lambda name: Repository())
        delete(host)
        return Repository()

    with Receiver() as receiver:
        host.create(receiver.url)
        host.hubhooks.repository_loader(load)
        host.push()
        host.deliver()
    assert stored(host, Delivery.status) == [Status.CANCELLED]
    assert not receiver.requests


def test_deleting_keeps_to_one_repository(host: Host) -> None:
    """Other repositories, including those with similar names, keep their webhooks."""
    others = ["acme/app2", "acme/app/sub", "acme/App", "acme/ap_"]
    for each in ("acme/app", *others):
        host.create(URL, repository=each)
    delete(host)
    assert [names(host, each) for each in ("acme/app", *others)] == [[], *[["deploy"]] * 4]


@pytest.mark.parametrize("what", [delete, rename])
def test_twice_is_as_once(host: Host, what: Callable[[Host], None]) -> None:
    """Repeating a deletion or renaming changes nothing, and neither does one of a repository without webhooks."""
    what(host)
    sent(host)
    what(host)
    before = [stored(host, each) for each in (Webhook.last_updated, Webhook.scope, Delivery.finished_at)]
    what(host)
    assert [stored(host, each) for each in (Webhook.last_updated, Webhook.scope, Delivery.finished_at)] == before


# Renaming


def test_renaming_keeps_all(either: Host) -> None:
    """Webhook and history are found under the new name, and nothing under the old one."""
    webhook, _ = sent(either)
    rename(either)
    assert names(either, "acme/app") == []
    [delivery] = either.history(webhook, "acme/new")
    assert delivery["push"]["repository"] == "acme/new"
    assert either.api("GET", f"acme/new/webhooks/{webhook['id']}/history/?tag=latest").get_json()["results"]
    assert either.api("GET", "acme/new/webhooks/matching-tags/").get_json()["matching"] == ["latest"]


def test_callback_urls_stay(host: Host) -> None:
    """A callback URL from before the renaming still decides, even if the old name has a new owner."""
    webhook, payload = sent(host, expect_final_callback=True)
    rename(host)
    host.create(URL)
    assert host.call_back(payload).status_code == 200
    assert host.history(webhook, "acme/new")[0]["state"] == "succeeded"


def test_sent_under_the_new_name(host: Host) -> None:
    """A delivery pending during the renaming is sent with the new name in payload and callback URL."""
    with Receiver() as receiver:
        host.create(receiver.url)
        host.push()
        rename(host)
        host.deliver()
    payload = json.loads(receiver.requests[0].body)
    assert payload["repository"]["repo_name"] == "acme/new"
    assert "/u/acme/new/hook/" in payload["callback_url"]


def test_renamed_while_a_push_is_recorded(host: Host) -> None:
    """A push under the old name, recorded after the renaming, is sent and shown under the new name."""

    def load(name: str) -> Repository:
        host.hubhooks.repository_loader(lambda name: Repository())
        rename(host)
        return Repository()

    with Receiver() as receiver:
        host.create(receiver.url)
        host.hubhooks.repository_loader(load)
        host.push()
        assert stored(host, Push.repository) == ["acme/app"]
        host.deliver()
    assert json.loads(receiver.requests[0].body)["repository"]["repo_name"] == "acme/new"
    assert stored(host, Push.repository) == ["acme/new"]


def test_renamed_onto_another(either: Host) -> None:
    """Renaming raises if the new name has webhooks, and only the host's own changes remain."""
    either.create(URL, repository="acme/app")
    either.create(URL, repository="acme/new", name="other")
    with pytest.raises(RepositoryHasWebhooks, match="acme/new"):
        rename(either)
    assert (names(either, "acme/app"), names(either, "acme/new")) == (["deploy"], ["other"])
    delete(either, "acme/new")
    rename(either)
    assert names(either, "acme/new") == ["deploy"]


def test_deleted_webhooks_come_along(host: Host) -> None:
    """Webhooks that the owner deleted are renamed too, but not those of a former repository of that name."""
    host.create(URL)
    delete(host)
    webhook = host.create(URL)
    host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/")
    host.create(URL)
    rename(host)
    assert stored(host, Webhook.scope) == ["acme/app", "acme/new", "acme/new"]


@pytest.mark.parametrize("renamed", [False, True])
def test_deleting_ends_what_an_owner_deleted(host: Host, renamed: bool) -> None:
    """A deleted webhook's callback still decides until its repository is deleted, renamed or not."""
    webhook, payload = sent(host, expect_final_callback=True)
    host.api("DELETE", f"acme/app/webhooks/{webhook['id']}/")
    if renamed:
        rename(host)
    delete(host, "acme/new" if renamed else "acme/app")
    assert host.call_back(payload).status_code == 410
    assert stored(host, Delivery.status) == [Status.CANCELLED]
    assert stored(host, Delivery.reason) == ["The repository was deleted."]


# Beside others


@contextmanager
def uncommitted(host: Host, what: str) -> Iterator[None]:
    """An open transaction of the host that has deleted or renamed `acme/app`."""
    with host.app.app_context():
        if what == "deleted":
            host.hubhooks.repository_deleted("acme/app")
        else:
            host.hubhooks.repository_renamed("acme/app", "acme/new")
        try:
            yield
        finally:
            host.db.session.rollback()


@on_postgresql
@pytest.mark.parametrize("what", ["deleted", "renamed"])
def test_pushes_do_not_wait(host: Host, what: str) -> None:
    """While the host's transaction is open, pushes are recorded at once, even to the same repository."""
    host.create(URL)
    host.create(URL, repository="acme/other")
    with ThreadPoolExecutor() as pool, uncommitted(host, what):
        for each in ("acme/app", "acme/other"):
            pool.submit(host.push, each).result(timeout=10)
        assert stored(host, Push.repository) == ["acme/app", "acme/other"]


@on_postgresql
@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_worker_goes_on(host: Host, ends: str) -> None:
    """While the host's transaction is open a worker records other repositories' results, and these afterwards."""
    held = Held(), Held(410)
    with Receiver(held[0]) as one, Receiver(held[1]) as gone, Receiver() as other:
        host.create(one.url)
        host.create(gone.url, name="gone")
        host.push()
        worker = threading.Thread(target=host.run_job)
        worker.start()
        one.wait_for(1)
        gone.wait_for(1)
        with host.app.app_context():
            host.hubhooks.repository_deleted("acme/app")
            for each in held:
                each.release()
            theirs = host.create(other.url, repository="acme/other")
            host.push("acme/other")
            poll(lambda: host.states(theirs, "acme/other") == ["succeeded"])
            getattr(host.db.session, ends)()
        worker.join(20)
        assert not worker.is_alive()
    with host.writing() as session:
        rows = session.scalars(select(Delivery).join(Delivery.push).where(Push.repository == "acme/app")).all()
        assert {each.attempt_count for each in rows} == {1}
        ended = [Status.SUCCEEDED, Status.FAILED] if ends == "rollback" else [Status.CANCELLED] * 2
        assert [each.status for each in sorted(rows, key=lambda each: each.webhook_id)] == ended


@on_postgresql
@pytest.mark.parametrize("what", ["deleted", "renamed"])
def test_requests_take_no_connection_while_they_wait(host: Host, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Requests and callbacks at a locked repository hold none of our connections, and end in a 503."""
    monkeypatch.setattr(endpoints, "MAX_LOCKED_S", 1.0)
    webhook, payload = sent(host, expect_final_callback=True)
    path = f"acme/app/webhooks/{webhook['id']}/"
    client = host.app.test_client

    def edit() -> TestResponse:
        return client().patch(f"/v2/repositories/{path}", json={"active": False}, headers={"X-User": "alice"})

    def call_back() -> TestResponse:
        return client().post(json.loads(payload)["callback_url"], json={"state": "success"})

    with ThreadPoolExecutor(6) as pool, uncommitted(host, what):
        waiting = [pool.submit(each) for each in [edit] * 5]
        if what == "deleted":
            waiting.append(pool.submit(call_back))
        host.create(URL, repository="acme/other")
        assert not [each for each in waiting if each.done()]
        for each in waiting:
            answer = problem(each.result(timeout=20), 503)
            assert "webhooks are being changed" in answer["detail"]
    assert edit().status_code == 200
    assert call_back().status_code == 200


@on_postgresql
def test_a_push_while_the_deletion_is_open(host: Host) -> None:
    """A push sent before the host's commit cannot be called back after it."""
    with Receiver() as receiver, ThreadPoolExecutor() as pool:
        host.create(receiver.url, expect_final_callback=True)
        with host.app.app_context():
            host.hubhooks.repository_deleted("acme/app")
            pool.submit(host.push).result(timeout=10)
            pool.submit(host.deliver).result(timeout=10)
            host.db.session.commit()
    assert stored(host, Delivery.status) == [Status.AWAITING_CALLBACK]
    assert host.call_back(receiver.requests[0].body).status_code == 410
    finished: list[Any] = []
    with delivery_finished.connected_to(lambda _, **sent: finished.append(sent)):
        host.run_job()
    assert stored(host, Delivery.status) == [Status.CANCELLED]
    assert stored(host, Webhook.unsettled) == [False]
    assert not finished


@on_postgresql
def test_a_push_while_the_renaming_is_open(host: Host) -> None:
    """A push sent before the host's commit is found by tag and pusher after it, and redelivered under the new name."""
    with Receiver() as receiver, ThreadPoolExecutor() as pool:
        webhook = host.create(receiver.url)
        with host.app.app_context():
            host.hubhooks.repository_renamed("acme/app", "acme/new")
            pool.submit(host.push, tag="v1", pusher="bob").result(timeout=10)
            pool.submit(host.deliver).result(timeout=10)
            host.db.session.commit()
        host.run_job()
        history = f"acme/new/webhooks/{webhook['id']}/history/"
        for query in ("tag=v1", "pusher=bob"):
            [delivery] = host.api("GET", f"{history}?{query}").get_json()["results"]
            assert delivery["push"]["repository"] == "acme/new"
        page = host.app.test_client().get(f"/r/{history}?tag=v1", headers={"X-User": "alice"})
        assert delivery["id"] in page.text
        assert host.api("GET", "acme/new/webhooks/matching-tags/").get_json()["matching"] == ["v1"]
        assert stored(host, Webhook.unsettled) == [False]
        host.api("POST", f"{history}{delivery['id']}/redeliver/")
        host.deliver()
    names = [json.loads(each.body)["repository"]["repo_name"] for each in receiver.requests]
    assert names == ["acme/app", "acme/new"]


@on_postgresql
def test_a_worker_waits_for_no_host(host: Host) -> None:
    """A worker expires, claims and continues other repositories' deliveries while the host's is locked."""

    def states(repository: str) -> dict[str, list[str]]:
        path = f"{repository}/webhooks/{webhooks[repository]['id']}/history/"
        tags = ("called-back", "overdue")
        found = {tag: host.api("GET", f"{path}?tag={tag}").get_json()["results"] for tag in tags}
        return {tag: [each["state"] for each in results] for tag, results in found.items()}

    with Receiver() as receiver, ThreadPoolExecutor() as pool:
        webhooks = {each: host.create(receiver.url, receiver.url, repository=each) for each in ("acme/app", "acme/b")}
        for each in webhooks:
            host.push(each, "overdue")
        host.deliver()
        with host.writing() as session:
            awaiting = update(Delivery).where(Delivery.status == Status.AWAITING_CALLBACK)
            session.execute(awaiting.values(give_up_at=utcnow() - timedelta(minutes=1)))
        for each in webhooks:
            host.push(each, "called-back")
        with uncommitted(host, "deleted"):
            pool.submit(host.run_job).result(timeout=20)
            payload = receiver.requests[-1].body
            assert pool.submit(host.call_back, payload).result(timeout=20).status_code == 200
            pool.submit(host.run_job).result(timeout=20)
            assert states("acme/b") == {
                "called-back": ["succeeded", "awaiting_callback"],
                "overdue": ["expired", "skipped"],
            }
        assert states("acme/app") == {
            "called-back": ["pending", "waiting"],
            "overdue": ["awaiting_callback", "waiting"],
        }
        host.run_job()
        assert states("acme/app")["overdue"] == ["expired", "skipped"]


@on_postgresql
def test_requests_go_on_after_the_commit(host: Host) -> None:
    """A callback at a locked delivery is answered as soon as the host's transaction ends."""
    _, payload = sent(host, expect_final_callback=True)
    with ThreadPoolExecutor() as pool:
        with uncommitted(host, "deleted"):
            answer = pool.submit(host.call_back, payload)
        assert answer.result(timeout=20).status_code == 200


# Both


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (None, "NoneType is not str"),
        (5, "int is not str"),
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("a\0b", ".* has a NUL"),
        ("a\udc80b", "'a\\\\udc80b' has .* a lone surrogate"),
        ("x" * 256, "'x{12}...x{13}' has 256 characters, and 255 is the limit"),
    ],
)
def test_no_name(host: Host, name: Any, why: str) -> None:
    """An invalid repository name raises an error that says why, with the name cut short, in every call."""
    for call in (
        lambda: delete(host, name),
        lambda: rename(host, name, "acme/new"),
        lambda: rename(host, "acme/app", name),
    ):
        with pytest.raises(ValueError, match=f"not a repository name: {why}"):
            call()


@pytest.mark.parametrize("what", [delete, rename])
def test_commits_with_the_host(either: Host, what: Callable[[Host], None]) -> None:
    """A rollback of the host undoes the change."""
    sent(either)
    before = [stored(either, each) for each in (Webhook.scope, Webhook.deleted_id, Push.repository)]
    with either.app.app_context():
        either.hubhooks.repository_deleted("acme/app")
        either.db.session.rollback()
        either.hubhooks.repository_renamed("acme/app", "acme/new")
        either.db.session.rollback()
    assert [stored(either, each) for each in (Webhook.scope, Webhook.deleted_id, Push.repository)] == before


def test_by_signal(host: Host) -> None:
    """A host without access to HubHooks can send our signals instead; errors are raised to it."""
    host.create(URL)
    with host.app.app_context():
        repository_renamed.send(host.app, old="acme/app", new="acme/new")
        host.db.session.commit()
        assert names(host, "acme/new") == ["deploy"]
        repository_deleted.send(host.app, repository="acme/new")
        host.db.session.commit()
        assert names(host, "acme/new") == []
        with pytest.raises(ValueError, match="not a repository name"):
            repository_deleted.send(host.app, repository="")
    with pytest.raises(RuntimeError, match="application context"):
        repository_deleted.send(host.app, repository="acme/new")


def test_signals_of_other_apps(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal concerns only the app in whose context it is sent."""
    one, other = make_host(), make_host(config={"HUBHOOKS_QUEUE": "other"})
    one.create(URL)
    called: list[str] = []
    monkeypatch.setattr(other.hubhooks, "repository_deleted", called.append)
    with one.app.app_context():
        repository_deleted.send(one.app, repository="acme/app")
        one.db.session.commit()
    assert names(one, "acme/app") == []
    assert not called
