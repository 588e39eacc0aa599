"""TLS settings of hooks: a receiver with a certificate that nobody else trusts, from the push to the history."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import trustme

from ..support.host import Host
from ..support.receivers import Receiver, tls_context


def attempt(host: Host, webhook: dict[str, Any], user: str = "alice") -> dict[str, Any]:
    """Push, deliver, and return what a user sees of the attempt."""
    host.push()
    host.run_job()
    path = f"acme/app/webhooks/{webhook['id']}/history/"
    delivery = host.api("GET", path, user).get_json()["results"][0]
    [made] = host.api("GET", f"{path}{delivery['id']}/", user).get_json()["attempts"]
    return dict(made)


def test_pinned(host: Host) -> None:
    """A refused certificate is in the history, for writers; with its key pinned, the next push arrives."""
    with Receiver(tls=tls_context(trustme.CA(), "other.example.com")) as receiver:
        webhook = host.create(receiver.url)
        refused = attempt(host, webhook)
        assert refused["cause"].startswith("TLS failed: the certificate is for other.example.com and not")
        shown = refused["certificate"]
        assert shown["names"] == ["other.example.com"]
        assert "trustme" in shown["issuer"] and "trustme" in shown["subject"]
        assert (shown["not_before"], shown["not_after"]) == ("2000-01-01T00:00:00Z", "3000-01-01T00:00:00Z")
        assert attempt(host, webhook, "reader")["certificate"] is None
        assert not receiver.requests
        hook = f"acme/app/webhooks/{webhook['id']}/hooks/{webhook['hooks'][0]['id']}/"
        pin = {"public_key_sha256": shown["public_key_sha256"]}
        assert host.api("PATCH", hook, json={"tls": pin}).get_json()["tls"] == pin
        received = attempt(host, webhook)
    assert (received["status_code"], received["certificate"]) == (200, None)
    assert len(receiver.requests) == 1


def test_own_authority(host: Host) -> None:
    """Each hook of a chain is verified by settings of its own."""
    authority = trustme.CA()
    with Receiver(tls=tls_context(authority)) as first, Receiver(tls=tls_context(authority)) as second:
        own = {"ca": authority.cert_pem.bytes().decode()}
        hooks = [{"hook_url": first.url, "tls": own}, {"hook_url": second.url}]
        made = host.api("POST", "acme/app/webhooks/", json={"name": "deploy", "hooks": hooks}).get_json()
        attempt(host, made)
        host.call_back(first.requests[0].body)
        host.run_job()
    assert not second.requests
    assert "unknown authority" in host.history(made)[1]["cause"]


def test_a_wrong_pin_holds_up_nobody_else(host: Host) -> None:
    """A hook whose own settings do not fit its receiver counts against no other hook of the host."""
    authority = trustme.CA()
    with Receiver(tls=tls_context(authority)) as receiver:
        wrong = {"public_key_sha256": b64encode(bytes(32)).decode()}
        own = {"ca": authority.cert_pem.bytes().decode()}
        for repository, tls in (("bob/tool", wrong), ("acme/app", own)):
            user = repository.partition("/")[0].replace("acme", "alice")
            content = {"name": "deploy", "hook_url": receiver.url, "tls": tls}
            assert host.api("POST", f"{repository}/webhooks/", user, json=content).status_code == 201
        for number in range(6):  # a breaker opens after three failures
            host.push("bob/tool", f"v{number}")
        host.run_job()
        host.push("acme/app")
        host.run_job()
        assert len(receiver.requests) == 1
