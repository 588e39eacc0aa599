"""What the history says of a refused certificate, with real receivers over TLS, good and hostile."""

from __future__ import annotations

import ssl
from collections.abc import Callable
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

from flask_hubhooks.delivery import certificates
from flask_hubhooks.delivery.certificates import Certificate, refusal
from flask_hubhooks.delivery.transport import Outcome, Transport

from .receivers import Answer, Connection, Receiver, Request, close, hang, http, poll, reset, sends, shut
from .test_connections import SOON_S, Network
from .test_transport import SECRET, post, transport

NOW = datetime.now(timezone.utc)
NAMELESS = ("",)  # a receiver's certificate without names
Subject: TypeAlias = tuple[tuple[x509.ObjectIdentifier, str], ...]
KEY = ec.generate_private_key(ec.SECP256R1())  # one for all: nothing here depends on it


class Issued(NamedTuple):
    """A certificate that was issued; every one has the same key."""

    certificate: x509.Certificate

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def served(self, *chain: Issued) -> ssl.SSLContext:
        """Return what a receiver serves TLS with: this certificate, followed by those."""
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


class Later(Receiver):
    """A receiver that serves TLS once, and does something else with every later connection."""

    def __init__(self, later: Callable[[Later, Connection], None], tls: ssl.SSLContext) -> None:
        super().__init__(tls=tls)
        self.later = later
        self.heard: list[bytes] = []

    def _serve(self, connection: Any) -> None:
        if self.connections == 1:
            if self.later is refuse:
                shut(self._listener)
            super()._serve(connection)
        else:
            with connection:
                self.later(self, Connection(connection, self))


def refuse(receiver: Later, connection: Connection) -> None:
    """Connections after the first are refused: nothing listens any more."""
    raise AssertionError("a second connection was accepted")


def then(answer: Answer) -> Callable[[Later, Connection], None]:
    """Do as an answer does once the client has said hello."""
    assert callable(answer)

    def later(_: Later, connection: Connection) -> None:
        connection.socket.recv(10_000)
        answer(Request("", "", {}, b""), connection)

    return later


def listen(receiver: Later, connection: Connection) -> None:
    """Serve TLS, and keep what is sent over it until it is closed."""
    assert receiver.tls
    with receiver.tls.wrap_socket(connection.socket, server_side=True) as encrypted:
        receiver.heard.append(encrypted.recv(10_000))


def trusting(folder: Path, *trusted: Issued, **options: Any) -> Transport:
    """Return a transport with these authorities, or else with `ROOT` alone."""
    bundle = folder / "ca.pem"
    bundle.write_bytes(b"".join(each.pem() for each in trusted or (ROOT,)))
    return transport(ca_bundle=str(bundle), **options)


def refused(
    tls: ssl.SSLContext | Receiver, tmp_path: Path, *trusted: Issued, deadline_s: float = 10
) -> tuple[Outcome, Receiver]:
    """POST to a receiver that is refused, and make sure that it was sent nothing and no secret is told."""
    sender = trusting(tmp_path, *trusted, deadline_s=deadline_s)
    with tls if isinstance(tls, Receiver) else Receiver(tls=tls) as receiver:
        outcome = post(sender, f"{receiver.url}/{SECRET}?token={SECRET}")
    assert not receiver.requests
    assert (outcome.status_code, outcome.blocked) == (None, False)
    assert SECRET not in outcome.error
    assert outcome.connect_ms is not None
    return outcome, receiver


def day(days: int) -> date:
    return (NOW + timedelta(days=days)).date()


REPLACE = "check the worker's clock, or replace it at the receiver"
CORRECT = "correct the hook URL, or the certificate at the receiver"
FOUR = ("a.example.com", "*.b.example.com", "10.1.2.3", "d.example.com")


