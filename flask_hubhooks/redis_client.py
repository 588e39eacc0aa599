"""Clients for Redis or Valkey: for one server, with or without TLS, or for the master that Sentinels name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from redis import Redis, Sentinel, SSLConnection
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from .config import Config


def connect(config: Config, *, connect_timeout_s: float, timeout_s: float | None) -> Redis:
    """Return a client, which connects when it is first used. It never retries: callers that can wait do so themselves.

    `connect_timeout_s` bounds connecting, and `timeout_s` each response; None means no limit. Asking the Sentinels for
    the master's address takes at most as long as connecting, however many there are.
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
    """The client of one Sentinel. Errors show its `repr`, and redis-py's own may contain the password."""

    def __repr__(self) -> str:
        options = self.connection_pool.connection_kwargs
        return f"{options['host']}:{options.get('port', 6379)}"


def _client_of_master(config: Config, options: dict[str, Any]) -> Redis:
    each_s = options["socket_connect_timeout"] / len(config.redis_sentinels)
    timeouts = {"socket_connect_timeout": each_s, "socket_timeout": each_s}
    sentinel = Sentinel([])
    sentinel.sentinels = [_Sentinel.from_url(url, **options | timeouts) for url in config.redis_sentinels]
    master = parse_url(config.redis_url)
    tls = master.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        master.pop(name, None)
    # The host as it is written: a service's name is case-sensitive, unlike a host's.
    service = urlsplit(config.redis_url).netloc.rpartition("@")[2].partition(":")[0]
    client: Redis = sentinel.master_for(service, **options, **master, ssl=tls)
    return client
