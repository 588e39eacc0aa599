"""Measures how much the receiver can take: `python -m benchmarks.load PORT AUTHORITY CONNECTIONS SECONDS`.

Prints requests/s. Each connection sends its next POST when the last one is answered (no pipelining), over raw sockets,
or over TLS if AUTHORITY, the file of a CA certificate, is not empty.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
from time import perf_counter

from .host import example_body
from .receiver import ANSWER


def ceiling(port: int, authority: str, connections: int, seconds: float) -> float:
    """Return the requests per second that the receiver answers over this many connections."""
    body = example_body()
    head = "POST /ceiling HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    request = head.format(len(body)).encode() + body
    poll = select.epoll()
    sockets = {}
    for _ in range(connections):
        one = _connected(port, authority)
        poll.register(one, select.EPOLLIN)
        sockets[one.fileno()] = one
        one.sendall(request)
    answered, size, started = 0, len(ANSWER), perf_counter()
    while (elapsed := perf_counter() - started) < seconds:
        for number, _ in poll.poll(1):
            assert len(sockets[number].recv(4096)) == size, "the receiver's answer came in pieces"
            sockets[number].sendall(request)
            answered += 1
    return answered / elapsed


def _connected(port: int, authority: str) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not authority:
        return plain
    return ssl.create_default_context(cafile=authority).wrap_socket(plain, server_hostname="127.0.0.1")


if __name__ == "__main__":
    print(ceiling(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
