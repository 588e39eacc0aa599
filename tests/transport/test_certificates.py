"""The causes of refused certificates, with real receivers over TLS, good and hostile."""

from __future__ import annotations

import ssl
from datetime import date, datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple, TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from flask_hubhooks.transport import Concern, Outcome, Transport
from flask_hubhooks.transport.causes import certificate_refused
from flask_hubhooks.transport.tls import TLS, Certificate, read_certificate

from ..support.receivers import Receiver
from ..support.transports import SECRET, post, transport

NOW = datetime.now(timezone.utc)
NAMELESS = ("",)  # a receiver's certificate without names
Subject: TypeAlias = tuple[tuple[x509.ObjectIdentifier, str], ...]
KEY = ec.generate_private_key(ec.SECP256R1())  # one for all: nothing here depends on it


class Issued(NamedTuple):
    """An issued certificate; all have the same key."""

    certificate: x509.Certificate

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def served(self, *chain: Issued) -> ssl.SSLContext:
        """Return a server's TLS context with this certificate, followed by a chain."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        private = KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with NamedTemporaryFile() as file:
            file.write(private + b"".join(each.pem() for each in (self, *chain)))
            file.flush()
            context.load_cert_chain(file.name)
        return context


def issue(
    *names: str,
    by: Issued | None = None,
    days: tuple[int, int] = (-30, 30),
    subject: Subject = ((NameOID.ORGANIZATION_NAME, "Acme Receivers"),),
    extra: tuple[x509.ExtensionType, ...] = (),
) -> Issued:
    """Issue a certificate, valid from and until so many days from now, for hosts, or an authority's without names.

    It keeps to what `VERIFY_X509_STRICT` asks, which Python 3.13 has on.
    """
    own = x509.Name([x509.NameAttribute(kind, text) for kind, text in subject])
    authority = not names
    builder = (
        x509.CertificateBuilder(by.certificate.subject if by else own, own, KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(KEY.public_key()), critical=False)
    )
    return Issued(_extended(builder, names, authority, extra).sign(KEY, hashes.SHA256()))


def _extended(builder: Any, names: tuple[str, ...], authority: bool, extra: tuple[x509.ExtensionType, ...]) -> Any:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    if authority:
        signs = x509.KeyUsage(True, key_cert_sign=True, crl_sign=True, decipher_only=False, **usage)
        builder = builder.add_extension(signs, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()), critical=False)
    elif names != NAMELESS:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
    for each in extra:
        builder = builder.add_extension(each, critical=False)
    return builder


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def called(text: str) -> Subject:
    return ((NameOID.ORGANIZATION_NAME, text),)


ROOT = issue(subject=((NameOID.COMMON_NAME, "Acme Root"), (NameOID.ORGANIZATION_NAME, "Acme Authorities")))
OTHER_ROOT = issue(subject=((NameOID.COMMON_NAME, "Other Root"), (NameOID.ORGANIZATION_NAME, "Others")))


def trusting(folder: Path, *trusted: Issued, **options: Any) -> Transport:
    """Return a transport that trusts these authorities, or `ROOT` by default."""
    bundle = folder / "ca.pem"
    bundle.write_bytes(b"".join(each.pem() for each in trusted or (ROOT,)))
    return transport(ca_bundle=str(bundle), **options)


def refused(tls: ssl.SSLContext, tmp_path: Path, *trusted: Issued) -> tuple[Outcome, Receiver]:
    """POST to a receiver whose certificate is refused, and check that nothing was sent and no secret is shown."""
    sender = trusting(tmp_path, *trusted)
    with Receiver(tls=tls) as receiver:
        outcome = post(sender, f"{receiver.url}/{SECRET}?token={SECRET}")
    assert not receiver.requests
    assert (outcome.status_code, outcome.blocked) == (None, False)
    assert SECRET not in outcome.error
    assert outcome.connect_ms is not None
    assert (outcome.concern, outcome.connected, receiver.connections) == (Concern.HOST, False, 1)
    return outcome, receiver


def day(days: int) -> date:
    return (NOW + timedelta(days=days)).date()


REPLACE = "Check the worker's clock, or replace the certificate at the receiver."
CORRECT = "Correct the hook URL, or the certificate at the receiver."
FOUR = ("a.example.com", "*.b.example.com", "10.1.2.3", "d.example.com")


@pytest.mark.parametrize(
    ("leaf", "error"),
    [
        (
            issue("localhost", by=ROOT, days=(-30, -3)),
            f"the certificate of localhost expired on {day(-3)}. Renew it at the receiver.",
        ),
        (
            issue("localhost", by=ROOT, days=(3, 30)),
            f"the certificate of localhost is not valid before {day(3)}. {REPLACE}",
        ),
        (
            issue("ci.example.com", by=ROOT),
            f"the certificate is for ci.example.com and not for localhost. {CORRECT}",
        ),
        (
            issue(*FOUR[:3], by=ROOT),
            f"the certificate is for a.example.com, *.b.example.com, 10.1.2.3 and not for localhost. {CORRECT}",
        ),
        (
            issue(*FOUR, by=ROOT),
            f"the certificate is for a.example.com, *.b.example.com, 10.1.2.3, … and not for localhost. {CORRECT}",
        ),
        (
            issue(*NAMELESS, by=ROOT, subject=((NameOID.COMMON_NAME, "ci.example.com"),)),
            "the certificate is for no host at all (no subjectAltName). Have it issued for localhost.",
        ),
        (
            issue("localhost"),
            "the certificate of localhost is self-signed (Acme Receivers). Pin its key, or add it to "
            "HUBHOOKS_CA_BUNDLE.",
        ),
        (
            issue("localhost", by=OTHER_ROOT),
            "the certificate of localhost is from an unknown authority (Other Root, Others). Set that authority at the "
            "hook, add it to HUBHOOKS_CA_BUNDLE, or have the receiver send its intermediate certificates.",
        ),
        (
            issue("localhost", by=issue(subject=())),
            "the certificate of localhost is from an unknown authority. Set that authority at the hook, add it to "
            "HUBHOOKS_CA_BUNDLE, or have the receiver send its intermediate certificates.",
        ),
    ],
    ids=["expired", "early", "name", "names", "more names", "no names", "self-signed", "unknown", "nameless issuer"],
)
def test_words(tmp_path: Path, leaf: Issued, error: str) -> None:
    """The text says what is wrong with a certificate, with the detail that helps, and what to do."""
    outcome, _ = refused(leaf.served(), tmp_path)
    assert outcome.error == f"TLS failed: {error}"


@pytest.mark.parametrize(
    ("days", "error"),
    [
        ((-30, -3), "has expired. Renew the chain at the receiver."),
        ((3, 30), f"is not valid yet. {REPLACE}"),
    ],
)
def test_chain(tmp_path: Path, days: tuple[int, int], error: str) -> None:
    """If a certificate in the chain has expired, and not the receiver's own, no date is shown."""
    root = issue(days=days, subject=called("Old Root"))
    outcome, _ = refused(issue("localhost", by=root).served(), tmp_path, root)
    assert outcome.error == f"TLS failed: a certificate in the chain of localhost {error}"