@pytest.mark.parametrize(
    ("leaf", "error"),
    [
        (
            issue("localhost", by=ROOT, days=(-30, -3)),
            f"certificate for localhost expired on {day(-3)}: renew it at the receiver",
        ),
        (
            issue("localhost", by=ROOT, days=(3, 30)),
            f"certificate for localhost is not valid before {day(3)}: {REPLACE}",
        ),
        (
            issue("ci.example.com", by=ROOT),
            f"certificate is for ci.example.com and not for localhost: {CORRECT}",
        ),
        (
            issue(*FOUR[:3], by=ROOT),
            f"certificate is for a.example.com, *.b.example.com, 10.1.2.3 and not for localhost: {CORRECT}",
        ),
        (
            issue(*FOUR, by=ROOT),
            f"certificate is for a.example.com, *.b.example.com, 10.1.2.3, … and not for localhost: {CORRECT}",
        ),
        (
            issue(*NAMELESS, by=ROOT, subject=((NameOID.COMMON_NAME, "localhost"),)),
            "certificate is for no host at all (no subjectAltName): have it issued for localhost",
        ),
        (
            issue("localhost"),
            "certificate for localhost is self-signed (Acme Receivers): add it to HUBHOOKS_CA_BUNDLE",
        ),
        (
            issue("localhost", by=OTHER_ROOT),
            "certificate for localhost is of an unknown authority (Other Root, Others): add that to "
            "HUBHOOKS_CA_BUNDLE, or have the receiver send its intermediate certificates",
        ),
        (
            issue("localhost", by=issue(subject=())),
            "certificate for localhost is of an unknown authority: add that to "
            "HUBHOOKS_CA_BUNDLE, or have the receiver send its intermediate certificates",
        ),
    ],
    ids=["expired", "early", "name", "names", "more names", "no names", "self-signed", "unknown", "nameless issuer"],
)
def test_words(tmp_path: Path, leaf: Issued, error: str) -> None:
    """The words say what is wrong with a certificate, with the detail that helps, and what to do."""
    outcome, receiver = refused(leaf.served(), tmp_path)
    assert outcome.error == f"TLS: {error}"
    assert receiver.connections == 2


@pytest.mark.parametrize(
    ("days", "error"),
    [
        ((-30, -3), "has expired: renew the chain at the receiver"),
        ((3, 30), f"is not valid yet: {REPLACE}"),
    ],
)
def test_chain(tmp_path: Path, days: tuple[int, int], error: str) -> None:
    """Where not the receiver's own certificate has run out but one it leads to, no date of its own is told."""
    root = issue(days=days, subject=called("Old Root"))
    outcome, _ = refused(issue("localhost", by=root).served(), tmp_path, root)
    assert outcome.error == f"TLS: a certificate in the chain of localhost {error}"


def test_root_in_the_chain(tmp_path: Path) -> None:
    """A receiver that sends its unknown root, too, is not told to send intermediate certificates."""
    outcome, _ = refused(issue("localhost", by=OTHER_ROOT).served(OTHER_ROOT), tmp_path)
    words = "certificate for localhost is of an unknown authority (Other Root, Others): add that to HUBHOOKS_CA_BUNDLE"
    assert outcome.error == f"TLS: {words}"


def test_other_refusals(tmp_path: Path) -> None:
    """What OpenSSL refuses for other reasons is told in its words."""
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    outcome, _ = refused(issue("localhost", by=ROOT, extra=(purpose,)).served(), tmp_path)
    assert outcome.error.startswith("TLS: certificate for localhost refused (un")
    assert outcome.error.endswith(" purpose): replace it, or its chain, at the receiver")


def test_hostile_texts(tmp_path: Path) -> None:
    """Texts of a certificate are told shortened and without control characters."""
    evil = "\x1b[31mEv\u202eil\r\nX: y\x00\u2028" + "\u20ac" * 5000
    outcome, _ = refused(issue("localhost", subject=called(evil)).served(), tmp_path)
    shown = "[31mEvilX: y" + "\u20ac" * 27 + "…"
    assert outcome.error == f"TLS: certificate for localhost is self-signed ({shown}): add it to HUBHOOKS_CA_BUNDLE"
    names = ("\r\n\x1b", "a\nb.example.com", "x" * 5000, "y" * 5000)
    outcome, _ = refused(issue(*names, by=ROOT).served(), tmp_path)
    assert f"is for ab.example.com, {'x' * 39}…, {'y' * 39}… and not for localhost: " in outcome.error
    assert outcome.error.isprintable()


def test_malformed_certificate(tmp_path: Path) -> None:
    """A certificate that cannot be read leaves the words without details."""
    five_bytes = b"\x30\x07\x87\x05\x01\x02\x03\x04\x05"  # as an IP address
    garbage = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, five_bytes)
    outcome, receiver = refused(issue(*NAMELESS, by=ROOT, extra=(garbage,)).served(), tmp_path)
    assert outcome.error == "TLS: certificate is not for localhost: " + CORRECT
    assert receiver.connections == 2


# The second handshake

PLAIN = "TLS: certificate for localhost, or one of its chain, has expired: renew it at the receiver"
EXPIRED = issue("localhost", by=ROOT, days=(-30, -3))


