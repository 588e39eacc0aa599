"""`python -m example_app.demo`: show the whole path once; with `--keep`, leave it running, to click through."""

from __future__ import annotations

import argparse
import os
import sys
import time

import requests

from example_app.demo.history import History
from example_app.demo.servers import Servers, free_port
from example_app.demo.story import REPOSITORY, TAG, Story
from example_app.demo.terminal import Terminal
from example_app.demo.waiting import Failed, Stopped, StopSignal

KEPT_PORT = 5000
STOP_S = 0.1
"""When a part fails: how long the signal may take that then ended it, as Ctrl-C goes to all processes at once."""

TO_OPEN = """
To open in a browser, and sign in as alice with the password alice:

   {url}/
   {url}/r/{repository}/webhooks/

The same by the API:

   curl -u alice:alice {url}/v2/repositories/{repository}/webhooks/2/history/

To push another tag, from another terminal:

   skopeo copy --src-tls-verify=false --dest-tls-verify=false --dest-creds alice:alice \\
     docker://{host}/{repository}:{tag} docker://{host}/{repository}:2.0

   podman pull --tls-verify=false {host}/{repository}:{tag}
   podman push --tls-verify=false --creds alice:alice {host}/{repository}:{tag} {host}/{repository}:2.0

   docker login {host} -u alice -p alice
   docker pull {host}/{repository}:{tag}
   docker tag {host}/{repository}:{tag} {host}/{repository}:2.0
   docker push {host}/{repository}:2.0

What the receivers get appears here. Ctrl-C ends everything.
"""


def main() -> int:
    """Return 0 if everything was seen, 1 if not, and as shells do 128 + n when signal n stopped it before."""
    parser = argparse.ArgumentParser(prog="python -m example_app.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    keep = parser.parse_args().keep
    stop = StopSignal()
    terminal = Terminal(sys.stdout)
    with Servers(stop, free_port(KEPT_PORT if keep else 0)) as servers, Story(servers, terminal) as story:
        try:
            return _run(servers, story, terminal, stop, keep)
        except Stopped as stopped:
            terminal.line()
            terminal.line(f"Stopped by {stopped}.", indent="")
            return 0 if story.told else 128 + stopped.signal_number


def _run(servers: Servers, story: Story, terminal: Terminal, stop: StopSignal, keep: bool) -> int:
    began = time.monotonic()
    try:
        story.tell()
        terminal.line(f"Everything was seen. It took {time.monotonic() - began:.1f} s.", "green", indent="")
        if keep:
            _keep(servers, story, terminal)
    except (Failed, requests.RequestException) as failure:
        time.sleep(STOP_S)
        stop.check()
        servers.report(failure, terminal)
        return 1
    return 0


def _keep(servers: Servers, story: Story, terminal: Terminal) -> None:
    with History(servers, terminal, story.events) as history:
        history.make()
        _say_what_to_do(servers, terminal)
        story.keep_watching()


def _say_what_to_do(servers: Servers, terminal: Terminal) -> None:
    host = servers.registry_url.removeprefix("http://")
    text = TO_OPEN.format(url=servers.registry_url, host=host, repository=REPOSITORY, tag=TAG)
    for line in text.splitlines():
        terminal.line(line, indent="")


if __name__ == "__main__":
    try:
        code = main()
    except BrokenPipeError:  # nobody reads any more; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
