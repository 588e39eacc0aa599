"""The receivers, in one process: they answer well and badly, call back, and keep a journal of all of it.

`python -m tests.chaos.receivers SEED JOURNAL` prints its ports, and ends with its input. Of that, a line such as
`stop 3` has what listens on the fourth port end all connections, and reset each new one, until it is told `start 3`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import IO
from urllib.parse import urlsplit

from .plan import PORTS, Behaviour, behaviour

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops"
TRICKLE = b"HTTP/1.1 200 OK\r\nX-Trickle: "
TRICKLE_S = 0.1
CALLBACK_TIMEOUT_S = 5.0
CALLBACKS = 16
"""At once, as many as the web server has threads: more, each posted again when it is not answered, would drown it."""
CALL_AGAIN_S = 0.3
"""How soon a callback is posted again that was not answered, or answered with 5xx."""


@dataclass(frozen=True)
class Request:
    path: str
    delivery: str
    worker: str
    tag: str
    callback_url: str


class Receivers:
    def __init__(self, seed: int, journal: IO[str]) -> None:
        self._seed = seed
        self._journal = journal
        self._posts: Counter[str] = Counter()
        self._called_back: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: dict[int, set[asyncio.StreamWriter]] = {place: set() for place in range(PORTS)}
        self._busy: set[asyncio.StreamWriter] = set()
        self._away: set[int] = set()
        self._turns = asyncio.Semaphore(CALLBACKS)

    def obey(self, line: str) -> None:
        """Stop or start one of them."""
        verb, place = line.split()
        (self._away.add if verb == "stop" else self._away.discard)(int(place))
        for writer in self._connections[int(place)] if verb == "stop" else ():
            # A reset could undo what was answered just now; a half answer that is ended well counts as one.
            _reset(writer) if writer in self._busy else writer.close()

    def _note(self, what: str, delivery: str, *details: object) -> None:
        """What happened, to which delivery, when on the machine's monotonic clock."""
        self._journal.write(json.dumps([round(monotonic(), 4), what, delivery, *details]) + "\n")

    async def serve(self, place: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the client has gone or a fault ends it."""
        self._connections[place].add(writer)
        if place in self._away:
            _reset(writer)
        try:
            while (request := await _read(reader)) and await self._receive(request, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone: it was killed, or its time was up
        finally:
            self._connections[place].discard(writer)
            writer.close()

    async def _receive(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Do with one POST as is planned; tell whether the connection is to be kept."""
        number = self._posts[request.delivery]
        self._posts[request.delivery] += 1
        self._note("posted", request.delivery, number, request.path, request.tag, request.worker)
        planned = behaviour(self._seed, request.path, request.tag)
        how = "gone"
        self._busy.add(writer)
        try:
            if number >= planned.calls_at:
                await self._call_back(request, planned)
            if number < len(planned.faults):
                how = planned.faults[number]
                await _fail(how, reader, writer)
            else:
                await asyncio.sleep(planned.answer_s)
                if not reader.at_eof() and not writer.is_closing():
                    how = "200"
                    writer.write(OK)
        finally:
            self._busy.discard(writer)
            self._note("ended", request.delivery, number, how)
        await writer.drain()
        return how in ("200", "500")

    async def _call_back(self, request: Request, planned: Behaviour) -> None:
        """Post the callbacks of a delivery, once: repeats are known by their id. Late ones are not waited for."""
        if request.delivery in self._called_back:
            return
        self._called_back.add(request.delivery)
        tasks = [asyncio.create_task(self._insist(request, state, planned.call_s)) for state in planned.states]
        self._tasks.update(tasks)
        for task in tasks:
            task.add_done_callback(self._tasks.discard)
        if not planned.call_s:
            await asyncio.gather(*tasks)

    async def _insist(self, request: Request, state: str, wait_s: float) -> None:
        """Post a callback until it is answered with anything but 5xx."""
        await asyncio.sleep(wait_s)
        while True:
            async with self._turns:
                self._note("called", request.delivery, state)
                status = await _post(request.callback_url, state)
            if 0 < status < 500:
                self._note("decided", request.delivery, state, status)
                return
            await asyncio.sleep(CALL_AGAIN_S)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    if not (line := await reader.readline()):
        return None
    headers: dict[str, str] = {}
    while header := (await reader.readline()).decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    content = json.loads(await reader.readexactly(int(headers["content-length"])))
    path = line.decode("latin-1").split(" ")[1]
    tag = content["push_data"]["tag"]
    return Request(path, headers["webhook-id"], headers["user-agent"], tag, content["callback_url"])


async def _fail(fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if fault == "500":
        writer.write(ERROR)
    elif fault == "reset":
        _reset(writer)
    elif fault == "hang":
        await reader.read()  # until the client has gone
    else:
        writer.write(TRICKLE)
        while not reader.at_eof():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(TRICKLE_S)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # the client was quicker
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _post(url: str, state: str) -> int:
    """Post a callback; the status of the answer, 0 where there was none."""
    try:
        return await asyncio.wait_for(_exchange(url, state), CALLBACK_TIMEOUT_S)
    except (OSError, ValueError, asyncio.TimeoutError):  # the web server is away, or has died over it
        return 0


async def _exchange(url: str, state: str) -> int:
    target = urlsplit(url)
    body = json.dumps({"state": state}).encode()
    head = f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nConnection: close\r\nContent-Length: {len(body)}"
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    try:
        writer.write(f"{head}\r\n\r\n".encode() + body)
        return int((await reader.readline())[9:12])
    finally:
        writer.close()


async def run(seed: int, journal: IO[str]) -> None:
    receivers = Receivers(seed, journal)
    servers = [
        await asyncio.start_server(partial(receivers.serve, place), "127.0.0.1", 0, backlog=1024)
        for place in range(PORTS)
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        receivers.obey(line)


if __name__ == "__main__":
    with open(sys.argv[2], "w") as journal_file:
        asyncio.run(run(int(sys.argv[1]), journal_file))
