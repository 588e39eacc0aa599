"""A webhook's secrets: given or generated, rotated, encrypted with the operator's keys, and shown to nobody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from time import monotonic
from typing import Any

import pytest
from click.testing import Result
from cryptography.fernet import Fernet
from redis.exceptions import AuthenticationError
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import select, text
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from flask_hubhooks.config import Config, ConfigError
from flask_hubhooks.crypto.secret_box import SecretUnreadable
from flask_hubhooks.crypto.signing import BadSecret, check_secret
from flask_hubhooks.dialects import utcnow
from flask_hubhooks.records.models import Delivery, Hook, Webhook
from flask_hubhooks.worker.claims import claim
from flask_hubhooks.worker.dispatcher import Dispatcher

from ..support.host import Host
from ..support.marks import MakeHost, on_sqlite
from ..support.receivers import Connection, Receiver, Request, http

PRESENT = "a test's secret key"
"""The `SECRET_KEY` of `Host`."""


def secret_of(size: int, byte: bytes = b"\xfb") -> str:
    return "whsec_" + base64.b64encode(byte * size).decode()


def path_of(webhook: dict[str, Any], *more: str) -> str:
    return "/".join(["acme/app/webhooks", str(webhook["id"]), *more]) + "/"


def rotate(host: Host, webhook: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = host.api("POST", path_of(webhook, "rotate-secret"), json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def sent(host: Host, receiver: Receiver) -> Request:
    """Push and deliver; return the request that arrived."""
    before = len(receiver.requests)
    host.push()
    host.deliver()
    assert len(receiver.requests) == before + 1
    return receiver.requests[-1]


def verifies(secret: str, request: Request) -> bool:
    """Tell whether the Standard Webhooks library verifies the request with this secret."""
    try:
        Verifier(secret).verify(request.body, dict(request.headers))
    except WebhookVerificationError:
        return False
    return True


def hub_signature(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


# Given, or generated


@on_sqlite
def test_given(host: Host) -> None:
    """An owner's own secret of 24 to 64 bytes is accepted on creation and rotation, and signs requests."""
    with Receiver() as receiver:
        for size in (24, 25, 26, 32, 63, 64):
            first, second = secret_of(size), secret_of(size, b"\x01")
            webhook = host.create(receiver.url, secret=first)
            assert webhook["secret"] == first
            assert verifies(first, sent(host, receiver))
            assert rotate(host, webhook, secret=second)["secret"] == second
            assert verifies(second, sent(host, receiver))
            host.api("DELETE", path_of(webhook))


