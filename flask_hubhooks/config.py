"""The `HUBHOOKS_*` keys of the host's config, checked once and frozen."""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

import click
import idna
from cryptography.fernet import Fernet
from redis import ConnectionPool

logger = logging.getLogger(__name__)

PREFIX = "HUBHOOKS_"
MIN_SECRET_KEY_BYTES = 16
"""A shorter SECRET_KEY is warned of."""
LONGEST = timedelta(days=3650)
"""More than a delivery lasts, and less than what databases and calendars can count to."""


class ConfigError(click.ClickException, RuntimeError):
    """A configuration the extension cannot work with; the message names the key and what it accepts.

    The `flask` command shows it in one line.
    """


@dataclass(frozen=True)
class Config:
    """What an app sets, one field for each key (`external_url` is `HUBHOOKS_EXTERNAL_URL`)."""

    external_url: str
    """Where the blueprint is reached from outside, without a final slash."""
    redis_url: str = field(default="redis://localhost:6379/0", repr=False)
    redis_sentinels: tuple[str, ...] = field(default=(), repr=False)
    """URLs of the Sentinels that know the master; the host in `redis_url` is then the name of its service."""
    queue: str = "hubhooks"
    """The RQ queue, and the prefix of our other Redis keys."""
    concurrency: int = 1000
    """Requests one worker process has on the wire at most, beside some that have hung for long (`delivery.pool`)."""
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that hooks may reach although they are not public; a cloud's metadata address only as its own /32."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that may have addresses that are not public; `*.` and a name stands for all below that name."""
    allow_http: bool = True
    """Whether hooks may have http URLs; otherwise https alone."""
    allowed_ports: frozenset[int] | None = None
    """The ports hooks may have; None: any."""
    ca_bundle: str | None = None
    """A PEM file of the authorities that receivers' certificates are checked against."""
    encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    """Fernet keys that secrets are encrypted with in the database, the newest first."""
    former_secret_ttl: timedelta = timedelta(hours=24)
    """How long requests are also signed with a secret that was replaced."""
    client_certificate: tuple[str, str] | None = None
    """PEM files of a certificate and its key, which any receiver that asks for a client certificate is shown."""
    proxy: str | None = field(default=None, repr=False)  # it may hold a password
    """The URL of an http(s) proxy that requests go through.

    The proxy then resolves the names in hook URLs, not we: it must refuse private addresses and those of metadata
    services itself. Addresses, localhost names, schemes and ports in hook URLs are still judged by us.
    """
    no_proxy: tuple[str | IPv4Network | IPv6Network, ...] = ()
    """Hosts that are reached directly, not through `proxy`: names, `*.` and a name, and networks of addresses in URLs.

    What goes directly is judged like all that goes directly where there is no proxy.
    """
    callback_ttl: timedelta = timedelta(days=7)
    """How long a delivery waits for its callback."""
    retention_days: int | None = 90
    """How long after its end a push stays in the history; None: for ever."""
    max_webhooks: int = 50
    """Of a repository."""
    max_hooks: int = 10
    """Of a webhook."""
    max_name_length: int = 255
    """Characters of a webhook's name."""
    max_url_length: int = 2048
    """Characters of a hook URL."""
    max_body_bytes: int = 64 * 1024
    """Of a request to us."""
    max_json_depth: int = 16
    """Objects and lists within each other in a request to us."""
    max_page_size: int = 100
    """Entries of a page."""
    layout: str = "hubhooks/layout.html"
    """The template that the pages extend; it has a block `content`, and may have one `title`."""
    max_sends_per_minute: int = 60
    """Tests, redeliveries and recoveries that a repository may ask for."""

    @classmethod
    def from_app(cls, settings: Mapping[str, Any]) -> Config:
        """Read and check every `HUBHOOKS_*` key of `settings`, and that the app has a SECRET_KEY.

        Raises `ConfigError` for a missing, unknown or ill-typed key.
        """
        secret_key = settings.get("SECRET_KEY")
        if not secret_key:
            raise ConfigError("SECRET_KEY is not set: callback URLs are signed and secrets encrypted with it")
        if not isinstance(secret_key, str | bytes):
            raise ConfigError(f"SECRET_KEY must be text or bytes, not {type(secret_key).__name__}")
        if len(secret_key.encode() if isinstance(secret_key, str) else secret_key) < MIN_SECRET_KEY_BYTES:
            logger.warning(
                "SECRET_KEY has less than %d bytes: whoever guesses it can forge callbacks and decrypt secrets. "
                "Make one with: python -c 'import secrets; print(secrets.token_hex())'",
                MIN_SECRET_KEY_BYTES,
            )
        fallbacks = settings.get("SECRET_KEY_FALLBACKS") or ()
        if not isinstance(fallbacks, list | tuple) or not all(isinstance(key, str | bytes) for key in fallbacks):
            raise ConfigError("SECRET_KEY_FALLBACKS must be a list of earlier keys, each text or bytes")
        given = {key: value for key, value in settings.items() if key.startswith(PREFIX)}
        if f"{PREFIX}EXTERNAL_URL" not in given:
            raise ConfigError(
                f"{PREFIX}EXTERNAL_URL is not set: receivers post their callbacks there, "
                "for example 'https://registry.example.com'"
            )
        config = cls(**{key.removeprefix(PREFIX).lower(): _checked(key, value) for key, value in given.items()})
        if config.redis_sentinels and not urlsplit(config.redis_url).hostname:
            raise ConfigError(
                f"{PREFIX}REDIS_URL must have the name of the Sentinels' service as its host, "
                "for example 'redis://mymaster/0'"
            )
        return config


