"""TLS settings of a hook's own: authorities, and a pinned key."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.transport import Concern, Outcome, Transport
from flask_hubhooks.transport.tls import (
    DEFAULT_TLS,
    MAX_CA_BYTES,
    TLS,
    BadTLS,
    own_ca,
    pinned_key,
    read_certificate,
)

from ..support.receivers import Receiver, reset, tls_context
from ..support.transports import BODY, send, transport
from .test_proxy import Proxy

MISNAMED = "TLS failed: the certificate is for other.example.com and not for localhost."
UNKNOWN = "TLS failed: the certificate of localhost is from an unknown authority"
WRONG_KEY = "TLS failed: the key of localhost is not the one that is pinned at the hook. "
OTHER_PIN = pinned_key(b64encode(bytes(32)).decode())


@pytest.fixture
def sender() -> Iterator[Transport]:
    """A transport that trusts public authorities only."""
    made = transport()
    yield made
    made.close()


def post(sender: Transport, url: str, tls: TLS = DEFAULT_TLS) -> Outcome:
    return send(sender, url, BODY, {}, tls=tls)


def shown(outcome: Outcome) -> str:
    """The hash of the key that the receiver showed."""
    assert outcome.certificate
    return outcome.certificate.public_key_sha256


def test_pinned(sender: Transport, authority: trustme.CA) -> None:
    """A refused certificate is reported with the hash of its key; pinned, it is accepted whatever else it says.

    A wrong pin is refused. Requests with other settings, before and after, use neither the connection nor the TLS
    session that a pin made, and are verified.
    """
    with Receiver(tls=tls_context(authority, "other.example.com")) as receiver:
        refused = post(sender, receiver.url)
        assert refused.error.startswith(MISNAMED)
        pin = pinned_key(shown(refused))
        assert [post(sender, receiver.url, tls=pin).status_code for _ in range(3)] == [200] * 3
        assert receiver.connections == 2
        for _ in range(2):
            assert post(sender, receiver.url).error.startswith(MISNAMED)
            wrong = post(sender, receiver.url, tls=OTHER_PIN)
            assert wrong.error.startswith(WRONG_KEY)
            assert shown(wrong) == shown(refused)
            swapped = TLS(public_key_sha256=pin.public_key_sha256.swapcase())
            assert post(sender, receiver.url, tls=swapped).status_code is None
            assert post(sender, receiver.url, tls=own_ca(trustme.CA().cert_pem.bytes().decode())).status_code is None
            assert post(sender, receiver.url, tls=pin).connect_ms is None
        assert len(receiver.requests) == 5
    assert refused.certificate
    assert refused.certificate.names == ("other.example.com",)
    assert "trustme" in refused.certificate.issuer


def test_own_authority(authority: trustme.CA, bundle: str) -> None:
    """A hook's authorities replace those of the transport, for this hook alone, and the name still counts."""
    other = trustme.CA()
    sender = transport(ca_bundle=bundle)
    with (
        Receiver(tls=tls_context(authority)) as common,
        Receiver(tls=tls_context(other)) as own,
        Receiver(tls=tls_context(other, "other.example.com")) as misnamed,
    ):
        theirs = own_ca(other.cert_pem.bytes().decode())
        both = own_ca((other.cert_pem.bytes() + authority.cert_pem.bytes()).decode())
        for _ in range(2):
            assert post(sender, common.url).status_code == post(sender, own.url, tls=theirs).status_code == 200
            assert post(sender, own.url, tls=both).status_code == post(sender, common.url, tls=both).status_code == 200
            assert post(sender, own.url).error.startswith(UNKNOWN)
            assert post(sender, common.url, tls=theirs).error.startswith(
                "TLS failed: the certificate of localhost is not from an authority that is set at the hook, but from "
            )
            assert "is for other.example.com and not for localhost" in post(sender, misnamed.url, tls=theirs).error
        assert (len(common.requests), len(own.requests), len(misnamed.requests)) == (4, 4, 0)
    sender.close()


@pytest.mark.parametrize("settings", ["pin", "authority"])
def test_failures_concern_the_hook(sender: Transport, authority: trustme.CA, settings: str) -> None:
    """TLS that fails under settings of the hook concerns the hook, and a connection that fails the host."""
    tls = OTHER_PIN if settings == "pin" else own_ca(trustme.CA().cert_pem.bytes().decode())
    with Receiver(tls=tls_context(authority)) as receiver, Receiver(reset) as plain:
        assert post(sender, receiver.url).concern is Concern.HOST
        refused = post(sender, receiver.url, tls=tls)
        assert (refused.concern, refused.connected) == (Concern.HOOK, False)
        url = f"https://localhost:{plain.port}/"
        assert post(sender, url, tls=tls).concern is Concern.HOOK
        assert post(sender, url).concern is Concern.HOST
    down = post(sender, receiver.url, tls=tls)
    assert (down.concern, down.certificate) == (Concern.HOST, None)


