"""The HUBHOOKS_ keys, as a host sets them and as registration checks them."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_hubhooks import ConfigError, HubHooks
from flask_hubhooks.config import Config

REQUIRED = {"SECRET_KEY": "s", "HUBHOOKS_EXTERNAL_URL": "https://registry.example.com"}


def registered(settings: dict[str, Any]) -> Config:
    """The config of an app on which the extension is registered with these settings."""
    app = Flask("host")
    app.config.update(settings | {"SQLALCHEMY_DATABASE_URI": "sqlite:///unused.db"})
    app.register_blueprint(HubHooks(SQLAlchemy(app)))
    config: Config = app.extensions["hubhooks"].config
    return config


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        registered(settings)
    assert refused.value.__cause__ is None, "a cause may hold the refused value"
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return str(refused.value)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


def test_defaults() -> None:
    """An app that sets only what is required gets the documented defaults."""
    assert registered(REQUIRED) == Config(
        external_url="https://registry.example.com",
        redis_url="redis://localhost:6379/0",
        queue="hubhooks",
        concurrency=1000,
        allowed_networks=(),
        ca_bundle=None,
        encryption_keys=(),
        callback_ttl=timedelta(days=7),
        max_timeout_s=60,
        max_webhooks=50,
        max_hooks=10,
        max_body_bytes=65536,
        max_sends_per_minute=60,
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("EXTERNAL_URL", "http://localhost:5000/", "http://localhost:5000"),
        ("EXTERNAL_URL", "https://example.com/hooks//", "https://example.com/hooks"),
        ("EXTERNAL_URL", "https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("REDIS_URL", "redis://:password@cache:6380/3", "redis://:password@cache:6380/3"),
        ("REGISTRY_HOST", "registry.example.com", "registry.example.com"),
        ("REGISTRY_HOST", "localhost:5000", "localhost:5000"),
        ("REGISTRY_HOST", "[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("REGISTRY_URL", None, None),
        ("REGISTRY_URL", "http://registry:5000/", "http://registry:5000"),
        ("REGISTRY_URL", "https://example.com/registry", "https://example.com/registry"),
        ("REDIS_URL", "rediss://cache", "rediss://cache"),
        ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("REDIS_URL", "rediss://cache?ssl_ca_certs=/ca.pem", "rediss://cache?ssl_ca_certs=/ca.pem"),
        ("REDIS_SENTINELS", [], ()),
        ("REDIS_SENTINELS", ["redis://one:26379", "rediss://:pw@two"], ("redis://one:26379", "rediss://:pw@two")),
        ("QUEUE", "Team-A_2", "Team-A_2"),
        ("CONCURRENCY", 1, 1),
        ("CONCURRENCY", 65_536, 65_536),
        ("ALLOWED_NETWORKS", ["10.0.0.0/8", "fd00::/8"], (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        ("ALLOWED_NETWORKS", ("10.1.2.3",), (ip_network("10.1.2.3/32"),)),
        ("ALLOWED_NETWORKS", [ip_network("10.0.0.0/8")], (ip_network("10.0.0.0/8"),)),
        ("ALLOWED_NETWORKS", [], ()),
        ("ALLOWED_HOSTS", [], ()),
        ("ALLOWED_HOSTS", ["CI.Internal.", "*.Corp.Example.com"], ("ci.internal", "*.corp.example.com")),
        ("ALLOWED_HOSTS", ("bücher.example", "*.例え.jp"), ("xn--bcher-kva.example", "*.xn--r8jz45g.jp")),
        ("ALLOWED_HOSTS", ["localhost", "my_ci", "*.internal"], ("localhost", "my_ci", "*.internal")),
        ("ALLOW_HTTP", False, False),
        ("ALLOWED_PORTS", None, None),
        ("ALLOWED_PORTS", [443, 8443, 1, 65535], frozenset({443, 8443, 1, 65535})),
        ("PROXY", None, None),
        ("PROXY", "http://proxy:3128", "http://proxy:3128"),
        ("PROXY", "https://ann:p%40ss@[2001:db8::1]:3128/", "https://ann:p%40ss@[2001:db8::1]:3128/"),
        ("CLIENT_CERTIFICATE", None, None),
        ("CA_BUNDLE", None, None),
        ("CALLBACK_TTL", 60, timedelta(minutes=1)),
        ("CALLBACK_TTL", 0.5, timedelta(milliseconds=500)),
        ("CALLBACK_TTL", timedelta(hours=1), timedelta(hours=1)),
        ("RETENTION_DAYS", None, None),
        ("RETENTION_DAYS", 1, 1),
        ("RETENTION_DAYS", 3650, 3650),
    ],
)
def test_accepted(key: str, value: object, expected: object) -> None:
    """Each key takes the forms its message names."""
    assert getattr(registered(REQUIRED | {f"HUBHOOKS_{key}": value}), key.lower()) == expected


@pytest.mark.parametrize("form", [str, Path])
def test_accepts_a_ca_bundle(form: type, pem: Path) -> None:
    """HUBHOOKS_CA_BUNDLE takes the path of a PEM file, as text or as a path."""
    assert registered(REQUIRED | {"HUBHOOKS_CA_BUNDLE": form(pem)}).ca_bundle == str(pem)


def private_key(folder: Path, name: str, password: bytes | None = None) -> tuple[str, str, str]:
    """Paths of a certificate, of its key, and of both in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, datetime(2026, 1, 1), datetime(2126, 1, 1))
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    public = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    contents = {"pem": public, "key": private, "both": public + private}
    for ending, content in contents.items():
        (folder / f"{name}.{ending}").write_bytes(content)
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key"), str(folder / f"{name}.both")


