"""Posts callbacks: `python -m benchmarks.posting CONNECTIONS` reads URLs up to an empty line, and posts to each.

Prints a JSON list: the total seconds, and a list of the milliseconds of each post.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from time import perf_counter
from urllib.parse import SplitResult, urlsplit

BODY = b'{"state": "success", "description": "deployed", "context": "benchmark", "target_url": ""}'

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Posting:
    """Posts whatever is added, over a number of connections, which are kept open for as long as the server allows."""

    def __init__(self, connections: int) -> None:
        self._requests: asyncio.Queue[tuple[str, bytes, str, float | None]] = asyncio.Queue()
        self.milliseconds: list[float] = []
        self._tasks = [asyncio.create_task(self._run()) for _ in range(connections)]

    def add(self, url: str, body: bytes = BODY, headers: str = "", due: float | None = None) -> None:
        """Post a callback, or another `body` with header lines. It is timed from `due`, or from when it is sent."""
        self._requests.put_nowait((url, body, headers, due))

    async def done(self) -> None:
        """Wait until everything that was added is posted; raises the first error."""
        done = asyncio.create_task(self._requests.join())
        await asyncio.wait([done, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done():
                task.result()

    async def _run(self) -> None:
        connection: _Connection | None = None
        while True:
            target, body, headers, due = await self._requests.get()
            url, began = urlsplit(target), due or perf_counter()
            head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
            connection = await self._posted(connection, url, head.encode() + body)
            self.milliseconds.append((perf_counter() - began) * 1000)
            self._requests.task_done()

    async def _posted(self, kept: _Connection | None, url: SplitResult, request: bytes) -> _Connection | None:
        """Send a request, over the kept connection unless the server has closed it; returns the connection to keep."""
        connection = kept or await asyncio.open_connection(url.hostname, url.port)
        try:
            if await _exchanged(*connection, request):
                return connection
        except (ConnectionError, asyncio.IncompleteReadError):
            if not kept:
                raise
            connection[1].close()
            return await self._posted(None, url, request)
        connection[1].close()
        return None


async def _exchanged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    """Send a request and read its answer, which must be a 2xx; returns whether the connection is kept."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    assert head.split(b" ", 2)[1].startswith(b"2"), head + body
    return b"connection: close" not in head


async def post_all(connections: int) -> None:
    urls = [line.strip() for line in iter(sys.stdin.readline, "\n")]
    began = perf_counter()
    posting = Posting(connections)
    for url in urls:
        posting.add(url)
    await posting.done()
    print(json.dumps([perf_counter() - began, posting.milliseconds]), flush=True)
    with suppress(asyncio.CancelledError):
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(post_all(int(sys.argv[1])))