@pytest.mark.parametrize(
    "later",
    [then(hang), then(reset), then(close), then(sends(http(400))), refuse],
    ids=["hang", "reset", "close", "plain", "refuse"],
)
def test_second_handshake_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: Callable[[Later, Connection], None]
) -> None:
    """Whatever a receiver does the second time, the words go without details, soon."""
    monkeypatch.setattr(certificates, "LOOK_S", 0.3)
    outcome, _ = refused(Later(later, EXPIRED.served()), tmp_path, deadline_s=60)
    assert outcome.error == PLAIN
    assert outcome.duration_ms < SOON_S * 1000


def test_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline bounds the whole POST, the second handshake too."""
    monkeypatch.setattr(certificates, "LOOK_S", 60.0)
    outcome, _ = refused(Later(then(hang), EXPIRED.served()), tmp_path, deadline_s=0.5)
    assert outcome.error == PLAIN
    assert outcome.duration_ms < SOON_S * 1000


@pytest.mark.parametrize(
    ("verify_code", "words"),
    [
        (9, f"certificate for localhost, or one of its chain, is not valid yet: {REPLACE}"),
        (18, "certificate for localhost is self-signed: add it to HUBHOOKS_CA_BUNDLE"),
        (62, f"certificate is not for localhost: {CORRECT}"),
        (64, f"certificate is not for localhost: {CORRECT}"),
    ],
)
def test_words_without_details(verify_code: int, words: str) -> None:
    """Each kind of refusal has words of its own where nothing was seen of the certificate."""
    assert refusal(fault(verify_code), "localhost", None) == words


def test_nothing_is_sent(tmp_path: Path) -> None:
    """Over the second connection no byte is sent to the receiver, and it is closed."""
    context = EXPIRED.served()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 ends with session tickets: unread, they reset the connection
    with Later(listen, context) as receiver:
        outcome = post(trusting(tmp_path), receiver.url)
        poll(lambda: receiver.heard)
    assert "expired on" in outcome.error
    assert receiver.heard == [b""]


def test_same_address_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second handshake goes to the address of the first, is for the same name, and looks nothing up."""
    network = Network(monkeypatch)
    told: list[str | None] = []
    context = issue("ci.example.com", by=OTHER_ROOT).served()
    context.sni_callback = lambda _, name, __: told.append(name)
    with Receiver(tls=context) as receiver:
        sockaddr = ("127.0.0.1", receiver.port)
        network.names["ci.example.com"] = [("2606:4700::1", 443, 0, 0), sockaddr, ("127.0.0.2", receiver.port)]
        outcome = post(trusting(tmp_path), f"https://ci.example.com:{receiver.port}/")
    assert "ci.example.com is of an unknown authority (Other Root, Others)" in outcome.error
    assert network.looked_up == ["ci.example.com"]
    assert network.connected == [("2606:4700::1", 443, 0, 0), sockaddr, sockaddr]
    assert told == ["ci.example.com"] * 2


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_numeric_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A URL with an address gets the same words: there is no name to be told in the handshake."""
    network = Network(monkeypatch)
    with Receiver(tls=issue("::1", "127.0.0.1", by=ROOT, days=(-9, -3)).served()) as receiver:
        network.names["::1"] = [("127.0.0.1", receiver.port)]  # not every machine has IPv6
        outcome = post(trusting(tmp_path), f"https://{host}:{receiver.port}/")
    assert outcome.error == f"TLS: certificate for {host.strip('[]')} expired on {day(-3)}: renew it at the receiver"


def test_only_refused_certificates(tmp_path: Path) -> None:
    """A handshake that fails for another reason is not tried a second time."""
    context = issue("localhost", by=ROOT).served()
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    outcome, receiver = refused(context, tmp_path)
    assert outcome.error == "TLS: tlsv1 unrecognized name: is the receiver set up for this host name?"
    assert receiver.connections == 1


def fault(verify_code: int, message: str = "refused") -> ssl.SSLCertVerificationError:
    made = ssl.SSLCertVerificationError(1, "certificate verify failed")
    made.verify_code, made.verify_message = verify_code, message
    return made


MOMENTS = st.datetimes(timezones=st.just(timezone.utc))
SEEN = st.builds(Certificate, st.lists(st.just("a.example.com"), max_size=4).map(tuple), st.just("A"), MOMENTS, MOMENTS)


@given(st.integers(0, 120), st.none() | SEEN)
def test_any_refusal(verify_code: int, seen: Certificate | None) -> None:
    """Any code of OpenSSL's, with any certificate, becomes one short line that names the host."""
    words = refusal(fault(verify_code), "ci.example.com", seen)
    assert words.isprintable()
    assert "ci.example.com" in words
    assert len(words) < 200