def test_accepts_a_client_certificate(tmp_path: Path) -> None:
    """HUBHOOKS_CLIENT_CERTIFICATE takes one PEM file of both, or a pair of paths."""
    certificate, key, both = private_key(tmp_path, "own")
    for given, expected in (
        (both, (both, both)),
        (Path(both), (both, both)),
        ((certificate, key), (certificate, key)),
        ([Path(certificate), key], (certificate, key)),
    ):
        assert registered(REQUIRED | {"HUBHOOKS_CLIENT_CERTIFICATE": given}).client_certificate == expected


def test_refuses_a_client_certificate(tmp_path: Path) -> None:
    """A certificate without its key, with that of another, or with a password is refused, and none is asked for."""
    certificate, key, _ = private_key(tmp_path, "own")
    _, other, _ = private_key(tmp_path, "other")
    _, _, locked = private_key(tmp_path, "locked", b"hunter2")
    for given in (certificate, key, (certificate, other), (key, certificate), locked):
        message = refusal(REQUIRED | {"HUBHOOKS_CLIENT_CERTIFICATE": given})
        assert message.startswith(f"HUBHOOKS_CLIENT_CERTIFICATE must be {ACCEPTED['CLIENT_CERTIFICATE']}")


def test_proxy_is_not_shown() -> None:
    """A proxy's password is not in the config's text, which a log may hold."""
    assert "hunter2" not in repr(registered(REQUIRED | {"HUBHOOKS_PROXY": "http://ann:hunter2@proxy:3128"}))


