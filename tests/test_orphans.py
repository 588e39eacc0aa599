"""`flask hubhooks orphans`: webhooks whose repository the host deleted without telling us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from click.testing import Result
from flask import request
from sqlalchemy import select, text

from flask_hubhooks import Repository
from flask_hubhooks.records.models import Delivery, Status, Webhook

from .support.host import Host
from .test_own_connections import begins_immediately

URL = "https://ci.example.com/hook"


def orphans(host: Host, *options: str, answer: str = "") -> Result:
    return host.app.test_cli_runner().invoke(args=["hubhooks", "orphans", *options], input=answer)


def fill(host: Host, count: int = 20) -> list[str]:
    """Create as many webhooks, two for each repository; returns the lines that list those of `acme/app0`."""
    made = [host.create(URL, repository=f"acme/app{number // 2}", name=f"hook {number}") for number in range(count)]
    return [f"acme/app0\t{each['name']}\t{each['id']}" for each in made[:2]]


def forget(host: Host, *names: str) -> Counter[str]:
    """Have the loader know no repository of these names; returns how often it is asked for which name."""
    asked: Counter[str] = Counter()

    @host.hubhooks.repository_loader
    def load(name: str) -> Repository | None:
        asked[name] += 1
        return None if name in names else Repository()

    return asked


def live(host: Host) -> Counter[str]:
    """How many webhooks each repository has."""
    with host.writing() as session:
        return Counter(session.scalars(select(Webhook.scope).where(Webhook.deleted_id == 0)))


def test_orphans_are_listed(host: Host) -> None:
    """Without options the command lists the orphans, changes nothing, and asks the loader once per repository."""
    lines = fill(host)
    asked = forget(host, "acme/app0")
    result = orphans(host)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == lines
    assert "2 of 20 webhooks have no repository or namespace" in result.stderr
    assert set(asked.values()) == {1} and len(asked) == 10
    assert live(host).total() == 20


def test_orphans_are_deleted(host: Host) -> None:
    """`--delete --yes` ends the orphans with what they have not sent, leaves the rest, and can be repeated."""
    fill(host)
    for repository in ("acme/app0", "acme/app1"):
        host.push(repository)
    forget(host, "acme/app0")
    result = orphans(host, "--delete", "--yes")
    assert (result.exit_code, "deleted 2 webhooks" in result.stderr) == (0, True), result.output
    assert "acme/app0" not in live(host) and live(host).total() == 18
    with host.writing() as session:
        sent = session.execute(select(Webhook.scope, Delivery.status).join(Delivery.webhook)).all()
    assert Counter(map(tuple, sent)) == {("acme/app0", Status.CANCELLED): 2, ("acme/app1", Status.PENDING): 2}
    again = orphans(host, "--delete", "--yes")
    assert (again.exit_code, again.stdout) == (0, "")
    assert live(host).total() == 18


@pytest.mark.parametrize("database_uri", ["sqlite"], indirect=True)
def test_no_lock_while_the_loader_runs(make_host: Callable[..., Host]) -> None:
    """The loader runs outside of our transactions: it may use the database, though that begins with a lock."""
    host = make_host(config={"SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"timeout": 0.1}}})
    begins_immediately(host)
    fill(host)

    @host.hubhooks.repository_loader
    def load(name: str) -> Repository | None:
        host.db.session.execute(text("SELECT 1"))
        return None if name == "acme/app0" else Repository()

    result = orphans(host, "--delete", "--yes")
    assert "deleted 2 webhooks" in result.stderr, result.output
    assert "acme/app0" not in live(host)


@pytest.mark.parametrize(("answer", "left"), [("y\n", 18), ("n\n", 20), ("", 20)])
def test_deleting_asks(host: Host, answer: str, left: int) -> None:
    """Without `--yes` the command asks, with the number, and deletes nothing unless the answer is yes."""
    fill(host)
    forget(host, "acme/app0")
    result = orphans(host, "--delete", answer=answer)
    assert "Delete the listed webhooks (2)?" in result.stderr
    assert (live(host).total(), result.exit_code) == (left, 0 if left == 18 else 1)


def test_created_while_it_asks(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Webhooks and repositories that are created while the command asks are kept, and not counted."""
    fill(host, 40)
    forget(host, "acme/app0", "acme/app1")

    def confirm(*_: object, **__: object) -> None:
        forget(host)
        host.create(URL, repository="acme/app0", name="new")
        forget(host, "acme/app0")

    monkeypatch.setattr("click.confirm", confirm)
    result = orphans(host, "--delete")
    assert "4 of 40 webhooks have no repository or namespace" in result.stderr
    assert (result.exit_code, "deleted 2 webhooks" in result.stderr) == (0, True), result.output
    assert (live(host)["acme/app0"], live(host)["acme/app1"]) == (1, 2)


@pytest.mark.parametrize("options", [("--yes",), ()])
def test_more_than_a_tenth(host: Host, options: tuple[str, ...]) -> None:
    """More than a tenth of all webhooks is deleted with `--force` only: the loader may be at fault."""
    fill(host, 18)
    forget(host, "acme/app0")
    result = orphans(host, "--delete", *options, answer="y\n")
    assert (result.exit_code, "--force" in result.stderr, live(host).total()) == (1, True, 18)
    result = orphans(host, "--delete", "--force", *options, answer="y\n")
    assert (result.exit_code, live(host).total()) == (0, 16), result.output


def test_no_loader(host: Host) -> None:
    """Without a repository_loader the command is an error in one line."""
    fill(host, 2)
    host.state.handlers.repository_loader = None
    result = orphans(host, "--delete", "--yes", "--force")
    assert (result.exit_code, live(host).total()) == (1, 2)
    assert result.stderr.startswith("Error: ") and "repository_loader" in result.stderr


def test_a_loader_that_raises(host: Host) -> None:
    """A repository whose loader raises, such as one that needs a visitor, counts as existing."""
    lines = fill(host)

    @host.hubhooks.repository_loader
    def load(name: str) -> Repository | None:
        if name != "acme/app0":
            return Repository(description=request.headers["X-User"])
        return None

    result = orphans(host, "--delete", "--yes")
    assert (result.exit_code, result.stdout.splitlines()) == (0, lines), result.output
    assert live(host).total() == 18


def test_deleted_webhooks_are_no_orphans(host: Host) -> None:
    """Webhooks that are deleted already are neither listed nor counted."""
    made = host.create(URL, repository="acme/old")
    assert host.api("DELETE", f"acme/old/webhooks/{made['id']}/").status_code == 204
    forget(host, "acme/old")
    result = orphans(host, "--delete", "--yes")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 of 0 webhooks" in result.stderr
