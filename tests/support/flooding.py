"""`python -m tests.support.flooding`: answers each request with a chunk extension that never ends.

Prints its port. In a process of its own it floods faster than beside the transport, under one interpreter lock.
"""

from __future__ import annotations

import asyncio
import contextlib

ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"
BLOCK = b"x" * 262_144


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send until the client has gone."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        while True:
            writer.write(BLOCK)
            await writer.drain()
    writer.close()


async def serve() -> None:
    server = await asyncio.start_server(flood, "127.0.0.1", 0, backlog=128)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