BAD = {
    "23 bytes": secret_of(23),
    "65 bytes": secret_of(65),
    "empty": "",
    "prefix alone": "whsec_",
    "no prefix": secret_of(32).removeprefix("whsec_"),
    "another prefix": secret_of(32).replace("whsec_", "whpk_"),
    "prefix in capitals": secret_of(32).replace("whsec_", "WHSEC_"),
    "prefix twice": "whsec_" + secret_of(32),
    "no base64": "whsec_" + "!" * 44,
    "no padding": secret_of(32).rstrip("="),
    "too much padding": secret_of(32) + "=",
    "padding within": secret_of(24)[:-4] + "AA==" + "AAAA",
    "bits left over": secret_of(32)[:-2] + "/=",
    "url-safe": "whsec_" + base64.urlsafe_b64encode(b"\xfb" * 32).decode(),
    "space before": " " + secret_of(32),
    "space behind": secret_of(32) + " ",
    "space within": secret_of(32)[:20] + " " + secret_of(32)[20:],
    "line feed behind": secret_of(32) + "\n",
    "line feed within": secret_of(32)[:20] + "\n" + secret_of(32)[20:],
    "zero": secret_of(32) + "\0",
    "umlaut": secret_of(32)[:-2] + "ä=",
    "full-width letters": secret_of(32)[:-3] + "\uff21\uff21=",
    "lone surrogate": secret_of(32) + "\ud800",
    "long": "whsec_" + "A" * 60_000,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_secrets(bad: str) -> None:
    """A text that Standard Webhooks' libraries read differently is not a secret, and the error does not repeat it."""
    with pytest.raises(BadSecret) as error:
        check_secret(bad)
    assert str(error.value) == "Must be whsec_ and the base64 of 24 to 64 bytes."


@on_sqlite
def test_bad_secrets_are_refused(host: Host) -> None:
    """A bad secret is refused at its field on creation and rotation, not repeated, and changes nothing."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        for bad in [*BAD.values(), 7, ["whsec_"], {"a": 1}, True]:
            body = json.dumps({"secret": bad}), json.dumps({"name": "other", "hook_url": receiver.url, "secret": bad})
            for path, content in zip((path_of(webhook, "rotate-secret"), "acme/app/webhooks/"), body, strict=True):
                answer = host.api("POST", path, data=content, content_type="application/json")
                assert answer.status_code == 400, bad
                assert list(answer.get_json()["errors"]) == ["secret"]
                assert not isinstance(bad, str) or len(bad) < 8 or bad not in answer.text
        assert host.api("PATCH", path_of(webhook), json={"secret": secret_of(32)}).status_code == 400
        assert host.api("GET", "acme/app/webhooks/").get_json()["count"] == 1
        assert verifies(webhook["secret"], sent(host, receiver))


@on_sqlite
def test_generated(host: Host) -> None:
    """A generated secret is 32 random bytes, and is shown only in the response that created it."""
    url = "http://127.0.0.1:9/hook"
    webhooks = [host.create(url, name=f"name {number}") for number in range(3)]
    secrets = [each["secret"] for each in webhooks] + [rotate(host, each)["secret"] for each in webhooks]
    assert len(set(secrets)) == 6
    assert {len(base64.b64decode(each.removeprefix("whsec_"), validate=True)) for each in secrets} == {32}
    shown = host.api("GET", "acme/app/webhooks/").text
    for webhook in webhooks:
        shown += host.api("GET", path_of(webhook)).text
        shown += host.api("PATCH", path_of(webhook), json={"name": f"{webhook['id']}"}).text
    assert [each for each in secrets if each in shown] == []
    assert '"secret"' not in shown


# Rotated


def test_rotating(make_host: MakeHost) -> None:
    """A receiver can verify with the former and the new secret for a day, then only with the new one."""
    host = make_host()
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        old = webhook["secret"]
        assert len(sent(host, receiver).headers["webhook-signature"].split()) == 1
        answer = rotate(host, webhook)
        new, until = answer["secret"], datetime.fromisoformat(answer["former_secret_until"].replace("Z", "+00:00"))
        assert timedelta(hours=23, minutes=59) < until - datetime.now(timezone.utc) <= timedelta(hours=24)
        shown = host.api("GET", path_of(webhook)).get_json()
        assert shown["former_secret_until"] == answer["former_secret_until"]
        request = sent(host, receiver)
        assert len(request.headers["webhook-signature"].split()) == 2
        assert verifies(old, request) and verifies(new, request) and not verifies(secret_of(32), request)
        assert request.headers["x-hub-signature-256"] == hub_signature(new, request.body)
        host.set_all(Webhook, former_secret_until=utcnow() - timedelta(seconds=1))
        request = sent(host, receiver)
        assert len(request.headers["webhook-signature"].split()) == 1
        assert verifies(new, request) and not verifies(old, request)


@on_sqlite
def test_how_long_the_former_is_used(host: Host) -> None:
    """Requests are also signed with the former secret for 24 hours."""
    until = rotate(host, host.create("http://127.0.0.1:9/hook"))["former_secret_until"]
    left = datetime.fromisoformat(until.replace("Z", "+00:00")) - datetime.now(timezone.utc)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)


@on_sqlite
def test_rotating_twice(host: Host) -> None:
    """Rotating again drops the oldest secret at once, so that a leaked one can be revoked."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        secrets = [webhook["secret"], *(rotate(host, webhook)["secret"] for _ in range(2))]
        request = sent(host, receiver)
    assert [verifies(each, request) for each in secrets] == [False, True, True]


@on_sqlite
def test_a_retry_is_signed_anew(host: Host) -> None:
    """A retry after a rotation is signed with the current secrets."""
    with Receiver(500, 200) as receiver:
        webhook = host.create(receiver.url)
        first = sent(host, receiver)
        new = rotate(host, webhook)["secret"]
        host.make_due()
        host.deliver()
    second = receiver.requests[1]
    assert [verifies(new, each) for each in (first, second)] == [False, True]
    assert second.headers["webhook-id"] == first.headers["webhook-id"]


@on_sqlite
def test_rotating_is_noted(host: Host) -> None:
    """Rotating changes the ETag and the webhook's last editor; a failed rotation changes neither."""
    webhook = host.create("http://127.0.0.1:9/hook")
    before = host.api("GET", path_of(webhook))
    assert host.api("POST", path_of(webhook, "rotate-secret"), user="reader").status_code == 403
    assert host.api("POST", path_of(webhook, "rotate-secret"), json={"other": 1}).status_code == 400
    assert host.api("GET", path_of(webhook)).headers["ETag"] == before.headers["ETag"]
    assert host.api("POST", path_of(webhook, "rotate-secret")).status_code == 200
    after = host.api("GET", path_of(webhook))
    assert after.headers["ETag"] != before.headers["ETag"]
    assert after.get_json()["last_updated"] > before.get_json()["last_updated"]


# What is signed


@on_sqlite
def test_signed_is_what_is_sent(host: Host) -> None:
    """Both signatures cover the exact bytes of the body on the socket, with text in any script."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url)
        host.push(tag="latest", pusher='Jürgen 容器 \U0001f433 \u2028 </script> \\ "')
        host.deliver()
    [request] = receiver.requests
    assert "容器 \U0001f433".encode() in request.body
    assert int(request.headers["content-length"]) == len(request.body)
    assert request.headers["x-hub-signature-256"] == hub_signature(webhook["secret"], request.body)
    assert verifies(webhook["secret"], request)
    key = base64.b64decode(webhook["secret"].removeprefix("whsec_"))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    changed = Request("POST", "/", request.headers, request.body + b" ")
    assert not verifies(webhook["secret"], changed)


# Encrypted


def key() -> str:
    return Fernet.generate_key().decode()


def opens(host: Host, *keys: str) -> list[bool]:
    """Tell which of these Fernet keys decrypts the first webhook's current secret in the database."""
    with host.writing() as session:
        stored = session.scalars(select(Webhook.encrypted_secret).order_by(Webhook.id)).first()
    assert stored
    results = []
    for each in keys:
        try:
            results.append(bool(Fernet(each).decrypt(stored)))
        except Exception:
            results.append(False)
    return results


def rotate_keys(host: Host) -> Result:
    return host.app.test_cli_runner().invoke(args=["hubhooks", "rotate-keys"])


def test_encryption_keys(make_host: MakeHost) -> None:
    """The first of HUBHOOKS_ENCRYPTION_KEYS encrypts; the others, and then the keys of SECRET_KEY, also decrypt."""
    first, second = key(), key()
    with Receiver() as receiver:
        derived = make_host()
        webhook = derived.create(receiver.url, headers={"Authorization": "Bearer given"})
        assert opens(derived, first, second) == [False, False]
        one = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [first]})
        assert verifies(webhook["secret"], sent(one, receiver))
        new = rotate(one, webhook)["secret"]
        assert opens(one, first, second) == [True, False]
        two = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [second, first.encode()], "SECRET_KEY": "another"})
        two.set_all(Webhook, encrypted_headers=None, former_secret_until=None)  # these have the key that is gone
        assert verifies(new, sent(two, receiver))
        rotate(two, webhook)
        assert opens(two, first, second) == [False, True]


