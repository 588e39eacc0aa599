"""The operator's commands: `flask hubhooks …`."""

from __future__ import annotations

import click
from flask import Blueprint, current_app
from flask.cli import with_appcontext
from redis.exceptions import RedisError

from .delivery.worker import work
from .state import current_state


def add_commands(blueprint: Blueprint) -> None:
    blueprint.cli.short_help = "Docker Hub style webhooks."
    blueprint.cli.add_command(worker)


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