def _checked(key: str, value: Any) -> Any:
    name = key.removeprefix(PREFIX).lower()
    if name not in _ACCEPTED or key != key.upper():
        known = ", ".join(f"{PREFIX}{each.name.upper()}" for each in fields(Config))
        raise ConfigError(f"{key} is not a known key; the keys are {known}")
    parse, accepted = _ACCEPTED[name]
    try:
        return parse(value)
    except (TypeError, ValueError, OverflowError, OSError):
        secret = name.endswith(("_url", "_keys", "_sentinels", "proxy"))  # a URL may hold a password
        given = "" if secret else f", not {value!r}"
        raise ConfigError(f"{key} must be {accepted}{given}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _url(value: object) -> str:
    text = _text(value)
    parts = urlsplit(text)
    bare = not (parts.username is not None or parts.query or parts.fragment or re.search(r"\s", text))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not bare:
        raise ValueError
    return text.rstrip("/")


def _redis_url(value: object) -> str:
    ConnectionPool.from_url(_text(value))  # reads it, and connects to nothing yet
    return _text(value)


def _redis_sentinels(value: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    for each in value:
        if not _redis_url(each).startswith(("redis://", "rediss://")) or not urlsplit(each).hostname:
            raise ValueError
    return tuple(value)


def _queue(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError
    return value


def _networks(value: list[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(ip_network(str(each)) for each in value)  # a number is no network


def _hosts(value: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_host_pattern(_text(each)) for each in value)


def _host_pattern(text: str) -> str:
    """Return a name, or `*.` and a name, in lower-case ASCII without a final dot; raises `ValueError` for others."""
    wildcard = "*." if text.startswith("*.") else ""
    name = text.removeprefix(wildcard)
    if len(name) > 254:  # with a final dot; idna takes long for long ones
        raise ValueError
    if not name.isascii():
        name = idna.encode(name.lower(), strict=True, std3_rules=True).decode()
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    usable = len(name) <= 253 and all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)
    if not usable or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):  # which makes an address of it
        raise ValueError
    return wildcard + name


def _hosts_and_networks(value: list[str]) -> tuple[str | IPv4Network | IPv6Network, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_host_or_network(str(each)) for each in value)


def _host_or_network(text: str) -> str | IPv4Network | IPv6Network:
    try:
        return _host_pattern(text)
    except ValueError:
        return ip_network(text)


def _boolean(value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _ports(value: list[int] | None) -> frozenset[int] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple | set | frozenset) or not value:
        raise TypeError
    parse, _ = _from_1_to(65_535)
    return frozenset(parse(each) for each in value)


def _proxy(value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(_text(value))
    printable = value.isascii() and value.isprintable() and not re.search(r"[\s\\]", value)
    usable = printable and parts.scheme in ("http", "https") and re.fullmatch(r"[\w.:-]+", parts.hostname or "")
    if not usable or parts.port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError
    return value


def _certificate_and_key(value: Any) -> tuple[str, str] | None:
    if value is None:
        return None
    given = value if isinstance(value, list | tuple) else (value, value)
    certificate, key = (_text(os.fspath(each)) for each in given)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, _no_password)
    return certificate, key


def _no_password() -> str:
    """Refuse, where OpenSSL would otherwise ask for the key's password on the terminal."""
    raise ValueError


def _certificates(value: str | None) -> str | None:
    if value is None:
        return None
    path = os.fspath(value)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    return path


def _positive_duration(value: timedelta | float) -> timedelta:
    if isinstance(value, bool):
        raise TypeError
    duration = value if isinstance(value, timedelta) else timedelta(seconds=value)
    if not timedelta(0) < duration <= LONGEST:
        raise ValueError
    return duration


def _days(value: int | None) -> int | None:
    parse, _ = _from_1_to(LONGEST.days)
    return None if value is None else parse(value)


def _fernet_keys(value: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    for key in value:
        Fernet(key)
    return tuple(key if isinstance(key, str) else key.decode() for key in value)


def _from_1_to(most: int) -> tuple[Callable[[Any], int], str]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError
        return value

    return parse, f"a whole number from 1 to {most}"


_ACCEPTED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "external_url": (_url, "an absolute http(s) URL without user name, query or fragment"),
    "redis_url": (_redis_url, "a URL that starts with redis://, rediss:// or unix://"),
    "redis_sentinels": (
        _redis_sentinels,
        "a list of URLs that start with redis:// or rediss://, such as ['redis://sentinel-1:26379']",
    ),
    "queue": (_queue, "1 to 64 letters, digits, '_' or '-'"),
    "concurrency": _from_1_to(65_536),
    "allowed_networks": (_networks, "a list of networks without host bits, such as ['10.0.0.0/8', 'fd00::/8']"),
    "allowed_hosts": (
        _hosts,
        "a list of names such as ['ci.internal', '*.corp.example.com'], with no wildcard but '*.' at the beginning "
        "(for addresses there is HUBHOOKS_ALLOWED_NETWORKS)",
    ),
    "allow_http": (_boolean, "True or False"),
    "allowed_ports": (_ports, "None or a list of ports from 1 to 65535, such as [443, 8443]"),
    "client_certificate": (
        _certificate_and_key,
        "the path of a readable PEM file with a certificate and its private key, which has no password, "
        "or a pair of paths, of the certificate and of the key",
    ),
    "proxy": (_proxy, "None or the URL of a proxy such as http://user:password@proxy.example.com:3128"),
    "no_proxy": (
        _hosts_and_networks,
        "a list of names and networks such as ['ci.internal', '*.corp.example.com', '10.0.0.0/8']",
    ),
    "ca_bundle": (_certificates, "the path of a readable PEM file"),
    "encryption_keys": (_fernet_keys, "a list of Fernet keys, the newest first"),
    "former_secret_ttl": (_positive_duration, "a timedelta or a number of seconds, more than 0 and at most 10 years"),
    "callback_ttl": (_positive_duration, "a timedelta or a number of seconds, more than 0 and at most 10 years"),
    "layout": (_text, "the name of a template such as 'base.html'"),
    "retention_days": (_days, "None or a whole number from 1 to 3650"),
    "max_webhooks": _from_1_to(10_000),
    "max_hooks": _from_1_to(100),
    "max_name_length": _from_1_to(255),
    "max_url_length": _from_1_to(65_536),
    "max_body_bytes": _from_1_to(16 * 1024 * 1024),
    "max_json_depth": _from_1_to(100),
    "max_page_size": _from_1_to(1_000),
    "max_sends_per_minute": _from_1_to(1_000_000),
}