ACCEPTED = {
    "EXTERNAL_URL": "an absolute http(s) URL",
    "REDIS_URL": "redis://, rediss:// or unix://",
    "REGISTRY_HOST": "a host, or a host and port, such as 'registry.example.com:5000'",
    "SOURCE_TOKENS": "a dict of sources and their tokens, such as {'distribution': '…'}",
    "REGISTRY_URL": "None or an absolute http(s) URL without user name, query or fragment",
    "REGISTRY_AUTH": "None or a user name and a password that may pull all repositories, such as 'user:password'",
    "REDIS_SENTINELS": "a list of URLs that start with redis:// or rediss://, such as ['redis://sentinel-1:26379']",
    "QUEUE": "1 to 64 letters, digits, '_' or '-'",
    "CONCURRENCY": "a whole number from 1 to 65536",
    "ALLOWED_NETWORKS": "a list of networks without host bits, such as ['10.0.0.0/8', 'fd00::/8']",
    "ALLOWED_HOSTS": "a list of names such as ['ci.internal', '*.corp.example.com']",
    "ALLOW_HTTP": "True or False",
    "ALLOWED_PORTS": "None or a list of ports from 1 to 65535, such as [443, 8443]",
    "PROXY": "None or the URL of a proxy such as http://user:password@proxy.example.com:3128",
    "CLIENT_CERTIFICATE": "the path of a readable PEM file with a certificate and its private key",
    "CA_BUNDLE": "the path of a readable PEM file",
    "CALLBACK_TTL": "a timedelta or a number of seconds, more than 0",
    "RETENTION_DAYS": "None or a whole number from 1 to 3650",
    "MAX_TIMEOUT_S": "a whole number from 5 to 60",
}
REFUSED: dict[str, list[object]] = {
    "EXTERNAL_URL": [
        5,
        b"https://example.com",
        "example.com",
        "/hooks",
        "ftp://example.com",
        "https://",
        "https://example.com:99999",
        "https://example.com:0",
        "https://[::1",
        "https://example.com/?a=b",
        "https://example.com/#part",
        "https://user@example.com",
        "https://example.com/a b",
        "https://example.com\n",
    ],
    "REDIS_URL": [None, 5, b"redis://cache", "", "cache:6379", "http://cache", "redis://cache:port", "redis://[::1"],
    "REGISTRY_HOST": [None, "", "https://registry.example.com", "registry.example.com/v2", "r.example.com:", "a b"],
    "SOURCE_TOKENS": [
        None,
        "x" * 16,
        ["distribution"],
        {"distribution": None},
        {"distribution": "short"},
        {"distribution": "with space " * 3},
        {"distribution": "é" * 16},
        {5: "x" * 16},
    ],
    "REGISTRY_URL": [
        5,
        "",
        "registry:5000",
        "ftp://registry",
        "https://ann:pw@registry",
        "https://registry?a",
        "http://a b",
    ],
    "REGISTRY_AUTH": [5, "", "ann", ":pw", "ann:", "ann:p\nw", ("ann", "pw")],
    "REDIS_SENTINELS": [None, "redis://one", [5], ["one:26379"], ["unix:///run/sentinel.sock"], ["redis://"]],
    "QUEUE": [None, 5, "", "a b", "a:b", "é", "a" * 65, "a\n"],
    "CONCURRENCY": [None, True, 0, -1, 65_537, 1.5, "64"],
    "ALLOWED_NETWORKS": [None, "10.0.0.0/8", {"10.0.0.0/8"}, [5], [True], [None], ["10.0.0.1/8"], ["example.com"]],
    "ALLOWED_HOSTS": [
        None,
        "ci.internal",
        {"ci.internal"},
        [5],
        [""],
        ["*"],
        ["*."],
        ["c*i"],
        ["*ci.internal"],
        ["ci.*"],
        ["*.*.example.com"],
        ["a..b"],
        [".internal"],
        ["ci.internal:80"],
        ["http://ci.internal"],
        ["10.0.0.1"],
        ["*.10"],
        ["0x7f"],
        ["::1"],
        ["[::1]"],
        ["a b"],
        ["ci.internal\n"],
        ["a" * 64],
        ["①.example"],
    ],
    "ALLOW_HTTP": [None, 0, 1, "false"],
    "ALLOWED_PORTS": [443, "443", [], [0], [65536], [-1], ["443"], [True], [443.0], {443: 1}],
    "PROXY": [
        5,
        "",
        "proxy:3128",
        "socks5://proxy:1080",
        "ftp://proxy",
        "http://",
        "http://:3128",
        "http://proxy:0",
        "http://proxy:99999",
        "http://proxy:port",
        "http://proxy/path",
        "http://proxy/?a",
        "http://proxy/#a",
        "http://[::1",
        "http://pro xy",
        "http://proxy\n",
        "http://proxy\\@other",
        "http://próxy",
    ],
    "CLIENT_CERTIFICATE": [
        5,
        True,
        "",
        [],
        ["a"],
        ["a", "b", "c"],
        "/nowhere/own.pem",
        "/",
        __file__,
        (__file__, __file__),
    ],
    "CA_BUNDLE": [5, True, ["a"], "", "/nowhere/ca.pem", "/", __file__],
    "CALLBACK_TTL": [None, True, "7", 0, -1, timedelta(0), float("inf"), float("nan"), 1e300],
    "RETENTION_DAYS": [True, 0, -1, 3651, 1.5, "90", timedelta(days=90)],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_refused(key: str, value: object) -> None:
    """An ill-typed value is refused at registration, with the key and what it accepts."""
    message = refusal(REQUIRED | {f"HUBHOOKS_{key}": value})
    assert message.startswith(f"HUBHOOKS_{key} must be ")
    assert ACCEPTED[key] in message


@pytest.mark.parametrize("key", ["HUBHOOKS_COLOUR", "HUBHOOKS_"])
def test_unknown_key(key: str) -> None:
    """A key that is not ours is refused with the list of those that are."""
    message = refusal(REQUIRED | {key: "hunter2"})
    assert message.startswith(f"{key} is not a known key")
    assert all(f"HUBHOOKS_{known}" in message for known in ACCEPTED)
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("key", "meant"),
    [("EXTERNALURL", "EXTERNAL_URL"), ("redis_url", "REDIS_URL"), ("ALLOWED_NETWORK", "ALLOWED_NETWORKS")],
)
def test_misspelt_key(key: str, meant: str) -> None:
    """A misspelt key is refused with the key that was meant, and no other."""
    message = refusal(REQUIRED | {f"HUBHOOKS_{key}": "hunter2"})
    assert message == f"HUBHOOKS_{key} is not a known key. Did you mean HUBHOOKS_{meant}?"


