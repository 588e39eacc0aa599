"""TLS settings of hooks in the API."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import trustme

from flask_hubhooks.transport.tls import MAX_CA_BYTES

from ..support.host import Owned, problem
from .test_payload_formats import URL, hook_of, post

PIN = {"public_key_sha256": b64encode(bytes(range(32))).decode()}
AUTHORITY = trustme.CA()
PEM = AUTHORITY.cert_pem.bytes().decode()
CA = {"ca": PEM}


def test_settings_are_shown(owned: Owned) -> None:
    """Writers see the TLS settings of a hook, wherever they were given."""
    top = post(owned, hook_url=URL, tls=PIN)
    assert top["hooks"][0]["tls"] == PIN
    beside_a_key = {"ca": PEM.replace("\n", "\r\n") + AUTHORITY.private_key_pem.bytes().decode()}
    hooks = [{"hook_url": URL, "tls": beside_a_key}, {"hook_url": URL, "tls": None}, {"hook_url": URL}]
    nested = post(owned, name="nested", hooks=hooks)
    assert [each["tls"] for each in nested["hooks"]] == [CA, None, None]
    assert hook_of(owned, top, user="reader")["tls"] is None
    added = owned("POST", f"{top['id']}/hooks/", json={"hook_url": URL, "tls": CA})
    assert (added.status_code, added.get_json()["tls"]) == (201, CA)


def test_changing_settings(owned: Owned) -> None:
    """A change that does not name them leaves them, null is the default, and an http URL can have none."""
    webhook = post(owned, hook_url=URL, payload_format="slack")
    path = f"{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
    assert owned.patch(path, {"tls": PIN})["tls"] == PIN
    assert owned.patch(path, {"hook_url": f"{URL}/2"})["tls"] == PIN
    changed = owned.patch(f"{webhook['id']}/", {"hooks": [{"id": webhook["hooks"][0]["id"], "tls": CA}]})["hooks"][0]
    assert (changed["tls"], changed["payload_format"], changed["hook_url"]) == (CA, "slack", f"{URL}/2")
    plain = {"hook_url": "http://ci.example.com/"}
    assert list(problem(owned("PATCH", path, json=plain), 400)["errors"]) == ["tls"]
    assert owned.patch(path, plain | {"tls": None})["tls"] is None
    assert list(problem(owned("PATCH", path, json={"tls": PIN}), 400)["errors"]) == ["tls"]


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ("skip", "either ca or public_key_sha256"),
        (False, "either ca or public_key_sha256"),
        ({}, "either ca or public_key_sha256"),
        ({"verify": False}, "either ca or public_key_sha256"),
        (CA | PIN, "either ca or public_key_sha256"),
        ({"ca": None}, "Not a valid string"),
        ({"ca": ""}, "certificates in PEM"),
        ({"ca": AUTHORITY.private_key_pem.bytes().decode()}, "certificates in PEM"),
        ({"ca": "\ud800"}, "certificates in PEM"),
        ({"ca": PEM * 40}, f"at most {MAX_CA_BYTES} bytes"),
        ({"public_key_sha256": 1}, "Not a valid string"),
        ({"public_key_sha256": ""}, "exactly 32 bytes"),
        ({"public_key_sha256": "/etc/ssl/certs/key.der"}, "exactly 32 bytes"),
        ({"public_key_sha256": f"sha256//{PIN['public_key_sha256']}"}, "exactly 32 bytes"),
        ({"public_key_sha256": PIN["public_key_sha256"] + "\n"}, "exactly 32 bytes"),
        ({"public_key_sha256": b64encode(bytes(31)).decode()}, "exactly 32 bytes"),
        ({"public_key_sha256": "A" * 42 + "B="}, "exactly 32 bytes"),
    ],
)
def test_what_settings_may_not_be(owned: Owned, tls: Any, message: str) -> None:
    """Verification cannot be skipped: there is an authority or a pin, or the default."""
    hook = {"hook_url": URL, "tls": tls}
    top = problem(owned("POST", json={"name": "deploy"} | hook), 400)["errors"]
    nested = problem(owned("POST", json={"name": "deploy", "hooks": [hook]}), 400)["errors"]["hooks"]["0"]
    for errors in (top, nested):
        assert list(errors) == ["tls"]
        assert message in str(errors["tls"])


def test_settings_need_their_url(owned: Owned) -> None:
    """At the top level they belong to `hook_url`, which must begin with https."""
    assert list(problem(owned("POST", json={"name": "deploy", "tls": PIN}), 400)["errors"]) == ["tls"]
    for hook in ({"hook_url": "http://ci.example.com/", "tls": PIN},):
        assert list(problem(owned("POST", json={"name": "deploy"} | hook), 400)["errors"]) == ["tls"]
        nested = problem(owned("POST", json={"name": "deploy", "hooks": [hook]}), 400)["errors"]
        assert nested == {"hooks": {"0": {"tls": ["TLS settings need a hook URL that begins with https://."]}}}