def test_an_unusable_authority(sender: Transport, authority: trustme.CA) -> None:
    """Settings that OpenSSL does not take fail, and so does anything that is no pin; nothing is sent."""
    with Receiver(tls=tls_context(authority)) as receiver:
        unusable = post(sender, receiver.url, tls=TLS(ca="none"))
        assert unusable.error == "TLS failed: the authorities that are set at the hook cannot be used. Set others."
        assert unusable.concern is Concern.HOOK
        for pin in ("", "A" * 43, "/etc/hostname", "A" * 44, "A" * 43 + "=;sha256//" + "A" * 43 + "="):
            assert post(sender, receiver.url, tls=TLS(public_key_sha256=pin)).status_code is None
        assert not receiver.requests


def test_no_certificate(sender: Transport) -> None:
    """A receiver that shows no certificate at all cannot have the pinned key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    with Receiver(tls=context) as receiver:
        assert post(sender, receiver.url, tls=OTHER_PIN).error.startswith("TLS failed: ")
        assert not receiver.requests


@pytest.mark.parametrize("over_tls", [False, True])
def test_through_a_proxy(authority: trustme.CA, bundle: str, over_tls: bool) -> None:
    """The settings concern the receiver: an https proxy is verified as ever, and its certificate is not reported."""
    with (
        Receiver(tls=tls_context(trustme.CA(), "other.example.com")) as receiver,
        Proxy(tls=tls_context(authority) if over_tls else None) as proxy,
    ):
        through = Transport(proxy=proxy.through(), ca_bundle=bundle)
        url = f"https://ci.example.com:{receiver.port}/"
        refused = post(through, url)
        assert refused.certificate and refused.certificate.names == ("other.example.com",)
        pin = pinned_key(shown(refused))
        assert post(through, url, tls=pin).status_code == 200
        assert post(through, url, tls=OTHER_PIN).concern is Concern.HOOK
        through.close()
        distrusting = Transport(proxy=proxy.through())
        outcome = post(distrusting, url, tls=pin)
        distrusting.close()
    if over_tls:
        assert (outcome.concern, outcome.certificate) == (Concern.NOBODY, None)
        assert "the proxy's certificate was refused" in outcome.error
    else:
        assert outcome.status_code == 200


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_unusual_keys(tmp_path: Path) -> None:
    """The hash of a key is the one that OpenSSL computes, also where cryptography would encode the key anew."""
    key, pem, public = (str(tmp_path / name) for name in ("key", "pem", "public"))
    make = [
        "req",
        "-x509",
        "-newkey",
        "rsa-pss",
        "-pkeyopt",
        "rsa_pss_keygen_md:sha256",
        "-nodes",
        "-subj",
        "/CN=pss",
        "-days",
        "9",
    ]
    subprocess.run(["openssl", *make, "-keyout", key, "-out", pem], check=True, capture_output=True)
    subprocess.run(["openssl", "x509", "-in", pem, "-pubkey", "-noout", "-out", public], check=True)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", public, "-outform", "der"], check=True, capture_output=True
    )
    certificate = read_certificate(Path(pem).read_bytes())
    assert certificate
    assert certificate.public_key_sha256 == b64encode(hashlib.sha256(der.stdout).digest()).decode()


def test_own_ca() -> None:
    """Certificates are kept, and nothing else that stands beside them."""
    ca = trustme.CA()
    pem = ca.cert_pem.bytes().decode()
    assert own_ca(f"My own authority\r\n{pem.strip()}\n{ca.private_key_pem.bytes().decode()}") == TLS(ca=pem)
    for bad in (
        "",
        "none",
        ca.private_key_pem.bytes().decode(),
        pem[:300],
        pem.replace("M", "N"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "\ud800",
        pem * (MAX_CA_BYTES // len(pem) + 1),
    ):
        with pytest.raises(BadTLS):
            own_ca(bad)


@given(
    st.text() | st.binary(max_size=40).map(lambda data: b64encode(data).decode()) | st.from_regex("[A-Za-z0-9+/=]{44}")
)
def test_pinned_key(text: str) -> None:
    """Only the base64 of exactly 32 bytes is a pin."""
    try:
        assert pinned_key(text) != DEFAULT_TLS
    except BadTLS:
        return
    assert len(text) == 44 and text.endswith("=")