@pytest.mark.parametrize(
    "bad",
    ["plain", [""], ["short"], [7], [None], [[]], {"a": 1}, 7, None, True, ["A" * 44], ["é" * 32], [b"\xff" * 44], []],
    ids=repr,
)
def test_bad_encryption_keys(bad: Any) -> None:
    """Invalid keys raise a ConfigError that describes valid ones and shows none of them."""
    good = key()
    given = [*bad, good] if isinstance(bad, list) else bad
    settings = {"SECRET_KEY": "k", "HUBHOOKS_EXTERNAL_URL": "https://a.example", "HUBHOOKS_ENCRYPTION_KEYS": given}
    if bad == []:
        assert Config.from_app(settings).encryption_keys == (good,)
        return
    with pytest.raises(ConfigError) as error:
        Config.from_app(settings)
    shown = "".join(traceback.format_exception(error.value))
    assert str(error.value) == "HUBHOOKS_ENCRYPTION_KEYS must be a list of Fernet keys, the newest first."
    assert good not in shown and "short" not in shown and "plain" not in shown


def test_rotate_keys(make_host: MakeHost) -> None:
    """`rotate-keys` encrypts everything again, including former secrets and headers, so that the old key can go."""
    old, new = key(), key()
    before = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [old]})
    both = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [new, old]})
    after = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [new], "SECRET_KEY": "another"})
    with Receiver() as receiver:
        url = receiver.url.replace("://", "://name:password@")
        webhook = before.create(url, headers={"X-Token": "the value"})
        new_secret = rotate(before, webhook)["secret"]
        result = rotate_keys(both)
        assert (result.exit_code, "of 1 webhooks" in result.output) == (0, True), result.output
        request = sent(after, receiver)
    assert verifies(webhook["secret"], request) and verifies(new_secret, request)
    assert request.headers["x-token"] == "the value"
    assert request.headers["authorization"] == "Basic bmFtZTpwYXNzd29yZA=="
    with after.writing() as session:
        [row] = session.scalars(select(Webhook))
        for stored in (row.encrypted_secret, row.encrypted_former_secret, row.encrypted_headers):
            assert stored and Fernet(new).decrypt(stored)


