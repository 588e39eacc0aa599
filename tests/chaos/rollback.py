"""Pairs of pushes of a tag to a receiver that deploys the digest it is sent: it must never end on the older one.

`python -m tests.chaos.rollback [--pairs N] [--workers N] [--kills N] [--supersede yes|no]`: exit code 1 if it did.

The receiver fails at times, before it has deployed or after. Halfway all webhooks are paused for a while. Workers get
SIGKILL, and others take their places.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import ColumnElement, func, select

from flask_hubhooks import ImagePush
from flask_hubhooks.records.models import Delivery, Status, Webhook
from flask_hubhooks.records.transitions import HELD_PAUSED, SUPERSEDED
from flask_hubhooks.state import current_state

from .app import create_app, db, hubhooks
from .servers import Child, Postgres, Valkey

REPOSITORIES = 50
PAIRS_PER_S = 20
SLOWEST_S = 1.5
"""How long the receiver takes for an answer at most: below the deadline, since it would deploy after that."""
WAYS = ("deploys", "fails", "resets", "hangs", "deploys and fails", "deploys and resets")
WEIGHTS = (55, 20, 10, 3, 8, 4)
QUIET_S = 60.0
"""If nothing has ended for so long, it is stuck."""


class Deployer:
    """A receiver that deploys what it is sent, in an event loop on a thread of its own. It fails as a seed decides."""

    def __init__(self, seed: int) -> None:
        self._choice = random.Random(f"{seed} receiver")
        self.deployed: defaultdict[str, list[str]] = defaultdict(list)
        """The digests of each image, in the order in which they were deployed."""
        self.ways: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self.port = 0
        threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True).start()
        self._started.wait()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # the worker was killed
            while body := await _read(reader):
                if not await self._receive(body, reader, writer):
                    break
        writer.close()

    async def _receive(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Treat a request; tell whether the connection is kept."""
        way = self._choice.choices(WAYS, WEIGHTS)[0]
        await asyncio.sleep(self._choice.uniform(0, SLOWEST_S) ** 2 / SLOWEST_S)
        self.ways[way] += 1
        if way == "hangs":
            await reader.read()
            return False
        if way.startswith("deploys"):
            event = json.loads(body)["event_data"]
            [resource] = event["resources"]
            self.deployed[f"{event['repository']['repo_full_name']}:{resource['tag']}"].append(resource["digest"])
        if way.endswith("resets"):
            writer.transport.abort()
            return False
        status = "500 Internal Server Error" if way.endswith("fails") else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return True


async def _read(reader: asyncio.StreamReader) -> bytes:
    length = 0
    while line := (await reader.readline()).strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return await reader.readexactly(length)


class Workers:
    """Processes of `flask hubhooks worker`."""

    def __init__(self, folder: Path, environment: dict[str, str], count: int) -> None:
        self._folder, self._environment = folder, environment
        self._started = 0
        self.running = [self._start() for _ in range(count)]

    def _start(self) -> Child:
        self._started += 1
        name = f"worker-{self._started}"
        return Child(
            self._folder / f"{name}.log", self._environment | {"CHAOS_WORKER": name}, "flask", "hubhooks", "worker"
        )

    def kill(self, place: int) -> None:
        self.running[place].end(signal.SIGKILL)
        self.running[place] = self._start()

    def close(self) -> None:
        for each in self.running:
            each.end(signal.SIGKILL)


def digest(pair: int, number: int) -> str:
    return f"sha256:{number}{pair:063x}"


def image(pair: int) -> str:
    return f"acme/app{pair % REPOSITORIES}:v{pair}"


@contextmanager
def _servers() -> Iterator[tuple[Path, dict[str, str]]]:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="hubhooks-rollback-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        postgres = Postgres(folder)
        stack.callback(postgres.close)
        valkey = Valkey(folder)
        stack.callback(valkey.close)
        yield (
            folder,
            {
                "FLASK_APP": "tests.chaos.app:create_app",
                "FLASK_SQLALCHEMY_DATABASE_URI": postgres.uri.replace("postgresql://", "postgresql+psycopg://"),
                "FLASK_HUBHOOKS_REDIS_URL": valkey.url,
                "FLASK_HUBHOOKS_EXTERNAL_URL": "http://127.0.0.1:9",
            },
        )


