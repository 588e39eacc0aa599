"""A hook's own TLS settings, and the certificates of receivers."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from datetime import datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

MAX_CA_BYTES = 16 * 1024
"""Of the authorities of a hook."""
PUBLIC_KEY_SHA256 = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
"""The base64 of 32 bytes, as a regular expression."""
MAX_NAMES = 20
MAX_TEXT = 255
"""Names of a certificate that are kept, and characters of each of its texts."""


class BadTLS(ValueError):
    """The text says what is wrong with a hook's TLS settings."""


class TLS(NamedTuple):
    """How the certificate of a receiver is verified: by the public authorities and its host name, unless one is set."""

    ca: str = ""
    """PEM certificates that replace the public authorities."""
    public_key_sha256: str = ""
    """The base64 of the SHA-256 of the public key (SubjectPublicKeyInfo) that the receiver must have. It replaces all
    other checks: authority, name and dates do not matter."""

    def content(self) -> dict[str, str]:
        """Return what is set, to be stored and shown as JSON."""
        return {name: value for name, value in self._asdict().items() if value}


DEFAULT_TLS = TLS()


def own_ca(pem: str) -> TLS:
    """Return settings with authorities of the hook's own; raises `BadTLS`.

    Only the certificates are kept, and not a private key that may stand beside them.
    """
    if len(pem.encode(errors="replace")) > MAX_CA_BYTES:
        raise BadTLS(f"Must have at most {MAX_CA_BYTES} bytes.")
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
        return TLS(ca="".join(each.public_bytes(Encoding.PEM).decode() for each in certificates))
    except Exception:  # of any kind, since owners may send anything
        raise BadTLS("Must be one or more certificates in PEM, which begin with -----BEGIN CERTIFICATE-----.") from None


def pinned_key(public_key_sha256: str) -> TLS:
    """Return settings with a pinned key; raises `BadTLS`."""
    if not re.fullmatch(PUBLIC_KEY_SHA256, public_key_sha256) or len(b64decode(public_key_sha256)) != 32:
        raise BadTLS("Must be the base64 of exactly 32 bytes: the SHA-256 of the receiver's public key.")
    return TLS(public_key_sha256=public_key_sha256)


class Certificate(NamedTuple):
    """The fields of a receiver's own certificate.

    A receiver may write anything into it, so all texts are shortened and without control characters.
    """

    subject: str
    """Common name and organization, if it has them."""
    names: tuple[str, ...]
    """The host names and addresses that it is for."""
    issuer: str
    """Like `subject`."""
    not_before: datetime
    not_after: datetime
    public_key_sha256: str
    """As in `TLS`."""

    def content(self) -> dict[str, Any]:
        """Return it to be stored and shown as JSON, with times in RFC 3339."""
        times = {name: f"{getattr(self, name):%Y-%m-%dT%H:%M:%SZ}" for name in ("not_before", "not_after")}
        return self._asdict() | {"names": list(self.names)} | times


def read_certificate(pem: bytes) -> Certificate | None:
    """Return the fields of a certificate; None if it is malformed."""
    try:
        parsed = x509.load_pem_x509_certificate(pem)
        try:
            extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = [str(each.value) for each in extension.value if isinstance(each, x509.DNSName | x509.IPAddress)]
        except x509.ExtensionNotFound:
            names = []
        key = _public_key(parsed.tbs_certificate_bytes)
        return Certificate(
            _owner(parsed.subject),
            _safe_texts(names)[:MAX_NAMES],
            _owner(parsed.issuer),
            parsed.not_valid_before_utc,
            parsed.not_valid_after_utc,
            b64encode(hashlib.sha256(key).digest()).decode(),
        )
    except Exception:  # of any kind, since a receiver may send anything
        return None


def _owner(name: x509.Name) -> str:
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    return ", ".join(_safe_texts([str(found[0].value) for oid in oids if (found := name.get_attributes_for_oid(oid))]))


def _safe_texts(texts: list[str]) -> tuple[str, ...]:
    """Return each text once, printable and shortened, without those that are empty then."""
    printable = ("".join(filter(str.isprintable, text)).strip() for text in texts)
    return tuple(dict.fromkeys(shortened(text, MAX_TEXT) for text in printable if text))


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _public_key(tbs_certificate: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate's body (RFC 5280 section 4.1) as it was sent.

    cryptography would encode it anew, which changes some keys, such as those of RSASSA-PSS.
    """
    at, _ = _content(tbs_certificate, 0)
    if tbs_certificate[at] == 0xA0:  # the version, which is optional
        _, at = _content(tbs_certificate, at)
    for _field in ("serialNumber", "signature", "issuer", "validity", "subject"):
        _, at = _content(tbs_certificate, at)
    _, end = _content(tbs_certificate, at)
    return tbs_certificate[at:end]


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the DER element at a place begins and ends."""
    length, begin = der[at + 1], at + 2
    if length & 0x80:  # the length of the length (X.690 section 8.1.3.5)
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin], "big")
    return begin, begin + length
