"""Runs a site's app with gunicorn."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from .servers import Child
from .sites import Site

GUNICORN = ("-m", "gunicorn", "--workers", "2", "--threads", "4", "--preload", "benchmarks.host:create_app()")


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """A socket for gunicorn and its URL, which the app must know before gunicorn starts."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as one:
        yield one, f"http://127.0.0.1:{one.getsockname()[1]}"


def web(site: Site, socket: socket.socket) -> AbstractContextManager[Child]:
    """Run the site's app with gunicorn, in 2 processes."""
    return site.child(*GUNICORN, "--bind", f"fd://{socket.fileno()}", fds=[socket.fileno()])
