"""What readers see of an exchange, and how secrets that a receiver sends back are masked."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flask_hubhooks.records.models import Hook
from flask_hubhooks.transport import MAX_STORED_BODY, MAX_STORED_HEADERS, Outcome
from flask_hubhooks.transport.hook_url import origin
from flask_hubhooks.worker.masking import masked

from ..support.host import Host
from ..support.marks import on_sqlite
from ..support.receivers import Receiver, http
from ..support.visitor import Visitor
from ..web.test_authorization import BODIES, Ids, ask, path_of

SECRETS = ("a+b/c=d\\e\"f'g&h~i", "Bearer with spaces/1+2", "kJ8/+9zQwErTy+/AbCdEfGh==", "50%25off%2Fnow/always")


def outcome(body: bytes, *headers: tuple[str, str], truncated: bool = False) -> Outcome:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return Outcome(now, 1, 500, response_headers=headers, response_body=body, truncated=truncated)


def percent(text: str, *, upper: bool = True, which: Any = lambda index, each: True) -> str:
    form = "%{:02X}" if upper else "%{:02x}"
    return "".join(form.format(ord(each)) if which(index, each) else each for index, each in enumerate(text))


def unicode_escaped(text: str, *, upper: bool = True, which: Any = lambda index, each: True) -> str:
    form = "\\u{:04X}" if upper else "\\u{:04x}"
    return "".join(
        form.format(ord(each)) if which(index, each) else json.dumps(each)[1:-1] for index, each in enumerate(text)
    )


def special(_: int, each: str) -> bool:
    return not each.isalnum()


def every_other(index: int, each: str) -> bool:
    return index % 2 == 0 or each == "%"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "quote": lambda text: quote(text, safe=""),
    "quote, lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "quote, slashes kept": quote,
    "quote_plus": lambda text: quote_plus(text).replace("+", "%20"),
    "all percent-encoded": percent,
    "all percent-encoded, lower case": lambda text: percent(text, upper=False),
    "special ones percent-encoded": lambda text: percent(text, which=special),
    "special ones percent-encoded, lower case": lambda text: percent(text, upper=False, which=special),
    "every other percent-encoded": lambda text: percent(text, which=every_other),
    "the first percent-encoded": lambda text: percent(text, which=lambda index, each: index == 0 or each == "%"),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON with escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "all in JSON's escapes": unicode_escaped,
    "all in JSON's escapes, lower case": lambda text: unicode_escaped(text, upper=False),
    "special ones in JSON's escapes": lambda text: unicode_escaped(text, which=special),
    "special ones in JSON's escapes, lower case": lambda text: unicode_escaped(text, upper=False, which=special),
    "every other in JSON's escapes": lambda text: unicode_escaped(text, which=every_other),
    "JSON for scripts": lambda text: re.sub("[<>&'+]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text)[1:-1]),
    "a URL within JSON": lambda text: json.dumps(f"https://a.example/{quote(text)}").replace("/", "\\/"),
}
"""Return 20 ways to write each secret: 80 spellings, to which `test_other_spellings` adds one."""


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str, secret: str) -> None:
    """A secret is masked in plain text, and with any of its characters percent-encoded or JSON-escaped."""
    spelled = SPELLINGS[spelling](secret)
    told = masked(outcome(f"<{spelled}> {spelled}".encode(), ("X-Told", spelled), (spelled, "x")), SECRETS)
    if spelling == "a URL within JSON":
        spelled = spelled.partition("\\/\\/a.example\\/")[2][:-1]
    shown = told.response_body.decode() + json.dumps(told.response_headers)
    assert spelled not in shown and shown.count("***") == 4


def test_other_spellings() -> None:
    """Other encodings, such as HTML's, stay: masking is best effort, for users who could read the secret anyway."""
    spelled = html.escape(SECRETS[0]).encode()
    assert masked(outcome(spelled), SECRETS).response_body == spelled


ascii_text = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="%\\"), min_size=8)


