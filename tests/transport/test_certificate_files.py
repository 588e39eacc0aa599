"""Certificate files that change while a transport uses them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from flask_hubhooks.transport import Transport, certificate_files

from ..support.receivers import Receiver, tls_context
from ..support.transports import LOOPBACK, post


@pytest.fixture(autouse=True)
def _looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_files, "CHECK_S", 0.0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Transport]]:
    """Make a transport that trusts the authorities in `tmp_path / "ca.pem"`."""
    made: list[Transport] = []

    def make(**options: Any) -> Transport:
        made.append(Transport(LOOPBACK, ca_bundle=str(tmp_path / "ca.pem"), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def put(path: Path, content: bytes) -> None:
    """Replace a whole file, as tools that renew certificates do."""
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


def own(authority: trustme.CA, folder: Path, name: str) -> None:
    """Write a client certificate of an authority and its key into one file."""
    issued = authority.issue_cert(name)
    put(folder / "own.pem", issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes())


def test_authorities(tmp_path: Path, make: Callable[..., Transport]) -> None:
    """An authority added to the file is trusted, and a removed one is not, even on kept connections."""
    first, second = trustme.CA(), trustme.CA()
    put(tmp_path / "ca.pem", first.cert_pem.bytes())
    sender = make()
    with Receiver(tls=tls_context(first)) as one, Receiver(tls=tls_context(second)) as other:
        assert post(sender, one.url).status_code == 200
        assert post(sender, other.url).error.startswith("TLS failed: ")
        put(tmp_path / "ca.pem", second.cert_pem.bytes())
        assert post(sender, other.url).status_code == 200
        assert post(sender, one.url).error.startswith("TLS failed: ")


def test_a_client_certificate_is_renewed(tmp_path: Path, make: Callable[..., Transport]) -> None:
    """A renewed client certificate is used from then on, though a connection with the old one is still open."""
    authority = trustme.CA()
    put(tmp_path / "ca.pem", authority.cert_pem.bytes())
    own(authority, tmp_path, "old@example.com")
    context = tls_context(authority)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    seen: list[object] = []

    def answer(_: object, connection: object) -> int:
        seen.append(connection.socket.getpeercert()["subjectAltName"])  # type: ignore[attr-defined]
        return 200

    sender = make(client_certificate=(str(tmp_path / "own.pem"),) * 2)
    with Receiver(answer, tls=context) as receiver:
        assert post(sender, receiver.url).status_code == 200
        own(authority, tmp_path, "new@example.com")
        assert [post(sender, receiver.url).status_code for _ in range(2)] == [200, 200]
        assert receiver.connections == 2
    assert seen == [(("email", "old@example.com"),), *[(("email", "new@example.com"),)] * 2]


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_file_that_cannot_be_read(
    tmp_path: Path, make: Callable[..., Transport], content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing or broken file leaves the old content in use and is logged once, until it can be read again."""
    authority, other = trustme.CA(), trustme.CA()
    path = tmp_path / "ca.pem"
    put(path, authority.cert_pem.bytes())
    sender = make()
    with Receiver(tls=tls_context(authority)) as receiver, Receiver(tls=tls_context(other)) as unknown:
        if content is None:
            path.unlink()
        else:
            put(path, content)
        for _ in range(3):
            assert post(sender, receiver.url).status_code == 200
        [logged] = [each for each in caplog.records if each.levelname == "ERROR"]
        assert "HUBHOOKS_CA_BUNDLE" in logged.getMessage()
        put(path, other.cert_pem.bytes())
        assert post(sender, unknown.url).status_code == 200


def test_a_certificate_and_its_key_are_changed_one_after_the_other(
    tmp_path: Path, make: Callable[..., Transport]
) -> None:
    """While a new certificate has an old key, the old pair stays in use."""
    authority = trustme.CA()
    put(tmp_path / "ca.pem", authority.cert_pem.bytes())
    pair = tmp_path / "own.crt", tmp_path / "own.key"
    old, new = authority.issue_cert("old@example.com"), authority.issue_cert("new@example.com")
    put(pair[0], old.cert_chain_pems[0].bytes())
    put(pair[1], old.private_key_pem.bytes())
    context = tls_context(authority)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    sender = make(client_certificate=(str(pair[0]), str(pair[1])))
    with Receiver(tls=context) as receiver:
        assert post(sender, receiver.url).status_code == 200
        put(pair[0], new.cert_chain_pems[0].bytes())
        assert post(sender, receiver.url).status_code == 200
        assert receiver.connections == 1
        put(pair[1], new.private_key_pem.bytes())
        assert post(sender, receiver.url).status_code == 200
        assert receiver.connections == 2


def test_old_versions_do_not_pile_up(
    tmp_path: Path, make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes often does not leave a file open for each version."""
    monkeypatch.setattr(certificate_files, "MAX_VERSIONS", 3)
    authority = trustme.CA()
    before = 0
    with Receiver() as receiver:
        put(tmp_path / "ca.pem", authority.cert_pem.bytes())
        sender = make()
        for number in range(40):
            put(tmp_path / "ca.pem", b"# %d\n" % number + authority.cert_pem.bytes())
            assert post(sender, receiver.url).status_code == 200
            if number == 5:
                before = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) <= before
