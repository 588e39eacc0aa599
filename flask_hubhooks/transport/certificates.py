"""Why a receiver's certificate was refused, in words.

Texts of a certificate are whatever the receiver likes: they are shown shortened, and without control characters.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

TEXT_LIMIT = 40
"""Characters of each text of a certificate that are shown."""
NAMES_LIMIT = 3
"""Names of a certificate that are shown."""

# OpenSSL's codes (x509_vfy.h).
OTHER_NAME = 62
_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED, _ROOT_UNKNOWN = 9, 10, 18, 19
_ISSUER_UNKNOWN = (2, 20, 21)  # no issuer found, neither in the chain nor among the authorities
_OTHER_NAMES = (OTHER_NAME, 64)  # of another host, of another IP address


class Certificate(NamedTuple):
    """What a receiver's own certificate says; all texts are fit to be shown."""

    names: tuple[str, ...]  # one more than are shown at most
    issuer: str
    begins: datetime
    ends: datetime


def read(pem: bytes) -> Certificate | None:
    """Return what a certificate says; None where it is malformed."""
    try:
        parsed = x509.load_pem_x509_certificate(pem)
        return Certificate(_names(parsed), _issuer(parsed), parsed.not_valid_before_utc, parsed.not_valid_after_utc)
    except Exception:  # of any kind, whatever a receiver sends
        return None


def _names(parsed: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    found = (each.value for each in extension.value if isinstance(each, x509.DNSName | x509.IPAddress))
    return _shown(*map(str, found))[: NAMES_LIMIT + 1]


def _issuer(parsed: x509.Certificate) -> str:
    """Return the issuer's common name and organisation, as far as it has them."""
    kinds = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    found = [parsed.issuer.get_attributes_for_oid(kind) for kind in kinds]
    return ", ".join(_shown(*(str(each[0].value) for each in found if each)))


def _shown(*texts: str) -> tuple[str, ...]:
    """Return each text once, printable and shortened; what is empty then is left out."""
    printable = ("".join(filter(str.isprintable, text)).strip() for text in texts)
    short = (text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…" for text in printable)
    return tuple(dict.fromkeys(filter(None, short)))


def refusal(code: int, why: str, host: str, seen: Certificate | None) -> str:
    """Return why the certificate for a host was refused, with what was seen of it, and what to do.

    `code` and `why` are OpenSSL's.
    """
    if code == _EXPIRED:
        return _expired(host, seen)
    if code == _NOT_YET_VALID:
        return _not_yet_valid(host, seen)
    if code in _OTHER_NAMES:
        return _other_names(host, seen)
    if code in (_SELF_SIGNED, _ROOT_UNKNOWN, *_ISSUER_UNKNOWN):
        return _unknown(code, host, seen)
    return f"certificate for {host} refused ({why}): replace it, or its chain, at the receiver"


def _expired(host: str, seen: Certificate | None) -> str:
    if seen is None:
        return f"certificate for {host}, or one of its chain, has expired: renew it at the receiver"
    if seen.ends > datetime.now(timezone.utc):
        return f"a certificate in the chain of {host} has expired: renew the chain at the receiver"
    return f"certificate for {host} expired on {seen.ends.date()}: renew it at the receiver"


def _not_yet_valid(host: str, seen: Certificate | None) -> str:
    advice = "check the worker's clock, or replace it at the receiver"
    if seen is None:
        return f"certificate for {host}, or one of its chain, is not valid yet: {advice}"
    if seen.begins <= datetime.now(timezone.utc):
        return f"a certificate in the chain of {host} is not valid yet: {advice}"
    return f"certificate for {host} is not valid before {seen.begins.date()}: {advice}"


def _other_names(host: str, seen: Certificate | None) -> str:
    advice = "correct the hook URL, or the certificate at the receiver"
    if seen is None:
        return f"certificate is not for {host}: {advice}"
    if not seen.names:
        return f"certificate is for no host at all (no subjectAltName): have it issued for {host}"
    more = ["…"] if len(seen.names) > NAMES_LIMIT else []
    names = ", ".join([*seen.names[:NAMES_LIMIT], *more])
    return f"certificate is for {names} and not for {host}: {advice}"


def _unknown(code: int, host: str, seen: Certificate | None) -> str:
    by = f" ({seen.issuer})" if seen and seen.issuer else ""
    if code == _SELF_SIGNED:
        return f"certificate for {host} is self-signed{by}: add it to HUBHOOKS_CA_BUNDLE"
    # A receiver that sends its chain up to the root has no intermediate certificates missing.
    or_else = ", or have the receiver send its intermediate certificates" if code in _ISSUER_UNKNOWN else ""
    return f"certificate for {host} is of an unknown authority{by}: add that to HUBHOOKS_CA_BUNDLE{or_else}"
