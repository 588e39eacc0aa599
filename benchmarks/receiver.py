"""The receiver: a process that answers every POST at once, as cheaply as Python can, and counts them by path.

`python -m benchmarks.receiver` prints its port and ends with its input. Of POSTs to paths that begin with
`/timed/` it keeps when each arrived and its tag. `GET /report` tells what was counted.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections import Counter, defaultdict
from time import monotonic

ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: receiver\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    b'{"status":"ok"}'
)
REPORT = b"/report"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

counts: Counter[bytes] = Counter()
arrivals: defaultdict[bytes, list[tuple[float, bytes]]] = defaultdict(list)


class Connection(asyncio.Protocol):
    """One connection, kept alive until the client closes it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        while (head := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(data) < end:
                break
            self._answer(data[:end], head)
            data = data[end:]
        self._data = data

    def _answer(self, request: bytes, head: int) -> None:
        path = request.split(b" ", 2)[1]
        if path == REPORT:
            body = _report()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return
        counts[path] += 1
        if path.startswith(b"/timed/"):
            arrivals[path].append((monotonic(), request[head + 4 :]))
        self._transport.write(ANSWER)


def _report() -> bytes:
    """Counts by path, and of timed paths [seconds on the machine's monotonic clock, tag] of each POST."""
    timed = {
        path.decode(): [(at, json.loads(body)["push_data"]["tag"]) for at, body in arrived]
        for path, arrived in arrivals.items()
    }
    return json.dumps({"counts": {path.decode(): count for path, count in counts.items()}, "timed": timed}).encode()


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve())
