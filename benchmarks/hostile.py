"""Hostile receivers: `python -m benchmarks.hostile COUNT` prints their ports as JSON, and ends at the end of its input.

Each port responds with one of the `ANSWERS`. All run in one process; those that flood send as fast as the worker reads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BLOCK = 65_536
DRIP_S = 0.5

Answer = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


def floods(data: bytes, first: bytes = b"", most: int = 2**63) -> Answer:
    """Send `first`, then `data` repeatedly until the client disconnects or about `most` bytes were sent."""
    block = data * (BLOCK // len(data) + 1)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for _ in range(most // len(block) + 1):
            writer.write(block)
            await writer.drain()

    return answer


def drips(first: bytes) -> Answer:
    """Send `first`, then a byte twice a second."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            await asyncio.sleep(DRIP_S)
            writer.write(b"x")
            await writer.drain()

    return answer


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


ANSWERS: tuple[Answer, ...] = (
    floods(b"X-A: " + b"x" * 6_000 + b"\r\n", OK, 6_000_000),
    floods(b"X: y\r\n", OK),
    floods(b"x", OK + b"X: "),
    floods(b"HTTP/1.1 100 Continue\r\n\r\n"),
    floods(b"X: y\r\n", CHUNKED + b"0\r\n"),
    floods(b"x", CHUNKED + b"0\r\nX: "),
    floods(b"x", CHUNKED + b"2;"),
    floods(b"1;" + b"x" * 5_000 + b"\r\ny\r\n", CHUNKED),
    floods(b"1\r\nx\r\n", CHUNKED),
    floods(b"x", OK + b"\r\n"),
    floods(b"\x00\xff\x80"),
    drips(b"HTTP/1.1 200 "),
    drips(OK + b"X: "),
    drips(OK + b"Content-Length: 9999\r\n\r\n"),
    hang,
    reset,
)


def serve(answer: Answer) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):  # the client has disconnected
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        writer.transport.abort()

    return on_connection


async def main(count: int) -> None:
    servers = [
        await asyncio.start_server(serve(ANSWERS[number % len(ANSWERS)]), "127.0.0.1", 0) for number in range(count)
    ]
    print(json.dumps([each.sockets[0].getsockname()[1] for each in servers]), flush=True)
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