@given(
    ascii_text,
    st.lists(st.sampled_from([0, 1, 2, 3, 4]), min_size=1),
    st.text(st.sampled_from("ab%\\u0/+"), max_size=7),
)
def test_any_characters_encoded(secret: str, ways: list[int], around: str) -> None:
    """A secret is masked whichever of its characters are encoded and how, and the text around it stays."""
    forms = ("{0}", "%{1:02x}", "%{1:02X}", "\\u{1:04x}", "\\u{1:04X}")
    spelled = "".join(forms[ways[index % len(ways)]].format(each, ord(each)) for index, each in enumerate(secret))
    told = masked(outcome(f"{around} {spelled} {around}".encode()), [secret]).response_body.decode()
    assert spelled not in told and "***" in told
    assert told.startswith(f"{around} ") and told.endswith(f" {around}")


@pytest.mark.parametrize("spelling", [each for each in SPELLINGS if each != "a URL within JSON"])
def test_cut_off(spelling: str) -> None:
    """The beginning of a secret that the limit cuts off is masked, wherever the cut and whatever the encoding."""
    for secret in SECRETS:
        spelled = SPELLINGS[spelling](secret)
        for length in range(1, len(spelled)):
            told = masked(outcome(f"......{spelled[:length]}".encode(), truncated=True), [secret]).response_body
            shown = told.decode().removeprefix("......").removesuffix("***")
            assert len(shown) < len(percent(secret[0])) + len("\\u0000"), (secret, length, told)
            assert not shown or re.fullmatch(r"%[0-9A-Fa-f]?|\\(u[0-9A-Fa-f]{0,3})?", shown), (secret, length, told)
            text = "x" * (MAX_STORED_HEADERS - 3 - length) + spelled[:length]
            [(_, value)] = masked(outcome(b"", ("X-A", text)), [secret]).response_headers
            assert value.rstrip("*").lstrip("x") == shown


@given(st.text("ab", min_size=8), st.text("ab"), st.integers(0))
def test_longest_beginning(secret: str, before: str, length: int) -> None:
    """The longest beginning of a cut-off secret is masked, even if the secret repeats itself."""
    text = f"{before}{secret[: length % len(secret)]}"
    assume(secret not in text)
    begun = max(each for each in range(len(secret)) if text.endswith(secret[:each]))
    shown = text[: len(text) - begun] + ("***" if begun else "")
    assert masked(outcome(text.encode(), truncated=True), [secret]).response_body.decode() == shown


def test_bodies_without_secrets_stay() -> None:
    """Text without a secret is unchanged, including arbitrary bytes and text that resembles an escape."""
    for body in (b"", bytes(range(256)), b"%zz %2 \\u00 \\ \\q %", "ä容器".encode()):
        assert masked(outcome(body), SECRETS).response_body == body
        assert masked(outcome(body + SECRETS[0].encode()), SECRETS).response_body == body + b"***"


@pytest.mark.parametrize(
    "unit", [b"%25", b"%", b"\\", b"\\\\", b"a", b"%61", b"\\u0061", b"0123456789abcdef" * 2 + b"."]
)
def test_hostile_bodies(unit: bytes) -> None:
    """Bodies built to slow a search down are searched in linear time."""
    body = (unit * MAX_STORED_BODY)[:MAX_STORED_BODY]
    secrets = [each * 2000 + "b" for each in ("a", "%25", "%", "\\")]
    assert masked(outcome(body, truncated=True), secrets).truncated


@pytest.mark.parametrize(
    ("url", "shown"),
    {
        "https://ci.example.com/hook/s3cr3t?token=a#b": "https://ci.example.com",
        "HTTP://CI.example.com:8443?s3cr3t": "HTTP://CI.example.com:8443",
        "http://[::1]:80/s3cr3t": "http://[::1]:80",
        "https://bücher.example/s3cr3t": "https://bücher.example",
        "https://user:s3cr3t@a.example/": "https://a.example",
        "https://s3cr3t@x@a.example/": "https://a.example",
        "/hook/s3cr3t": "",
        "//s3cr3t/hook": "",
        "https:/s3cr3t": "",
        "https:///s3cr3t": "",
        "https:\\\\a.example\\s3cr3t": "",
        "https://a.example\\s3cr3t": "",
        "https://a.example:s3cr3t/": "",
        "ftp://a.example/s3cr3t": "",
        "": "",
    }.items(),
)
def test_origin(url: str, shown: str) -> None:
    """Scheme, host and port of any URL are shown as written, and nothing else."""
    assert origin(url) == shown