def test_other_keys_are_none_of_our_business() -> None:
    """Keys without our prefix are not looked at."""
    registered(REQUIRED | {"HUBHOOK_COLOUR": 1, "hubhooks_colour": 2})


@pytest.mark.parametrize("given", [{}, {"HUBHOOKS_EXTERNAL_URL": None}, {"HUBHOOKS_EXTERNAL_URL": ""}])
def test_external_url_is_required(given: dict[str, Any]) -> None:
    """The absence of HUBHOOKS_EXTERNAL_URL says so, and what it is for; None and "" are absence."""
    message = refusal({"SECRET_KEY": "s"} | given)
    assert message.startswith("HUBHOOKS_EXTERNAL_URL is not set")
    assert "https://registry.example.com" in message


@pytest.mark.parametrize("key", [None, "", b""])
def test_secret_key_is_required(key: object) -> None:
    """The absence of SECRET_KEY says so, and what it is for."""
    assert refusal(REQUIRED | {"SECRET_KEY": key}).startswith("SECRET_KEY is not set")


@pytest.mark.parametrize(
    "settings",
    [
        {"HUBHOOKS_REDIS_URL": "reds://:hunter2@cache"},
        {"HUBHOOKS_REDIS_URL": "redis://:hunter2@cache:port"},
        {"HUBHOOKS_REDIS_URL": "redis://:hunter2@[cache"},
        {"HUBHOOKS_REDIS_SENTINELS": ["redis://:hunter2@one", "reds://:hunter2@two"]},
        {"HUBHOOKS_REDIS_URL": "unix://:hunter2@/run/redis.sock", "HUBHOOKS_REDIS_SENTINELS": ["redis://:hunter2@one"]},
        {"HUBHOOKS_EXTERNAL_URL": "https://admin:hunter2@example.com"},
        {"HUBHOOKS_PROXY": "socks5://ann:hunter2@proxy"},
        {"HUBHOOKS_PROXY": "http://ann:hunter2@proxy:port"},
        {"HUBHOOKS_REGISTRY_URL": "https://ann:hunter2@registry.example.com"},
        {"HUBHOOKS_REGISTRY_AUTH": "hunter2"},
        {"HUBHOOKS_REGISTRY_AUTH": "ann:hunter2"},
        {"HUBHOOKS_SOURCE_TOKENS": {"distribution": "hunter2"}},
        {"HUBHOOKS_SOURCE_TOKENS": {"distribution": "hunter2" * 3}},
        {"HUBHOOKS_SOURCE_TOKENS": {"nonsense": "hunter2" * 3}, "HUBHOOKS_REGISTRY_HOST": "registry.example.com"},
        {"SECRET_KEY": "hunter2", "HUBHOOKS_QUEUE": ""},
        {"SECRET_KEY": "hunter2", "HUBHOOKS_COLOUR": ""},
    ],
)
def test_secrets_stay_out_of_messages(settings: dict[str, Any]) -> None:
    """No message shows a password or the secret key."""
    assert "hunter2" not in refusal(REQUIRED | settings)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch, pem: Path) -> None:
    """Every key can be set by Flask's FLASK_ environment variables, those that are not text as JSON."""
    for key, value in {
        "EXTERNAL_URL": "https://registry.example.com",
        "REDIS_URL": "redis://cache:6379/1",
        "QUEUE": "hooks",
        "CONCURRENCY": "8",
        "ALLOWED_NETWORKS": '["10.0.0.0/8"]',
        "ALLOWED_HOSTS": '["ci.internal"]',
        "ALLOW_HTTP": "false",
        "ALLOWED_PORTS": "[443]",
        "PROXY": "http://proxy:3128",
        "CA_BUNDLE": str(pem),
        "CALLBACK_TTL": "3600",
        "REDIS_SENTINELS": '["redis://one"]',
        "RETENTION_DAYS": "null",
    }.items():
        monkeypatch.setenv(f"FLASK_HUBHOOKS_{key}", value)
    app = Flask("host")
    app.config.from_prefixed_env()
    assert registered({"SECRET_KEY": "s"} | dict(app.config.get_namespace("HUBHOOKS_", False, False))) == Config(
        external_url="https://registry.example.com",
        redis_url="redis://cache:6379/1",
        queue="hooks",
        concurrency=8,
        allowed_networks=(ip_network("10.0.0.0/8"),),
        allowed_hosts=("ci.internal",),
        allow_http=False,
        allowed_ports=frozenset({443}),
        proxy="http://proxy:3128",
        ca_bundle=str(pem),
        callback_ttl=timedelta(hours=1),
        redis_sentinels=("redis://one",),
        retention_days=None,
    )


