"""Clients of Redis or Valkey: of one server, over TLS or not, or of the master that Sentinels name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from redis import Redis, Sentinel, SSLConnection
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from .config import Config


def connect(config: Config, *, connect_timeout_s: float, timeout_s: float | None) -> Redis:
    """A client, which connects when it is first used. It tries nothing twice: those who can wait do so themselves.

    `connect_timeout_s` is how long connecting may take, `timeout_s` each answer; None: as long as it likes. To be
    told the master's address takes as long as connecting at most, however many Sentinels there are.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout_s,
        "socket_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if config.redis_sentinels:
        return _client_of_master(config, options)
    return Redis.from_url(config.redis_url, **options)


class _Sentinel(Redis):
    """The client of one Sentinel. Errors show it, and redis-py's own way of showing it may hold its password."""

    def __repr__(self) -> str:
        where = self.connection_pool.connection_kwargs
        return f"{where['host']}:{where.get('port', 6379)}"


def _client_of_master(config: Config, options: dict[str, Any]) -> Redis:
    each_s = options["socket_connect_timeout"] / len(config.redis_sentinels)
    timeouts = {"socket_connect_timeout": each_s, "socket_timeout": each_s}
    sentinel = Sentinel([])
    sentinel.sentinels = [_Sentinel.from_url(url, **options | timeouts) for url in config.redis_sentinels]
    master = parse_url(config.redis_url)
    tls = master.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        master.pop(name, None)
    client: Redis = sentinel.master_for(_service(config.redis_url), **options, **master, ssl=tls)
    return client


def _service(redis_url: str) -> str:
    """The host as it is written: the name of a service has capitals, where a host's has none."""
    return urlsplit(redis_url).netloc.rpartition("@")[2].partition(":")[0]
