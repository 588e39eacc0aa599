"""The `HUBHOOKS_*` keys of the host's config, checked once and frozen."""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
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
MAX_DURATION = timedelta(days=3650)
"""More than a delivery lasts, and less than what databases and calendars can count to."""
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 5, 60
"""Bounds of a hook's time-out."""


class ConfigError(click.ClickException, RuntimeError):
    """A configuration the extension cannot work with; the message names the key and what it accepts.

    The `flask` command shows it in one line.
    """


# Parsers: each returns the value that `Config` holds. It raises TypeError, ValueError, OverflowError or OSError for a
# value that the key does not accept.


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


def _registry_host(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?", text):
        raise ValueError
    return text


def _credentials(value: str) -> str:
    if not re.fullmatch(r"[^:\x00-\x1f\x7f]+:[^\x00-\x1f\x7f]+", _text(value)):
        raise ValueError
    return value


def _source_tokens(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise TypeError
    tokens = tuple((_text(source), _text(token)) for source, token in value.items())
    if not all(re.fullmatch(r"[!-~]{16,}", token) for _, token in tokens):
        raise ValueError
    return tokens


def _redis_url(value: object) -> str:
    ConnectionPool.from_url(_text(value))  # reads it, and connects to nothing yet
    return _text(value)


def _sentinel_url(value: str) -> str:
    if not _redis_url(value).startswith(("redis://", "rediss://")) or not urlsplit(value).hostname:
        raise ValueError
    return value


def _queue(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError
    return value


def _network(value: object) -> IPv4Network | IPv6Network:
    return ip_network(str(value))  # a number is not a network, though `ip_network` takes it for one


def _host_pattern(value: object) -> str:
    """Return a name, or `*.` and a name, in lower-case ASCII without a final dot."""
    text = _text(value)
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


def _host_or_network(value: object) -> str | IPv4Network | IPv6Network:
    try:
        return _host_pattern(str(value))
    except ValueError:
        return _network(value)


def _boolean(value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _ports(value: list[int]) -> frozenset[int]:
    if not isinstance(value, list | tuple | set | frozenset) or not value:
        raise TypeError
    return frozenset(_whole(1, 65_535)(each) for each in value)


def _proxy(value: str) -> str:
    parts = urlsplit(_text(value))
    printable = value.isascii() and value.isprintable() and not re.search(r"[\s\\]", value)
    usable = printable and parts.scheme in ("http", "https") and re.fullmatch(r"[\w.:-]+", parts.hostname or "")
    if not usable or parts.port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError
    return value


def _certificate_and_key(value: Any) -> tuple[str, str]:
    given = value if isinstance(value, list | tuple) else (value, value)
    certificate, key = (_text(os.fspath(each)) for each in given)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, _no_password)
    return certificate, key


def _no_password() -> str:
    """Raise; OpenSSL would otherwise ask for the key's password on the terminal."""
    raise ValueError


def _certificates(value: str) -> str:
    path = os.fspath(value)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    return path


def _positive_duration(value: timedelta | float) -> timedelta:
    if isinstance(value, bool):
        raise TypeError
    duration = value if isinstance(value, timedelta) else timedelta(seconds=value)
    if not timedelta(0) < duration <= MAX_DURATION:
        raise ValueError
    return duration


def _fernet_key(value: str | bytes) -> str:
    Fernet(value)
    return value if isinstance(value, str) else value.decode()


def _whole(minimum: int, maximum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise ValueError
        return value

    return parse


def _list_of(parse: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def parse_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(parse(each) for each in value)

    return parse_list


def _or_none(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def _key(default: Any, parse: Callable[[Any], Any], accepted: str, *, secret: bool = False) -> Any:
    """Declare a key: its default, its parser, and what an error says it must be.

    The value of a `secret` key may hold a password, and appears in no message and no repr.
    """
    return field(default=default, repr=not secret, metadata={"parse": parse, "accepted": accepted, "secret": secret})


def _number(default: int, maximum: int, minimum: int = 1) -> Any:
    return _key(default, _whole(minimum, maximum), f"a whole number from {minimum} to {maximum}")


@dataclass(frozen=True)
class Config:
    """What an app sets, one field for each key (`external_url` is `HUBHOOKS_EXTERNAL_URL`)."""

    external_url: str = _key(MISSING, _url, "an absolute http(s) URL without user name, query or fragment", secret=True)
    """The URL at which the blueprint is reached from outside, without a final slash."""
    redis_url: str = _key(
        "redis://localhost:6379/0",
        _redis_url,
        "a URL that starts with redis://, rediss:// or unix://",
        secret=True,
    )
    redis_sentinels: tuple[str, ...] = _key(
        (),
        _list_of(_sentinel_url),
        "a list of URLs that start with redis:// or rediss://, such as ['redis://sentinel-1:26379']",
        secret=True,
    )
    """URLs of the Sentinels that know the master; the host in `redis_url` is then the name of its service."""
    registry_host: str = _key("", _registry_host, "a host, or a host and port, such as 'registry.example.com:5000'")
    """What users write before an image's name; by default the host and port of `external_url`."""
    source_tokens: tuple[tuple[str, str], ...] = _key(
        (),
        _source_tokens,
        "a dict of sources and their tokens, such as {'distribution': '…'}; a token is 16 or more characters of ASCII "
        "without spaces",
        secret=True,
    )
    """Pairs of a source that is on and the token that its registry sends."""
    registry_url: str | None = _key(
        None, _or_none(_url), "None or an absolute http(s) URL without user name, query or fragment", secret=True
    )
    """Where the worker reaches the registry, without a final slash; a push of CNCF Distribution waits for its tag."""
    registry_auth: str | None = _key(
        None,
        _or_none(_credentials),
        "None or a user name and a password that may pull all repositories, such as 'user:password'",
        secret=True,
    )
    """What the worker signs in to the registry with."""
    queue: str = _key("hubhooks", _queue, "1 to 64 letters, digits, '_' or '-'")
    """The RQ queue, and the prefix of our other Redis keys."""
    concurrency: int = _number(1000, 65_536)
    """How many requests a worker process has in flight, not counting some that have waited for more than a second."""
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = _key(
        (), _list_of(_network), "a list of networks without host bits, such as ['10.0.0.0/8', 'fd00::/8']"
    )
    """Networks that hooks may reach although they are not public; a cloud's metadata address counts only as a /32."""
    allowed_hosts: tuple[str, ...] = _key(
        (),
        _list_of(_host_pattern),
        "a list of names such as ['ci.internal', '*.corp.example.com'], with no wildcard but '*.' at the beginning "
        "(for addresses there is HUBHOOKS_ALLOWED_NETWORKS)",
    )
    """Names that may have addresses that are not public; `*.` and a name stands for all below that name."""
    allow_http: bool = _key(True, _boolean, "True or False")
    """Whether hooks may have http URLs; otherwise https alone."""
    allowed_ports: frozenset[int] | None = _key(
        None, _or_none(_ports), "None or a list of ports from 1 to 65535, such as [443, 8443]"
    )
    """The ports hooks may have; None: any."""
    ca_bundle: str | None = _key(None, _or_none(_certificates), "the path of a readable PEM file")
    """A PEM file of the authorities that receivers' certificates are checked against."""
    encryption_keys: tuple[str, ...] = _key(
        (), _list_of(_fernet_key), "a list of Fernet keys, the newest first", secret=True
    )
    """Fernet keys that secrets are encrypted with in the database, the newest first."""
    client_certificate: tuple[str, str] | None = _key(
        None,
        _or_none(_certificate_and_key),
        "the path of a readable PEM file with a certificate and its private key, which has no password, "
        "or a pair of paths, of the certificate and of the key",
    )
    """PEM files of a certificate and its key, which any receiver that asks for a client certificate is shown."""
    proxy: str | None = _key(
        None,
        _or_none(_proxy),
        "None or the URL of a proxy such as http://user:password@proxy.example.com:3128",
        secret=True,
    )
    """The URL of an http(s) proxy that requests go through.

    The proxy then resolves the names in hook URLs, not we: it must refuse private addresses and those of metadata
    services itself. We still check schemes, ports, addresses and localhost names in hook URLs.
    """
    no_proxy: tuple[str | IPv4Network | IPv6Network, ...] = _key(
        (),
        _list_of(_host_or_network),
        "a list of names and networks such as ['ci.internal', '*.corp.example.com', '10.0.0.0/8']",
    )
    """Hosts that are reached directly, not through `proxy`: names, `*.` and a name, and networks of addresses in URLs.

    Direct requests are checked as they are without a proxy.
    """
    callback_ttl: timedelta = _key(  # noqa: RUF009 - it makes a field
        timedelta(days=7), _positive_duration, "a timedelta or a number of seconds, more than 0 and at most 10 years"
    )
    """How long a delivery waits for its callback."""
    max_timeout_s: int = _number(MAX_TIMEOUT_S, MAX_TIMEOUT_S, MIN_TIMEOUT_S)
    """The longest time-out of a hook in seconds; longer ones that were saved before are capped when sent."""
    retention_days: int | None = _key(
        90, _or_none(_whole(1, MAX_DURATION.days)), "None or a whole number from 1 to 3650"
    )
    """How long after its end a push stays in the history; None: for ever."""
    max_webhooks: int = _number(50, 10_000)
    """Of a repository."""
    max_hooks: int = _number(10, 100)
    """Of a webhook."""
    max_body_bytes: int = _number(64 * 1024, 16 * 1024 * 1024)
    """Of a request to us."""
    layout: str = _key("hubhooks/layout.html", _text, "the name of a template such as 'base.html'")
    """The template that the pages extend; it has a block `content`, and may have one `title`."""
    max_sends_per_minute: int = _number(60, 1_000_000)
    """Tests, redeliveries and recoveries that a repository may ask for."""

    def __post_init__(self) -> None:
        if not self.registry_host:
            object.__setattr__(self, "registry_host", urlsplit(self.external_url).netloc)

    @classmethod
    def from_app(cls, settings: Mapping[str, Any]) -> Config:
        """Read and check every `HUBHOOKS_*` key of `settings`, and that the app has a SECRET_KEY.

        Raises `ConfigError` for a missing, unknown or ill-typed key.
        """
        secret_key = settings.get("SECRET_KEY")
        if not secret_key:
            raise ConfigError("SECRET_KEY is not set. Callback URLs are signed and secrets are encrypted with it.")
        if not isinstance(secret_key, str | bytes):
            raise ConfigError(f"SECRET_KEY must be text or bytes, not {type(secret_key).__name__}.")
        if len(secret_key.encode() if isinstance(secret_key, str) else secret_key) < MIN_SECRET_KEY_BYTES:
            logger.warning(
                "SECRET_KEY has less than %d bytes: anybody who guesses it can forge callbacks and decrypt secrets. "
                "Make one with: python -c 'import secrets; print(secrets.token_hex())'",
                MIN_SECRET_KEY_BYTES,
            )
        fallbacks = settings.get("SECRET_KEY_FALLBACKS") or ()
        if not isinstance(fallbacks, list | tuple) or not all(isinstance(key, str | bytes) for key in fallbacks):
            raise ConfigError("SECRET_KEY_FALLBACKS must be a list of earlier keys, each text or bytes.")
        given = {key: value for key, value in settings.items() if key.startswith(PREFIX)}
        if given.get(f"{PREFIX}EXTERNAL_URL") in (None, ""):  # such as an environment variable that is not set
            raise ConfigError(
                f"{PREFIX}EXTERNAL_URL is not set. Receivers post their callbacks there. "
                "Set it to a URL such as 'https://registry.example.com'."
            )
        config = cls(**{key.removeprefix(PREFIX).lower(): cls._parsed(key, value) for key, value in given.items()})
        if config.source_tokens and f"{PREFIX}REGISTRY_HOST" not in given:
            raise ConfigError(
                f"{PREFIX}REGISTRY_HOST is not set. With {PREFIX}SOURCE_TOKENS the registry is usually another server "
                "than this app. Set it to what users write before an image's name, such as 'registry.example.com'."
            )
        if config.registry_auth and not config.registry_url:
            raise ConfigError(
                f"{PREFIX}REGISTRY_AUTH is set, but {PREFIX}REGISTRY_URL is not. Set it to the registry's URL, such as "
                "'https://registry.example.com'."
            )
        if config.redis_sentinels and not urlsplit(config.redis_url).hostname:
            raise ConfigError(
                f"{PREFIX}REDIS_URL must have the name of the Sentinels' service as its host, "
                "for example 'redis://mymaster/0'."
            )
        return config

    @classmethod
    def _parsed(cls, key: str, value: Any) -> Any:
        known = {f"{PREFIX}{each.name.upper()}": each.metadata for each in fields(cls)}
        if key not in known:
            names = [each.removeprefix(PREFIX) for each in known]
            similar = get_close_matches(key.removeprefix(PREFIX).upper(), names, 1)
            hint = f"Did you mean {PREFIX}{similar[0]}?" if similar else f"The known keys are {', '.join(known)}."
            raise ConfigError(f"{key} is not a known key. {hint}")
        try:
            return known[key]["parse"](value)
        except (TypeError, ValueError, OverflowError, OSError):
            given = "" if known[key]["secret"] else f", not {value!r}"
            raise ConfigError(f"{key} must be {known[key]['accepted']}{given}.") from None
