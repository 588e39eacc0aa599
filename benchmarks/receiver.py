"""The receiver: a process that answers POSTs as cheaply as Python can, and counts them by path.

`python -m benchmarks.receiver CERTIFICATE` prints its ports as JSON, and ends at the end of its input. A POST is
answered at once, unless the first part of its path says otherwise:

/slow/    is answered after 100 ms
/hang/    is never answered
/timed/   its arrival time and tag are stored, and it is answered at once
/chain/   its callback is posted at once, while it is answered
/503/, /429/   is answered with that status
/reset/   its connection is reset
/trickle/ the answer's headers begin, and get a byte longer each second

`GET /counts` returns the number of POSTs by path. `GET /arrivals/timed/…` returns a path's arrival times and tags, and
deletes them.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import threading
from collections import Counter, defaultdict
from time import monotonic

from .posting import Posting

DESTINATIONS = 200
SLOW_S = 0.1
TRICKLE_S = 1.0
BROKEN = ("503", "429", "hang", "reset", "trickle")
"""The first parts of paths that behave as broken receivers do."""
POSTING = 8
"""Callbacks that are posted at the same time."""
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: receiver\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    b'{"status":"ok"}'
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TAG = re.compile(rb'"tag": ?"([^"]*)"')
_CALLBACK = re.compile(rb'"callback_url": ?"([^"]*)"')

counts: Counter[str] = Counter()
arrivals: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)


class Connection(asyncio.Protocol):
    """One connection, kept alive until the client closes it."""

    posting: Posting

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
            method, path, _ = data.split(b" ", 2)
            if method == b"GET":
                self._transport.write(_told(path.decode()))
            else:
                self._take(path.decode(), data[head + 4 : end])
            data = data[end:]
        self._data = data

    def _take(self, path: str, body: bytes) -> None:
        counts[path] += 1
        if path.startswith("/hang/"):
            return
        if path.startswith("/slow/"):
            asyncio.get_running_loop().call_later(SLOW_S, self._transport.write, ANSWER)
            return
        if path.startswith(("/503/", "/429/")):
            self._transport.write(b"HTTP/1.1 %s Broken\r\nContent-Length: 0\r\n\r\n" % path[1:4].encode())
            return
        if path.startswith("/reset/"):
            self._transport.abort()
            return
        if path.startswith("/trickle/"):
            self._transport.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self._trickle()
            return
        if path.startswith("/timed/"):
            arrivals[path].append((monotonic(), _found(_TAG, body)))
        elif path.startswith("/chain/"):
            self.posting.add(_found(_CALLBACK, body))
        self._transport.write(ANSWER)

    def _trickle(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"x")
            asyncio.get_running_loop().call_later(TRICKLE_S, self._trickle)


def _found(pattern: re.Pattern[bytes], body: bytes) -> str:
    found = pattern.search(body)
    assert found, "this is not a payload"
    return found[1].decode()


def _told(path: str) -> bytes:
    told = counts if path == "/counts" else arrivals.pop(path.removeprefix("/arrivals"), [])
    body = json.dumps(told).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def serve(certificate: str) -> None:
    loop = asyncio.get_running_loop()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    Connection.posting = Posting(POSTING)
    plain = [await loop.create_server(Connection, "127.0.0.1", 0) for _ in range(DESTINATIONS)]
    secure = await loop.create_server(Connection, "127.0.0.1", 0, ssl=tls)
    http, (https,) = ([each.sockets[0].getsockname()[1] for each in servers] for servers in (plain, [secure]))
    print(json.dumps({"http": http, "https": https}), flush=True)
    ended = asyncio.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