def test_root_in_the_chain(tmp_path: Path) -> None:
    """A receiver that also sends its unknown root is not asked to send intermediate certificates."""
    outcome, _ = refused(issue("localhost", by=OTHER_ROOT).served(OTHER_ROOT), tmp_path)
    unknown = "the certificate of localhost is from an unknown authority (Other Root, Others)"
    assert outcome.error == f"TLS failed: {unknown}. Set that authority at the hook, or add it to HUBHOOKS_CA_BUNDLE."


def test_other_refusals(tmp_path: Path) -> None:
    """Other refusals are shown with OpenSSL's reason."""
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    outcome, _ = refused(issue("localhost", by=ROOT, extra=(purpose,)).served(), tmp_path)
    assert outcome.error.startswith("TLS failed: the certificate of localhost was refused (un")
    assert outcome.error.endswith(" purpose). Replace it, or its chain, at the receiver.")


def test_hostile_texts(tmp_path: Path) -> None:
    """Texts of a certificate are shown shortened and without control characters."""
    evil = "\x1b[31mEv\u202eil\r\nX: y\x00\u2028" + "\u20ac" * 5000
    outcome, _ = refused(issue("localhost", subject=called(evil)).served(), tmp_path)
    shown = "[31mEvilX: y" + "\u20ac" * 27 + "…"
    refusal = f"the certificate of localhost is self-signed ({shown}). Pin its key, or add it to HUBHOOKS_CA_BUNDLE."
    assert outcome.error == f"TLS failed: {refusal}"
    assert outcome.certificate
    assert outcome.certificate.issuer == outcome.certificate.subject == "[31mEvilX: y" + "\u20ac" * 242 + "…"
    names = ("\r\n\x1b", "a\nb.example.com", "x" * 5000, "y" * 5000)
    outcome, _ = refused(issue(*names, by=ROOT).served(), tmp_path)
    assert f"is for ab.example.com, {'x' * 39}…, {'y' * 39}… and not for localhost. " in outcome.error
    assert outcome.error.isprintable()


def test_malformed_certificate(tmp_path: Path) -> None:
    """A certificate that cannot be read results in a text without details."""
    five_bytes = b"\x30\x07\x87\x05\x01\x02\x03\x04\x05"  # as an IP address
    garbage = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, five_bytes)
    outcome, _ = refused(issue(*NAMELESS, by=ROOT, extra=(garbage,)).served(), tmp_path)
    assert outcome.error == "TLS failed: the certificate is not for localhost. " + CORRECT


def test_numeric_host(tmp_path: Path) -> None:
    """A URL with an address gets the same texts, although the handshake contains no name."""
    with Receiver(tls=issue("127.0.0.1", by=ROOT, days=(-9, -3)).served()) as receiver:
        outcome = post(trusting(tmp_path), f"https://127.0.0.1:{receiver.port}/")
    assert outcome.error == f"TLS failed: the certificate of 127.0.0.1 expired on {day(-3)}. Renew it at the receiver."


def test_unknown_name(tmp_path: Path) -> None:
    """A receiver that does not serve the host name results in a text that says so."""
    context = issue("localhost", by=ROOT).served()
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    outcome, _ = refused(context, tmp_path)
    assert outcome.error == "TLS failed: tlsv1 unrecognized name. Check that the receiver serves this host name."


MOMENTS = st.datetimes(timezones=st.just(timezone.utc))
NAMES = st.lists(st.just("a.example.com"), max_size=4).map(tuple)
SEEN = st.builds(Certificate, st.just("A"), NAMES, st.just("A"), MOMENTS, MOMENTS, st.just(""))


@given(st.integers(0, 120), st.none() | SEEN, st.sampled_from([TLS(), TLS(ca="its own")]))
def test_any_certificate_refused(verify_code: int, seen: Certificate | None, tls: TLS) -> None:
    """Any OpenSSL code, with any certificate, results in one short line with the host."""
    words = certificate_refused(verify_code, "refused", "ci.example.com", seen, tls)
    assert words.isprintable()
    assert "ci.example.com" in words
    assert len(words) < 200


@given(st.binary(max_size=100))
def test_any_certificate(content: bytes) -> None:
    """Anything that is not a certificate has no fields."""
    assert read_certificate(content) is None