def test_rotate_keys_after_the_secret_key(make_host: MakeHost) -> None:
    """SECRET_KEY_FALLBACKS can drop the old SECRET_KEY after `rotate-keys`, but not before."""
    with Receiver() as receiver:
        host = make_host()
        webhook = host.create(receiver.url, headers={"X-Token": "the value"})
        rotating = make_host(config={"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["older", PRESENT]})
        after = make_host(config={"SECRET_KEY": "new"})
        assert rotate_keys(after).exit_code == 1
        assert rotate_keys(rotating).exit_code == 0
        assert rotate_keys(after).exit_code == 0
        assert verifies(webhook["secret"], sent(after, receiver))
        assert receiver.requests[-1].headers["x-token"] == "the value"


def test_rotate_keys_of_what_is_unreadable(make_host: MakeHost) -> None:
    """Values that no key decrypts are reported, with exit code 1, and stay; the rest is rotated."""
    old, new = key(), key()
    lost = make_host(config={"SECRET_KEY": "lost"})
    host = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [old]})
    webhooks = [host.create("http://127.0.0.1:9/a", name="first"), host.create("http://127.0.0.1:9/a", name="last")]
    lost.create("http://127.0.0.1:9/b", name="lost one")
    deleted = lost.create("http://127.0.0.1:9/b", name="deleted one")
    assert lost.api("DELETE", path_of(deleted)).status_code == 204
    rotate(lost, webhooks[0])  # without a former secret, since this app cannot read it
    both = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [new, old]})
    rotate(both, webhooks[0])
    with host.writing() as session:
        before = session.scalars(select(Webhook).where(Webhook.name == "lost one")).one().encrypted_secret
    result = rotate_keys(both)
    assert result.exit_code == 1
    assert "acme/app: lost one" in result.output and "1 webhooks could not be decrypted" in result.output
    assert "headers of 2 webhooks" in result.output
    with host.writing() as session:
        rows = {row.name: row for row in session.scalars(select(Webhook))}
    assert Fernet(new).decrypt(rows["first"].encrypted_secret) and Fernet(new).decrypt(rows["last"].encrypted_secret)
    assert rows["lost one"].encrypted_secret == before
    rotate(both, {"id": rows["lost one"].id})
    assert rotate_keys(both).exit_code == 0


