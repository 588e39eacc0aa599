"""Transports to receivers on loopback, one request over one of them, and a network that ends at this machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_network
from queue import SimpleQueue
from typing import Any

import pytest

from flask_hubhooks.transport import Outcome, Request, Transport, exchange, loop
from flask_hubhooks.transport.egress import AddressPolicy, Egress
from flask_hubhooks.transport.resolver import Resolver
from flask_hubhooks.transport.tls import DEFAULT_TLS, TLS

LOOPBACK = Egress(AddressPolicy((ip_network("127.0.0.0/8"), ip_network("::1/128"))))
SECRET = "s3cr3t"
BODY = b'{"push_data": {}}'
SOON_S = 5.0
"""Far above every deadline that tests set, far below what a missed one takes."""


def transport(**options: Any) -> Transport:
    return Transport(LOOPBACK, **options)


def send(
    transport: Transport,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    repository: str = "",
    tls: TLS = DEFAULT_TLS,
    deadline_s: float = 10.0,
) -> Outcome:
    """Send one request, and wait for its outcome."""
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    transport.send(Request(url, body, headers, repository, tls, deadline_s), outcomes.put)
    return outcomes.get(timeout=90)


def post(transport: Transport, url: str, deadline_s: float = 10.0, /, **headers: str) -> Outcome:
    """Send `BODY` as JSON, and wait for the outcome."""
    return send(transport, url, BODY, {"Content-Type": "application/json", **headers}, deadline_s=deadline_s)


class Network:
    """What the process looks up and connects to; names are answered from `names`, and nothing leaves.

    Of what `names` has, which is as `getaddrinfo` gives it, the port does not matter: the URL has one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[Any]] = {}
        self.looked_up: list[str] = []
        self.connected: list[Any] = []
        self._getaddrinfo, self._open = socket.getaddrinfo, exchange.open_socket
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)
        monkeypatch.setattr(exchange, "open_socket", self._open_socket)
        monkeypatch.setattr(loop, "shared_resolver", Resolver())

    def _look_up(self, host: str, *args: Any, **options: Any) -> Any:
        self.looked_up.append(host)
        if host not in self.names:
            return self._getaddrinfo(host, *args, **options)
        families = {2: socket.AF_INET, 4: socket.AF_INET6}
        return [(families[len(each)], socket.SOCK_STREAM, 6, "", each) for each in self.names[host]]

    def _open_socket(self, address: Any) -> socket.socket:
        self.connected.append(address.addr)
        if not address.addr[0].startswith("127."):
            raise OSError(101, "Network is unreachable")
        return self._open(address)