# What readers see

PAGES = (
    "",
    "{webhook_id}/history/",
    "{webhook_id}/history/{delivery_id}/",
    "{webhook_id}/history/{delivery_id}/?payload=raw",
)


def everything(host: Host, webhook: dict[str, Any], user: str) -> str:
    """Return everything that API and pages show of a webhook, including headers."""
    visitor, answers = Visitor(host, user), []
    for delivery in host.history(webhook):
        ids = Ids(webhook["id"], webhook["hooks"][0]["id"], delivery["id"])
        reads = [rule for rule, methods in BODIES.items() if "GET" in methods]
        answers += [ask(host, "GET", path_of(rule, "acme/app", ids), user, None) for rule in reads]
        answers += [visitor.get(path.format(**dataclasses.asdict(ids))) for path in PAGES]
    assert {each.status_code for each in answers} == {200}
    return "\n".join(answer.text + str(answer.headers) for answer in answers)


def test_readers_see_outcomes(host: Host) -> None:
    """No response to a reader contains a planted path, header, response or secret; writers see all but secrets."""
    moved = http(
        301,
        b"planted-body",
        "Location: https://other.example:8443/planted-target?planted-query",
        "X-Planted-Answer: planted-value",
    )
    received = http(200, b"planted-body", "X-Planted-Answer: planted-value")
    with Receiver(moved, received, 500, 410) as receiver:
        url = f"{receiver.url}/planted-path?planted-parameter=planted-argument"
        webhook = host.create(
            url, f"{url}-2", secret="whsec_" + "cGxhbnRl" * 4, headers={"X-Planted-Header": "planted-given"}
        )
        for _ in range(3):
            host.push()
            host.deliver()
        assert host.call_back(
            receiver.requests[1].body, description="386 of 387", target_url="https://ci.example/7?a=b"
        )
        host.deliver()
    seen, shown = everything(host, webhook, "alice"), everything(host, webhook, "reader")
    for each in ("path", "parameter", "argument", "target", "query", "body", "value"):
        assert f"planted-{each}" in seen
    assert "planted-given" not in seen and "cGxhbnRl" not in seen
    assert "planted" not in shown.lower() and "cGxhbnRl" not in shown
    assert "webhook-signature" in seen.lower() and "webhook-signature" not in shown.lower()
    at = receiver.url.removesuffix("/hook")
    assert f"{at}/…" in shown and "HTTP 301" in shown and '"status_code": 301' in shown
    assert "Redirected (301) to https://other.example:8443. " in seen
    assert "Redirected (301) to https://other.example:8443. " in shown
    assert "386 of 387" in shown and "https://ci.example/7?a=b" in shown
    path = f"acme/app/webhooks/{webhook['id']}/"
    assert host.api("GET", path, user="reader").get_json()["headers"] is None
    [moved_one] = [each for each in host.history(webhook) if "Redirected" in each["reason"]]
    [attempt] = host.api("GET", f"{path}history/{moved_one['id']}/", user="reader").get_json()["attempts"]
    assert (attempt["status_code"], attempt["request"], attempt["response"]) == (301, None, None)


@on_sqlite
def test_etags_for_readers(host: Host) -> None:
    """The ETag for a reader does not depend on what is hidden: it is the same for every path."""
    webhook = host.create("http://127.0.0.1:9/first")
    path = f"acme/app/webhooks/{webhook['id']}/"
    paths = [path, f"{path}hooks/{webhook['hooks'][0]['id']}/"]
    tags = set()
    for secret in ("first", "second"):
        host.set_all(Hook, hook_url=f"http://127.0.0.1:9/{secret}")
        tags |= {host.api("GET", each, user="reader").headers["ETag"] for each in paths}
    assert len(tags) == 2
