"""The operator's commands: `flask hubhooks …`."""

from __future__ import annotations

import click
from flask import Blueprint, current_app
from flask.cli import with_appcontext
from redis.exceptions import RedisError

from .credentials import encrypt_anew
from .delivery.worker import work
from .state import current_state


def add_commands(blueprint: Blueprint) -> None:
    blueprint.cli.short_help = "Docker Hub style webhooks."
    blueprint.cli.add_command(worker)
    blueprint.cli.add_command(rotate_keys)


@click.command()
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1024),
    help="Requests on the wire at most.  [default: HUBHOOKS_CONCURRENCY, 64]",
)
@click.option("--burst", is_flag=True, help="Deliver what is due now, then exit.")
@with_appcontext
def worker(concurrency: int | None, burst: bool) -> None:
    """Deliver webhooks.

    Run as many as you like, on as many machines as you like. SIGTERM lets it finish what is on the wire.
    """
    config = current_state().config
    click.echo(f"hubhooks: delivering from queue {config.queue!r}", err=True)
    try:
        work(current_app._get_current_object(), concurrency, burst)  # type: ignore[attr-defined]
    except RedisError as error:
        raise click.ClickException(f"Redis cannot be reached: {error}") from None
    click.echo("hubhooks: stopped", err=True)


@click.command()
@with_appcontext
def rotate_keys() -> None:
    """Encrypt all secrets and headers anew, with the newest key.

    First put a new key before the others in HUBHOOKS_ENCRYPTION_KEYS, or set a new SECRET_KEY with the old one in
    SECRET_KEY_FALLBACKS, and restart every web process and worker: one that does not have the new key goes on
    encrypting with the old one, and cannot read what this has encrypted. Then run this; then the old key can go.
    """
    rotated, unreadable = encrypt_anew(current_state())
    click.echo(f"hubhooks: secrets and headers of {rotated} webhooks are encrypted with the newest key")
    if unreadable:
        names = ", ".join(unreadable[:10])
        raise click.ClickException(
            f"{len(unreadable)} webhooks could not be decrypted with any key ({names}): put the old key behind the "
            "new one and run this again, or give them new secrets"
        )
