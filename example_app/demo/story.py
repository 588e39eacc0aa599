"""What the demo does and shows. Each part of it is checked, so it can only be told to its end if it is true."""

from __future__ import annotations

import time
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import Any

from example_app.demo.client import Client
from example_app.demo.receiver import Event, Receiver
from example_app.demo.servers import Servers
from example_app.demo.terminal import INDENT, Terminal
from example_app.demo.waiting import Failed, until
from example_app.image import build_image

REPOSITORY = "acme/app"
FIRST_TAG, TAG = "1.0", "1.1"
START_S = 30.0
STEP_S = 10.0
"""How long the parts may take to start, and each thing that follows to be seen."""

TESTED = {"state": "success", "description": "387 tests PASSED", "context": "Continuous integration by Acme CI"}
RELEASED = {"state": "success", "description": "live in production", "context": "Acme release train"}

EXPECTED = [
    ("deploy", "received"),
    ("test", "received"),
    ("test", "calls back"),
    ("test", "answered"),
    ("release", "received"),
    ("release", "calls back"),
    ("release", "answered"),
]
"""What the receivers must do and see, each receiver in this order, and "release" only once "test" has called back."""

HEADING = ["webhook", "hook", "tag", "status", "state", "attempts", "HTTP", "callback"]


class Story:
    """The demo on its servers: `with Story(servers, terminal) as story: story.tell()`."""

    def __init__(self, servers: Servers, terminal: Terminal) -> None:
        self._servers = servers
        self._terminal = terminal
        self._client = Client(servers.registry_url, terminal.request)
        self.events: SimpleQueue[Event] = SimpleQueue()
        """What happens to receivers, to be shown."""
        self._deploy = Receiver("deploy", self.events)
        self._test = Receiver("test", self.events, TESTED)
        self._release = Receiver("release", self.events, RELEASED)
        self._stack = ExitStack()
        self.told = False
        """Whether it was told to its end."""
        self._began: float | None = None
        """When the last push of ours began; None: others push, and the time of day is shown instead."""

    def __enter__(self) -> Story:
        for receiver in (self._deploy, self._test, self._release):
            self._stack.enter_context(receiver)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def tell(self) -> None:
        """Tell it from start to end. Raises `Failed` for what is not seen, `Stopped` when it is interrupted."""
        self._start()
        self._push(FIRST_TAG, "a repository exists from its first push on")
        webhooks = self._create_webhooks()
        self._push(TAG, "this one calls the webhooks")
        self._watch_receivers()
        self._watch_chain(webhooks[1])
        self._show_history(webhooks)
        self._terminal.line()
        self.told = True

    def keep_watching(self) -> None:
        """Show what else the receivers get, until the demo is stopped, which raises `Stopped`."""
        self._began = None
        while True:
            self._servers.check()
            event = self._next_event()
            if event:
                self._show(event)

    def _start(self) -> None:
        servers, line = self._servers, self._terminal.line
        self._terminal.step("Start everything")
        servers.start()
        line(f"{'valkey':<10}{servers.redis_url}")
        line(f"{'worker':<10}process {servers.process_id('worker')}")
        for receiver in (self._deploy, self._test, self._release):
            line(f"{'receiver':<10}{receiver.url}")
        until("the registry answering", self._client.is_up, servers.check, START_S)
        line(f"{'registry':<10}{servers.registry_url}  process {servers.process_id('registry')}")

    def _push(self, tag: str, why: str) -> None:
        self._terminal.step(f"Push {REPOSITORY}:{tag} by the registry protocol: {why}")
        self._servers.check()
        self._began = time.monotonic()
        self._client.push(build_image({"app/version": f"{tag}\n".encode()}), REPOSITORY, tag)

    def _create_webhooks(self) -> list[dict[str, Any]]:
        self._terminal.step("Create webhooks by the API: one with one URL, and a chain of two")
        return [
            self._create_webhook("deploy", self._deploy),
            self._create_webhook("pipeline", self._test, self._release),
        ]

    def _create_webhook(self, name: str, *receivers: Receiver) -> dict[str, Any]:
        self._servers.check()
        webhook = self._client.create_webhook(REPOSITORY, name, *(receiver.url for receiver in receivers))
        for receiver in receivers:
            receiver.secret = webhook["secret"]
        self._terminal.line(f"      {name}: {' -> '.join(hook['hook_url'] for hook in webhook['hooks'])}")
        return webhook

    def _watch_receivers(self) -> None:
        self._terminal.step("See the worker deliver and the receivers call back")
        seen: list[tuple[str, str]] = []
        while missing := [each for each in EXPECTED if each not in seen]:
            what = ", ".join(" ".join(each) for each in missing)
            event = until(what, self._next_event, self._servers.check, STEP_S)
            self._show(event)
            self._check(event)
            seen.append((event.receiver, event.kind))
        if seen.index(("release", "received")) < seen.index(("test", "calls back")):
            raise Failed("the second hook of the chain was called before the first one had called back")

    def _next_event(self) -> Event | None:
        try:
            return self.events.get(timeout=0.05)
        except Empty:
            return None

    def _check(self, event: Event) -> None:
        if event.kind == "refused":
            raise Failed(f"{event.receiver} got a request whose signature is wrong")
        if event.kind == "answered" and event.answer != "200":
            raise Failed(f"the callback of {event.receiver} was answered with {event.answer}")
        if event.kind == "received" and _image(event) != f"{REPOSITORY}:{TAG}":
            raise Failed(f"{event.receiver} got a payload for {_image(event)}")

    def _show(self, event: Event) -> None:
        self._happened(event.time, event.receiver, _told(event))
        if event.receiver == "deploy" and event.payload:
            self._terminal.document(event.payload, indent=INDENT + " " * 21)

    def _happened(self, moment: float, who: str, what: str) -> None:
        when = time.strftime("%H:%M:%S") if self._began is None else f"+{moment - self._began:.3f} s"
        self._terminal.line(f"{when:<10} {self._terminal.coloured(f'{who:<9}', 'yellow')} {what}")

    def _watch_chain(self, chain: dict[str, Any]) -> None:
        def finished() -> bool:
            deliveries = self._client.history(REPOSITORY, chain)
            return [each["state"] for each in deliveries] == ["succeeded", "succeeded"]

        until("the chain finished", finished, self._servers.check, STEP_S)
        self._happened(time.monotonic(), chain["name"], "the chain is finished: both hooks succeeded")

    def _show_history(self, webhooks: list[dict[str, Any]]) -> None:
        self._terminal.step("Read the history by the API")
        rows = [row for webhook in webhooks for row in self._history_of(webhook)]
        self._terminal.table([HEADING, *rows])

    def _history_of(self, webhook: dict[str, Any]) -> list[list[object]]:
        hooks = len(webhook["hooks"])

        def settled() -> list[dict[str, Any]]:
            deliveries = self._client.history(REPOSITORY, webhook)
            done = len(deliveries) == hooks and all(each["state"] == "succeeded" for each in deliveries)
            return deliveries if done else []

        what = f"{hooks} succeeded in the history of {webhook['name']}"
        deliveries = until(what, settled, self._servers.check, STEP_S)
        return [_row(webhook["name"], delivery) for delivery in deliveries]


def _image(event: Event) -> str:
    return f"{event.payload['repository']['repo_name']}:{event.payload['push_data']['tag']}"


def _told(event: Event) -> str:
    if event.kind == "received":
        return f"received the payload for {_image(event)}; its signature is right"
    if event.kind == "calls back":
        return f'posts its callback: {event.callback["state"]}, "{event.callback["description"]}"'
    if event.kind == "answered":
        return f"its callback was answered with {event.answer}"
    return "refused a request: its signature is wrong"


def _row(name: str, delivery: dict[str, Any]) -> list[object]:
    status_code = delivery["attempts"][-1]["status_code"] if delivery["attempts"] else None
    callback = delivery["callback"]
    return [
        name,
        f"{delivery['position'] + 1}/{delivery['chain_length']} {delivery['hook']['hook_url'].rpartition('/')[2]}",
        delivery["push"]["tag"],
        delivery["status"],
        delivery["state"],
        len(delivery["attempts"]),
        status_code or "-",
        f"{callback['state']}: {callback['description']}" if callback else "none expected",
    ]
