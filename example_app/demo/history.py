"""Some history to look at, made by really delivering: what succeeded, failed, is tried again, waits or is paused."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from queue import Empty, SimpleQueue
from typing import Any

from example_app.demo.client import Client
from example_app.demo.receiver import Event, Receiver
from example_app.demo.servers import Servers
from example_app.demo.story import REPOSITORY, STEP_S
from example_app.demo.terminal import Terminal
from example_app.demo.waiting import until
from example_app.image import build_image

WEBHOOKS = {"chat": ["chat"], "mirror": ["mirror"], "staging": ["staging", "promote"], "scan": ["scan", "publish"]}
"""The receivers of each webhook, in order."""

PASSED = {"state": "success", "description": "all is well", "context": "Acme"}
FAILED = {"state": "failure", "description": "3 of 387 tests FAILED", "context": "Acme"}

DONE, DONE_BOTH = ["succeeded"], ["succeeded", "succeeded"]
TRIED_AGAIN = "to be tried again"

QUIET_S = 0.1
"""How long nothing happens once the receivers have done all they do."""


class History:
    """`with History(servers, terminal, events) as history: history.make()`.

    Its receivers go on until the end as they have last been. What happens to them goes into `events`, from which what
    came while the history was made is taken.
    """

    def __init__(self, servers: Servers, terminal: Terminal, events: SimpleQueue[Event]) -> None:
        self._servers = servers
        self._terminal = terminal
        self._events = events
        self._client = Client(servers.registry_url, lambda *_: None)
        self._receivers = {
            name: Receiver(name, events, PASSED if len(names) > 1 else None)
            for names in WEBHOOKS.values()
            for name in names
        }
        self._webhooks: dict[str, dict[str, Any]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> History:
        for receiver in self._receivers.values():
            self._stack.enter_context(receiver)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def make(self) -> None:
        """Make it. Raises `Failed` where it does not become what it should, `Stopped` when it is interrupted."""
        self._terminal.step("Leave some history to look at: four more webhooks, and pushes that do not all go well")
        for name, receivers in WEBHOOKS.items():
            self._create_webhook(name, [self._receivers[each] for each in receivers])
        self._push("1.2", chat=DONE, mirror=DONE, staging=DONE_BOTH, scan=DONE_BOTH)
        self._client.send_test(REPOSITORY, self._webhooks["chat"])
        self._see("hubhooks-test", chat=DONE)
        self._client.pause(REPOSITORY, self._webhooks["mirror"])
        self._terminal.line(f"{'':<14} mirror    paused")
        self._receivers["staging"].callback = FAILED
        self._push("1.3-rc1", chat=DONE, staging=["failed", "skipped"], scan=DONE_BOTH)
        self._receivers["staging"].callback = PASSED
        self._receivers["chat"].status = 500
        self._receivers["scan"].callback = None
        self._push("1.3", chat=[TRIED_AGAIN], staging=DONE_BOTH, scan=["awaiting_callback", "waiting"])
        self._forget_events()

    def _create_webhook(self, name: str, receivers: list[Receiver]) -> None:
        self._servers.check()
        webhook = self._client.create_webhook(REPOSITORY, name, *(receiver.url for receiver in receivers))
        for receiver in receivers:
            receiver.secret = webhook["secret"]
        self._webhooks[name] = webhook

    def _push(self, tag: str, **expected: list[str]) -> None:
        self._servers.check()
        self._client.push(build_image({"app/version": f"{tag}\n".encode()}), REPOSITORY, tag)
        self._see(tag, **expected)

    def _see(self, tag: str, **expected: list[str]) -> None:
        """Wait until the deliveries of each webhook stand as expected, and say so."""
        for name, states in expected.items():
            self._see_one(tag, name, states)
            self._terminal.line(f"{tag:<14} {name:<9} {', '.join(states)}")

    def _see_one(self, tag: str, name: str, states: list[str]) -> None:
        def as_expected() -> bool:
            return [_state(each) for each in self._client.deliveries(REPOSITORY, self._webhooks[name], tag)] == states

        until(f"{name} of {tag}: {', '.join(states)}", as_expected, self._servers.check, STEP_S)

    def _forget_events(self) -> None:
        with suppress(Empty):
            while True:
                self._events.get(timeout=QUIET_S)


def _state(delivery: dict[str, Any]) -> str:
    tried = delivery["state"] == "pending" and delivery["attempt_count"] and delivery["next_attempt_at"]
    return TRIED_AGAIN if tried else str(delivery["state"])
