"""Transports, an authority, and a network for the tests of the transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trustme

from flask_hubhooks.transport import Transport

from ..support.transports import Network, transport


@pytest.fixture
def guarded() -> Iterator[Transport]:
    """A transport that may connect to this machine alone."""
    sender = transport()
    yield sender
    sender.close()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file with the authority's certificate."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)
