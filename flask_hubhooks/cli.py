"""The operator's commands: `flask hubhooks …`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from time import monotonic, sleep

import click
from flask import Blueprint, current_app
from flask.cli import with_appcontext
from flask.logging import wsgi_errors_stream
from sqlalchemy import select

from .dialects import wait_for_repository
from .outages import explained
from .records import repositories
from .records.credentials import encrypt_anew
from .records.models import Webhook
from .records.retention import prunable
from .records.retention import prune as prune_ended
from .records.scopes import REGISTRY, is_pattern
from .state import State, current_state
from .worker.process import work
from .worker.readiness import CannotWork, check_tables


def add_commands(blueprint: Blueprint) -> None:
    blueprint.cli.short_help = "Docker Hub style webhooks."
    blueprint.cli.add_command(worker)
    blueprint.cli.add_command(prune)
    blueprint.cli.add_command(rotate_keys)
    blueprint.cli.add_command(orphans)


@click.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1, 65_536),
    help="Maximum number of requests in flight.  [default: HUBHOOKS_CONCURRENCY, 1000]",
)
@click.option("--burst", is_flag=True, help="Deliver everything that is due now, then exit.")
@with_appcontext
def worker(concurrency: int | None, burst: bool) -> None:
    """Deliver webhooks.

    Run any number of workers on any number of machines. On SIGTERM a worker finishes its requests in flight and exits.
    """

    ours = logging.getLogger(__package__)
    if not ours.hasHandlers():  # the host has configured none
        # Its stderr is the present one, which tests of hosts replace.
        handler = logging.StreamHandler(wsgi_errors_stream)  # type: ignore[call-overload]
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        ours.addHandler(handler)
        if ours.level == logging.NOTSET:
            ours.setLevel(logging.INFO)

    def ready() -> None:
        click.echo(f"hubhooks: delivering from queue {current_state().config.queue!r}", err=True)

    with _working():
        work(current_app._get_current_object(), concurrency, burst, ready)  # type: ignore[attr-defined]
    click.echo("hubhooks: stopped", err=True)


@contextmanager
def _working() -> Iterator[State]:
    """Yield the app's state. What keeps a command from working takes one line; the process closes its connections."""
    state = current_state()
    state.close_at_exit()
    try:
        yield state
    except CannotWork as reason:
        raise click.ClickException(str(reason)) from None
    except state.database_outage.faults as fault:
        raise click.ClickException(f"Cannot use {state.database_outage.server}: {explained(fault)}") from None


@click.command()
@with_appcontext
def prune() -> None:
    """Delete deliveries that ended more than HUBHOOKS_RETENTION_DAYS ago.

    Workers do this once a day. This command does it now, and pauses after each batch so that deliveries go on.
    """
    with _working() as state:
        if state.config.retention_days is None:
            return click.echo("hubhooks: nothing to delete, because HUBHOOKS_RETENTION_DAYS is None")
        check_tables(state)
        deleted = sum(_shown(prune_ended(state), prunable(state)))
    click.echo(f"hubhooks: deleted {deleted} deliveries that ended more than {state.config.retention_days} days ago")


def _shown(batches: Iterator[int], length: int) -> Iterator[int]:
    """Pass the batches on, with a pause after each and, on a terminal, a progress bar."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=length, file=StringIO() if hidden else sys.stderr, label="hubhooks") as bar:
        began = monotonic()
        for deleted in batches:
            bar.update(deleted)
            yield deleted
            sleep(monotonic() - began)
            began = monotonic()


@click.command()
@with_appcontext
def rotate_keys() -> None:
    """Encrypt all secrets and headers again, with the newest key.

    First put the new key at the beginning of HUBHOOKS_ENCRYPTION_KEYS, or set a new SECRET_KEY and move the old one to
    SECRET_KEY_FALLBACKS. Restart every web process and worker: a process without the new key keeps encrypting with the
    old one, and cannot read what this command has encrypted. Then run this command. Afterwards, remove the old key.
    """
    with _working() as state:
        check_tables(state)
        rotated, unreadable = encrypt_anew(state)
    click.echo(f"hubhooks: encrypted the secrets and headers of {rotated} webhooks with the newest key")
    if unreadable:
        names = ", ".join(unreadable[:10])
        raise click.ClickException(
            f"{len(unreadable)} webhooks could not be decrypted with any key ({names}). Put the old key after the "
            "new one and run this command again, or give them new secrets."
        )


@click.command()
@click.option("--delete", is_flag=True, help="Delete the listed webhooks.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting.")
@click.option("--force", is_flag=True, help="Delete even if it is more than a tenth of all webhooks.")
@with_appcontext
def orphans(delete: bool, yes: bool, force: bool) -> None:
    """List webhooks whose repository or namespace does not exist.

    The repository_loader decides: a repository does not exist if it returns None. If it raises, for example because
    it needs a signed-in visitor, the repository counts as existing. A namespace does not exist if its webhooks got
    pushes, or its repositories have webhooks, and none of these repositories exists any more. Each line has the
    repository or the namespace, the name and the id of a webhook, separated by tabs.
    """
    with _working() as state:
        if state.handlers.repository_loader is None:
            raise click.ClickException("This command needs a repository_loader. Without one, every repository exists.")
        check_tables(state)
        with state.reading() as session:
            live = select(Webhook.scope, Webhook.name, Webhook.id).where(Webhook.deleted_id == 0)
            webhooks = session.execute(live.order_by(Webhook.scope, Webhook.id)).all()
        names = dict.fromkeys(webhook.scope for webhook in webhooks)
        missing = {name for name in names if not _exists(state, name)}
        found = [webhook for webhook in webhooks if webhook.scope in missing]
        for webhook in found:
            click.echo("\t".join(map(str, webhook)))
        click.echo(f"hubhooks: {len(found)} of {len(webhooks)} webhooks have no repository or namespace", err=True)
        if not (delete and found):
            return
        if len(found) * 10 > len(webhooks) and not force:
            raise click.ClickException(
                "Nothing was deleted, because this is more than a tenth of all webhooks. Check that your "
                "repository_loader works outside of a request, then use --force."
            )
        if not yes:
            click.confirm(f"Delete the listed webhooks ({len(found)})?", abort=True, err=True)
        listed = {webhook.id for webhook in found}
        deleted = 0
        for name in sorted(missing):
            if _exists(state, name):  # it has been created meanwhile
                continue
            with state.writing() as session:
                wait_for_repository(session, name)
                deleted += repositories.delete(session, name, only=listed)
        click.echo(f"hubhooks: deleted {deleted} webhooks", err=True)


def _exists(state: State, scope: str) -> bool:
    """Whether a repository exists, or any of those that we know of in a namespace. One without any counts as existing.

    Without a request, a loader that needs a visitor raises, and does not take the repository for missing.
    """
    if scope == REGISTRY:
        return True
    known = {scope}
    if is_pattern(scope):
        with state.reading() as session:
            known = repositories.known_in(session, scope)
    return not known or any(state.details_for_push(name, needs_request=False) is not None for name in sorted(known))