class Run:
    """What is pushed, and what is done meanwhile."""

    def __init__(self, given: argparse.Namespace, client: FlaskClient) -> None:
        self._given, self._client = given, client
        choice = random.Random(f"{given.seed} pushes")
        self._seconds = given.pairs / PAIRS_PER_S
        pushes = []
        for pair in range(given.pairs):
            first = choice.uniform(0, self._seconds)
            pushes += [(first, pair, 1), (first + choice.uniform(0, given.gap), pair, 2)]
        self._pushes = sorted(pushes)
        self._choice = random.Random(f"{given.seed} kills")
        self.counts: Counter[str] = Counter()

    def create_webhooks(self, port: int) -> None:
        supersede = self._given.supersede == "yes"
        for number in range(REPOSITORIES):
            hook = {"hook_url": f"http://127.0.0.1:{port}/{number}", "payload_format": "harbor", "supersede": supersede}
            self._ask("POST", number, "", {"name": "deploy", "hooks": [hook]})

    def _ask(self, method: str, repository: int, path: str, content: object) -> Any:
        url = f"/v2/repositories/acme/app{repository}/webhooks/{path}"
        for _ in range(30):  # a worker may hold the repository's lock
            answer = self._client.open(url, method=method, json=content)
            if answer.status_code != 503:
                break
            sleep(0.1)
        assert answer.status_code < 300, answer.text
        return answer.get_json()

    def perform(self, workers: Workers) -> None:
        """Push, kill, and pause in the middle, when nothing is pushed, since that would not be recorded."""
        kills = sorted(self._choice.uniform(0.1, 0.9) * self._seconds for _ in range(self._given.kills))
        middle = len(self._pushes) // 2
        began = monotonic()
        for number, (at_s, pair, which) in enumerate(self._pushes):
            if number == middle:
                paused_at = monotonic()
                self._pause()
                began += monotonic() - paused_at
            while (ahead := at_s - (monotonic() - began)) > 0:
                sleep(min(ahead, 0.05))
                if kills and kills[0] < monotonic() - began:
                    kills.pop(0)
                    self._kill(workers)
            repository, tag = image(pair).split(":")
            hubhooks.push(ImagePush(repository, tag, digest=digest(pair, which), pusher=f"pusher {which}"))
        while kills:
            kills.pop()
            sleep(0.5)
            self._kill(workers)

    def _kill(self, workers: Workers) -> None:
        workers.kill(self._choice.randrange(len(workers.running)))
        self.counts["workers killed"] += 1

    def _pause(self) -> None:
        """Pause all webhooks until what was due is held, and resume them."""
        for active in (False, True):
            for number in range(REPOSITORIES):
                self._ask("PATCH", number, f"{number + 1}/", {"active": active})
            if not active:
                sleep(2.0)
                self.counts["held by the pause"] = self._count(Delivery.reason == HELD_PAUSED)

    def _count(self, *conditions: ColumnElement[bool]) -> int:
        with current_state().reading() as session:
            return session.scalar(select(func.count()).select_from(Delivery).where(*conditions)) or 0

    def drain(self) -> None:
        """Wait until all has ended, or nothing does any more."""
        before, since = -1, monotonic()
        while (unfinished := self._count(Delivery.finished_at.is_(None))) and monotonic() < since + QUIET_S:
            if unfinished != before:
                before, since = unfinished, monotonic()
            sleep(0.2)
        self.counts["stuck"] = unfinished
        if unfinished:
            self._print_stuck()
        self.counts["failed for good"] = self._count(Delivery.status == Status.FAILED)
        self.counts["superseded"] = self._count(Delivery.reason == SUPERSEDED)
        self.counts["sent more than once"] = self._count(Delivery.retry_step > 0)

    def _print_stuck(self) -> None:
        """Print what has not ended, and how it stands."""
        about = (
            Delivery.id,
            Delivery.push_id,
            Delivery.hook_id,
            Delivery.ordered_image,
            Delivery.status,
            Delivery.reason,
        )
        times = Delivery.retry_step, Delivery.next_attempt_at, Delivery.lease_token, Delivery.give_up_at
        found = select(func.now().label("now"), *about, *times, Webhook.active, Webhook.holds).join(Delivery.webhook)
        with current_state().reading() as session:
            for row in session.execute(found.where(Delivery.finished_at.is_(None))):
                print(*(f"{name}={value}" for name, value in row._mapping.items()))

    def judge(self, deployer: Deployer) -> None:
        for pair in range(self._given.pairs):
            digests = deployer.deployed.get(image(pair), [])
            newer = digest(pair, 2)
            self.counts["older deployed first"] += digests[:1] == [digest(pair, 1)]
            self.counts["went back"] += newer in digests and digest(pair, 1) in digests[digests.index(newer) :]
            self.counts["ended on the older digest"] += digests[-1:] != [newer]


def run(given: argparse.Namespace) -> int:
    began = monotonic()
    deployer = Deployer(given.seed)
    with _servers() as (folder, environment), ExitStack() as stack:
        os.environ.update(environment)
        app = create_app()
        stack.enter_context(app.app_context())
        db.create_all()
        this = Run(given, app.test_client())
        this.create_webhooks(deployer.port)
        workers = Workers(folder, environment, given.workers)
        stack.callback(workers.close)
        this.perform(workers)
        this.drain()
        db.session.remove()
        db.engine.dispose()
    this.judge(deployer)
    table = {
        "seed": given.seed,
        "pairs": given.pairs,
        "requests": deployer.ways.total(),
        **{f"receiver {way}": deployer.ways[way] for way in WAYS},
        **this.counts,
        "seconds": f"{monotonic() - began:.0f}",
    }
    for name, value in table.items():
        print(f"{name:<32}{value}")
    broken = sum(this.counts[each] for each in ("stuck", "went back", "ended on the older digest"))
    print("BROKEN" if broken else "never rolled back", flush=True)
    return int(bool(broken))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rollback", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--gap", type=float, default=10.0, help="seconds between the pushes of a pair, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--supersede", choices=("yes", "no"), default="yes", help="no: see that it would be noticed")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