@on_sqlite
def test_rotate_keys_passes_over_what_is_not_used(make_host: MakeHost) -> None:
    """An unreadable former secret that has expired blocks no rotation, and is dropped."""
    new = key()
    lost = make_host(config={"SECRET_KEY": "lost"})
    webhook = lost.create("http://127.0.0.1:9/a", headers={"X-Token": "value"})
    rotate(lost, webhook)
    host = make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [new]})
    rotate(host, webhook)
    host.api("PATCH", path_of(webhook), json={"headers": {"X-Token": "again"}})
    with lost.writing() as session:
        [row] = session.scalars(select(Webhook))
        row.encrypted_former_secret = lost.state.secrets.encrypt("whsec_old")
        row.former_secret_until = utcnow() - timedelta(seconds=1)
    assert rotate_keys(host).exit_code == 0
    with host.writing() as session:
        [row] = session.scalars(select(Webhook))
        assert row.encrypted_former_secret is None


@on_sqlite
def test_rotate_keys_in_batches(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every webhook is rotated once, however many batches it takes."""
    monkeypatch.setattr("flask_hubhooks.records.credentials.BATCH", 2)
    host = make_host()
    for number in range(5):
        host.create("http://127.0.0.1:9/a", name=f"{number}")
    new = key()
    result = rotate_keys(make_host(config={"HUBHOOKS_ENCRYPTION_KEYS": [new]}))
    assert "of 5 webhooks" in result.output
    with host.writing() as session:
        assert all(Fernet(new).decrypt(each) for each in session.scalars(select(Webhook.encrypted_secret)))


@pytest.mark.parametrize("lost", ["encrypted_secret", "encrypted_former_secret", "encrypted_headers"])
def test_held_until_the_key_is_back(host: Host, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    """A delivery whose secret cannot be decrypted is held without an attempt until the key is back."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, headers={"X-Token": "the value"})
        new = rotate(host, webhook)["secret"]
        with host.writing() as session:
            kept = getattr(session.scalars(select(Webhook)).one(), lost)
        for broken in (Fernet(key()).encrypt(b"{}"), kept[:-1] + b"A", b"", b"plain"):
            host.set_all(Webhook, **{lost: broken if broken or lost == "encrypted_secret" else b"x"})
            host.push()
            host.make_due()
            caplog.clear()
            host.deliver()
            assert receiver.requests == []
            assert f"the secret or the headers of webhook {webhook['id']} cannot be decrypted" in caplog.text
        assert {(each["state"], each["attempt_count"]) for each in host.history(webhook)} == {("pending", 0)}
        assert host.api("GET", path_of(webhook)).status_code == 200
        host.set_all(Webhook, **{lost: kept})
        host.make_due()
        host.deliver()
        assert len(receiver.requests) == 4
    assert all(verifies(new, each) and each.headers["x-token"] == "the value" for each in receiver.requests)
    assert {each["state"] for each in host.history(webhook)} == {"succeeded"}


@on_sqlite
def test_unreadable_headers_are_set_anew(make_host: MakeHost) -> None:
    """Headers and secret that no key decrypts are shown as unreadable, and can be set again."""
    webhook = make_host(config={"SECRET_KEY": "lost"}).create("http://127.0.0.1:9/a", headers={"X-Token": "value"})
    host = make_host()
    assert host.api("GET", path_of(webhook)).get_json()["headers"] is None
    answer = host.api("PATCH", path_of(webhook), json={"headers": {"X-Token": None}})
    assert (answer.status_code, list(answer.get_json()["errors"]["headers"])) == (400, ["X-Token"])
    with Receiver() as receiver:
        hooks = [{"hook_url": receiver.url}]
        answer = host.api("PATCH", path_of(webhook), json={"headers": {"X-Token": "again"}, "hooks": hooks})
        assert answer.get_json()["headers"] == {"X-Token": None}
        rotated = rotate(host, webhook)
        assert rotated["former_secret_until"] is None
        assert verifies(rotated["secret"], sent(host, receiver))
        assert receiver.requests[0].headers["x-token"] == "again"


# Told to nobody


class Everything(logging.Handler):
    """All log records from anywhere, including tracebacks and arguments."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{logging.Formatter('%(name)s %(message)s').format(record)} {record.args!r}")


@contextmanager
def everything_logged() -> Iterator[Everything]:
    """Every logger at DEBUG."""
    handler, root = Everything(), logging.getLogger()
    loggers = [each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    before = [(each, each.level, each.disabled) for each in [root, *loggers]]
    root.addHandler(handler)
    for each, _, _ in before:
        each.setLevel(logging.DEBUG)
        each.disabled = False
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        for each, level, disabled in before:
            each.setLevel(level)
            each.disabled = disabled


def in_any_spelling(secrets: list[str], content: str) -> list[str]:
    """Return the secrets that occur in a text: as they are, without prefix, as base64 or hex, or URL-encoded."""
    found = []
    for each in secrets:
        bare = each.removeprefix("whsec_")
        spelled = {
            bare,
            base64.b64encode(each.encode()).decode().rstrip("="),
            each.encode().hex(),
            bare.replace("+", "%2B"),
        }
        if each.startswith("whsec_"):
            spelled.add(repr(base64.b64decode(bare))[2:-1])
        found += [each for spelling in spelled if spelling in content]
    return found


def test_told_to_nobody(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret occurs in logs, reprs, RQ's jobs, the database's text, the history or error responses."""
    operators, app_key, header = key(), "the-app's-own-secret-key", "Bearer header-value-1234"
    echoed: list[str] = []

    def echo(request: Request, _: Connection) -> bytes:
        told = " ".join([*echoed, *request.headers.values()]).encode("latin-1")
        return http(500, told, f"X-Echo: {request.headers['authorization']}", f"X-Secrets: {' '.join(echoed)}")

    config = {"HUBHOOKS_ENCRYPTION_KEYS": [operators], "SECRET_KEY": app_key, "SQLALCHEMY_ECHO": False}
    with everything_logged() as logged, Receiver(echo) as receiver:
        host = make_host(config=config)
        webhook = host.create(receiver.url, secret=secret_of(16, b"\xfa\x01\x7f"), headers={"Authorization": header})
        echoed.append(webhook["secret"])
        echoed.append(rotate(host, webhook)["secret"])
        secrets = [*echoed, "header-value-1234", operators, app_key]
        host.push()
        host.run_job()
        host.make_due()
        bad = host.state.secrets.encrypt(json.dumps({"X-Split": "header-value-1234\r\nX-More: header-value-1234"}))
        good = Webhook.encrypted_headers
        with host.writing() as session:
            kept = session.scalars(select(good)).one()
        host.set_all(Webhook, encrypted_headers=bad)
        host.deliver()
        host.set_all(Webhook, encrypted_headers=host.state.secrets.encrypt("header-value-1234 is no JSON"))
        host.make_due()
        host.deliver()
        host.set_all(Webhook, encrypted_headers=kept)
        host.make_due()
        shown = host.api("GET", path_of(webhook)).text + host.api("GET", "acme/app/webhooks/").text
        for each in host.history(webhook):
            shown += json.dumps(each) + json.dumps(host.details(webhook, each))
        name = "acme/app/webhooks/"
        for content in (
            {"name": "a", "secret": secrets[0][:-1]},
            {"name": "a", "headers": {"X-A": header + "\n"}, "unknown": header},
            {"name": "deploy", "secret": secrets[0], "headers": {"X-A": header}},
            {"name": "a", "secret": secrets[0], "headers": {"Host": header, "": header}},
        ):
            answer = host.api("POST", name, json=content)
            assert answer.status_code == 400
            shown += answer.text
        shown += rotate_keys(host).output
        with host.writing() as session:
            [one], _ = claim(session, 1)
            dispatcher = Dispatcher(host.state)
            dispatcher._limits.add(one, monotonic() + 60)
            [result] = dispatcher._collect(10)
            models = [session.scalars(select(model)).first() for model in (Webhook, Hook, Delivery)]
            reprs = [repr(each) + str(each) for each in (*models, one, result, host.state, host.state.config)]
            reprs += [
                repr(host.state.secrets),
                repr(vars(host.state)),
                repr(vars(host.state.secrets)),
                repr(host.hubhooks),
            ]
            stored = "".join(
                repr(tuple(row)) + "".join(bytes(cell).decode("latin-1") for cell in row if isinstance(cell, bytes))
                for table in ("webhook", "hook", "push", "delivery", "attempt")
                for row in session.execute(text(f"SELECT * FROM hubhooks_{table}"))  # noqa: S608
            )
        host.state.redis.delete("hubhooks:wake")
        host.push()
        queue = Queue("hubhooks", connection=host.state.redis, serializer=JSONSerializer)
        jobs = "".join(f"{job.description} {job.args} {job.kwargs} {job.meta} {job.to_dict()}" for job in queue.jobs)
    assert len(logged.lines) > 20 and queue.count
    places = {"logs": "\n".join(logged.lines), "API": shown, "reprs": "\n".join(reprs), "rows": stored, "jobs": jobs}
    assert {place: in_any_spelling(secrets, content) for place, content in places.items()} == {
        place: [] for place in places
    }
    assert "***" in shown


@on_sqlite
def test_the_database_file(make_host: MakeHost, sqlite_uri: str) -> None:
    """The database file contains neither secret nor header value."""
    host = make_host(database_uri=sqlite_uri)
    webhook = host.create("http://127.0.0.1:9/a", headers={"X-Token": "header-value-1234"})
    secrets = [webhook["secret"], rotate(host, webhook)["secret"], "header-value-1234"]
    with host.app.app_context():
        host.db.engine.dispose()
    with open(sqlite_uri.removeprefix("sqlite:///"), "rb") as file:
        assert in_any_spelling(secrets, file.read().decode("latin-1")) == []


@on_sqlite
def test_the_password_of_redis(make_host: MakeHost, redis_url: str) -> None:
    """A password in HUBHOOKS_REDIS_URL is in no log and no repr, even if Redis refuses it on every push."""
    with everything_logged() as logged:
        host = make_host(redis_url=redis_url.replace("redis://", "redis://nobody:pass-of-redis@"))
        host.create("http://127.0.0.1:9/a")
        host.push()
        assert host.app.test_cli_runner().invoke(args=["hubhooks", "worker", "--burst"]).exit_code == 1
        with pytest.raises(AuthenticationError) as refused:
            host.state.redis.ping()
    said = "\n".join(logged.lines) + str(refused.value)
    said += repr(host.state) + repr(host.state.config) + repr(host.state.redis) + repr(vars(host.state))
    assert "no worker was woken" in said
    assert "pass-of-redis" not in said


@on_sqlite
def test_exceptions_do_not_tell(host: Host) -> None:
    """Our exceptions say what is wrong without the secret, however they are printed."""
    secret = secret_of(65)
    for fails in (lambda: check_secret(secret), lambda: host.state.secrets.decrypt(secret.encode())):
        with pytest.raises((BadSecret, SecretUnreadable)) as error:
            fails()
        lines = traceback.format_exception_only(error.value)
        assert in_any_spelling([secret], "".join(lines) + repr(error.value)) == []
    settings = {"SECRET_KEY": secret, "SECRET_KEY_FALLBACKS": [secret], "HUBHOOKS_EXTERNAL_URL": "https://a.example"}
    assert secret not in repr(Config.from_app(settings))
    for bad in ({"SECRET_KEY_FALLBACKS": [secret, 7]}, {"HUBHOOKS_REDIS_URL": f"http://:{secret}@a"}):
        with pytest.raises(ConfigError) as refused:
            Config.from_app(settings | bad)
        assert secret not in "".join(traceback.format_exception(refused.value))