@pytest.mark.parametrize(
    ("external_url", "registry_host"),
    [
        ("https://registry.example.com/hooks", "registry.example.com"),
        ("http://localhost:5000", "localhost:5000"),
        ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
    ],
)
def test_the_registry_host_is_that_of_the_external_url(external_url: str, registry_host: str) -> None:
    """Unless it is set, images are named with the host and port of the external URL."""
    assert registered(REQUIRED | {"HUBHOOKS_EXTERNAL_URL": external_url}).registry_host == registry_host


def test_sources_need_the_registrys_host() -> None:
    """With a source on, our app is usually not the registry, so its host must be set."""
    token = {"HUBHOOKS_SOURCE_TOKENS": {"distribution": "x" * 16}}
    assert refusal(REQUIRED | token).startswith("HUBHOOKS_REGISTRY_HOST is not set")
    assert registered(REQUIRED | {"HUBHOOKS_SOURCE_TOKENS": {}}).source_tokens == ()
    config = registered(REQUIRED | token | {"HUBHOOKS_REGISTRY_HOST": "registry.example.com"})
    assert config.source_tokens == (("distribution", "x" * 16),)
    assert "x" * 16 not in repr(config)


def test_sources_must_exist() -> None:
    """A token for a source that is not there is refused, with those that are."""
    settings = REQUIRED | {"HUBHOOKS_SOURCE_TOKENS": {"distributon": "x" * 16}}
    message = refusal(settings | {"HUBHOOKS_REGISTRY_HOST": "registry.example.com"})
    assert message.startswith("HUBHOOKS_SOURCE_TOKENS names 'distributon', which is no source")
    assert "distribution" in message and "@hubhooks.source" in message


@pytest.mark.parametrize("name", ["distribution", "", "Own", "a b", "a/b", "a" * 41])
def test_names_of_sources(name: str) -> None:
    """A source of a host's own has a name that is not taken and can stand in a path."""
    with pytest.raises(ValueError, match="cannot be the name of a source"):
        HubHooks(SQLAlchemy()).source(name)


def test_sentinels_need_the_name_of_their_service() -> None:
    """With Sentinels the host in the Redis URL is the service's name: without one they are refused."""
    given = {"HUBHOOKS_REDIS_URL": "unix:///run/redis.sock", "HUBHOOKS_REDIS_SENTINELS": ["redis://one"]}
    assert refusal(REQUIRED | given).startswith("HUBHOOKS_REDIS_URL must have the name of the Sentinels' service")


def test_config_is_frozen() -> None:
    """What was checked cannot be changed afterwards."""
    with pytest.raises(AttributeError):
        registered(REQUIRED).queue = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("key", "warned"), [("x" * 15, 1), (b"x" * 15, 1), ("x" * 16, 0), ("\u00fc" * 8, 0)])
def test_short_secret_key(key: str | bytes, warned: int, caplog: pytest.LogCaptureFixture) -> None:
    """A SECRET_KEY of less than 16 bytes is warned of when the blueprint is registered, and not shown."""
    db, app = SQLAlchemy(), Flask("host")
    app.config.update(
        SECRET_KEY=key, SQLALCHEMY_DATABASE_URI="sqlite:///unused.db", HUBHOOKS_EXTERNAL_URL="https://r.example.com"
    )
    db.init_app(app)
    app.register_blueprint(HubHooks(db))
    assert caplog.text.count("SECRET_KEY has less than 16 bytes") == warned
    assert "x" * 15 not in caplog.text


def test_the_registrys_password_needs_its_url() -> None:
    """A password without the URL that it is for is a mistake."""
    auth = {"HUBHOOKS_REGISTRY_AUTH": "ann:pass:word"}
    assert refusal(REQUIRED | auth).startswith("HUBHOOKS_REGISTRY_AUTH is set, but HUBHOOKS_REGISTRY_URL is not.")
    config = registered(REQUIRED | auth | {"HUBHOOKS_REGISTRY_URL": "http://registry:5000"})
    assert config.registry_auth == "ann:pass:word"
    assert "ann" not in repr(config)
