"""Receivers on loopback, good and hostile, over real sockets and threads.

    with Receiver(503, 200) as receiver:      # the answers in turn, the last one for ever
        post(receiver.url)
    assert receiver.requests[0].body == b"..."

An answer is a status, bytes to be sent as they are, or a callable that gets the `Request` and the `Connection`
and returns one of these, or None: then the connection is closed.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic, time
from typing import BinaryIO, TypeAlias, cast

import trustme
from typing_extensions import Self

Answer: TypeAlias = "int | bytes | Callable[[Request, Connection], int | bytes | None]"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    time: float = field(default_factory=time)


@dataclass(frozen=True)
class Connection:
    """One accepted connection, as answers see it."""

    socket: socket.socket
    receiver: Receiver


class Receiver:
    """A server on 127.0.0.1; `tls` is from `tls_context`, `connections` is how many were accepted so far."""

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.answers = list(answers) or [200]
        self.tls = tls
        self.requests: list[Request] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._arrived = threading.Condition()
        self.open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/hook" if self.tls else f"http://127.0.0.1:{self.port}/hook"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        shut(self._listener)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Close the connections that are open now."""
        with self._arrived:
            for connection in self.open:
                shut(connection)

    def wait_for(self, number: int, seconds: float = 10) -> list[Request]:
        """Return the requests once there are so many; raises `AssertionError` where they do not come."""
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: len(self.requests) >= number, seconds)
            assert arrived, f"{len(self.requests)} of {number} requests came within {seconds} s"
            return list(self.requests)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the receiver has stopped
            while True:
                connection, _ = self._listener.accept()
                with self._arrived:
                    self.connections += 1
                    self.open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        plain = connection
        with contextlib.suppress(OSError, ValueError):  # the client has gone, or the receiver has stopped
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
                with self._arrived:
                    self.open.add(connection)
            with cast(BinaryIO, connection.makefile("rb")) as reader:
                while (request := _read_request(reader)) and self._answer(request, connection):
                    pass
        with self._arrived:
            self.open -= {plain, connection}
        connection.close()

    def _answer(self, request: Request, connection: socket.socket) -> bool:
        """Record and answer a request; tell whether the connection is to be kept."""
        with self._arrived:
            answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
            self.requests.append(request)
            self._arrived.notify_all()
        said = answer(request, Connection(connection, self)) if callable(answer) else answer
        if said is None:
            return False
        connection.sendall(http(said) if isinstance(said, int) else said)
        return True


def counts(receivers: list[Receiver]) -> list[int]:
    """Count the requests of each receiver."""
    return [len(receiver.requests) for receiver in receivers]


def _read_request(reader: BinaryIO) -> Request | None:
    if not (line := reader.readline()):
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while header := reader.readline().decode("latin-1").rstrip("\r\n"):
        name, value = header.lower().split(":", 1)[0], header.split(":", 1)[1].strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(method, path, headers, reader.read(int(headers.get("content-length", 0))))


def http(status: int = 200, body: bytes = b"ok", *headers: str) -> bytes:
    """Return the bytes of an answer; `headers` are whole lines such as `Retry-After: 5`."""
    length = [] if status in (204, 304) else [f"Content-Length: {len(body)}"]
    head = "\r\n".join([f"HTTP/1.1 {status} Status", *length, *headers, "", ""])
    return head.encode("latin-1") + (body if length else b"")


def shut(connection: socket.socket) -> None:
    """Close a connection though another thread may be reading from it."""
    with contextlib.suppress(OSError):  # it may be closed already
        connection.shutdown(socket.SHUT_RDWR)


def hang(request: Request, connection: Connection) -> None:
    """Say nothing until the receiver stops."""
    connection.receiver.stopping.wait()


def close(request: Request, connection: Connection) -> None:
    """Close the connection without an answer."""


def reset(request: Request, connection: Connection) -> None:
    """Reset the connection (RST) without an answer."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends(data: bytes, then: Answer = close) -> Answer:
    """Send these bytes, then do as `then` says, by default close."""

    def answer(request: Request, connection: Connection) -> None:
        connection.socket.sendall(data)
        if callable(then):
            then(request, connection)

    return answer


def trickles(data: bytes, at_once: bytes = b"", every_s: float = 0.1) -> Answer:
    """Send `at_once`, then a byte each `every_s`, until the client has gone or the receiver stops."""

    def answer(request: Request, connection: Connection) -> None:
        connection.socket.sendall(at_once)
        for byte in data:
            connection.socket.sendall(bytes([byte]))
            if connection.receiver.stopping.wait(every_s):
                return

    return answer


def tls_context(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    """Return what a receiver serves TLS with: a certificate for `name` from that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def poll(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until a condition holds; raises `AssertionError` where it does not come to hold."""
    until = monotonic() + seconds
    while not condition():
        assert monotonic() < until, f"did not come to hold within {seconds} s"
        threading.Event().wait(0.005)
