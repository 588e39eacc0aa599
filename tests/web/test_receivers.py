"""The recipes of `docs/receivers.md`, as they stand there, with what then arrives from a worker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ..formats.test_formats import DIGEST, IMAGE, INDEX
from ..support import deployers
from ..support.host import Host
from ..support.marks import on_sqlite
from ..support.processes import free_port
from ..support.receivers import Receiver, Request, http, poll

PAGE = Path(__file__).parent.parent.parent / "docs" / "receivers.md"
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]
}
"""The blocks of each section by its heading; the first one is the body of the request that creates the webhook."""
MOVED = http(301, b"another tag")


def recipe(heading: str) -> str:
    """The body of a recipe's request, with values instead of words in capitals."""
    return str(SECTIONS[heading][0]).replace("DIGEST", 64 * "0").replace("SECRET", deployers.SECRET)


def of_body(rule: Callable[[deployers.Headers, bytes], str]) -> Callable[[Request], str]:
    return lambda request: rule(request.headers, request.body)


def of_url(rule: Callable[[str, deployers.Headers], str]) -> Callable[[Request], str]:
    return lambda request: rule(request.path, request.headers)


def keel(request: Request) -> str:
    assert request.headers["authorization"] == f"Basic {b64encode(b'USER:PASSWORD').decode()}"
    return deployers.keel_harbor(request.headers, request.body)


WHAT_IT_DOES: dict[str, tuple[Callable[[Request], str], str]] = {
    "Argo CD": (of_body(deployers.argo_cd_harbor), IMAGE),
    "Argo CD Image Updater": (of_body(deployers.image_updater_harbor), f"{IMAGE}@{DIGEST}"),
    "Keel": (keel, f"{IMAGE}@{DIGEST}"),
    "Kargo": (of_body(deployers.kargo_dockerhub), IMAGE),
    "Jenkins": (of_body(deployers.jenkins_dockerhub), IMAGE),
    "Portainer": (of_url(deployers.portainer), IMAGE),
    "Watchtower": (of_url(deployers.watchtower), IMAGE.removesuffix(":v1")),
    "Dokploy": (of_body(deployers.dokploy), IMAGE),
    "Azure App Service": (of_url(deployers.azure), deployers.SERVICE),
    "Coolify": (of_url(deployers.coolify), deployers.SERVICE),
    "CapRover": (of_url(deployers.caprover), deployers.SERVICE),
    "Slack": (of_body(deployers.slack), IMAGE),
    "Discord": (of_body(deployers.discord), IMAGE),
    "Microsoft Teams": (of_body(deployers.teams), IMAGE),
}
"""By heading: how the receiver reads a request, and what it deploys, or shows, of a push of `IMAGE`."""


def create(host: Host, wanted: dict[str, Any]) -> dict[str, Any]:
    answer = host.api("POST", "acme/app/webhooks/", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def deliver(host: Host, heading: str, receiver: Receiver) -> tuple[dict[str, Any], Request]:
    """Create the webhook of a recipe with the receiver's host instead of its own, push, and deliver."""
    wanted = json.loads(recipe(heading))
    parts = urlsplit(wanted["hook_url"])
    user_info = parts.netloc.rpartition("@")[0]
    here = f"{user_info}@127.0.0.1:{receiver.port}" if user_info else f"127.0.0.1:{receiver.port}"
    webhook = create(host, wanted | {"hook_url": parts._replace(scheme="http", netloc=here).geturl()})
    host.push(tag="v1", digest=DIGEST, media_type=INDEX, pusher="alice")
    host.deliver()
    [request] = receiver.requests
    return webhook, request


def test_every_section_is_tested() -> None:
    """Each section of the page has a test here."""
    assert SECTIONS.keys() == {*WHAT_IT_DOES, "Flux", "A shell script"}


@on_sqlite
@pytest.mark.parametrize("heading", SECTIONS)
def test_no_recipe_has_a_hint(host: Host, heading: str) -> None:
    """A recipe is accepted as it stands, and its payload format is the one that its URL suggests."""
    [hook] = create(host, json.loads(recipe(heading)))["hooks"]
    assert hook["hints"] == []


@on_sqlite
@pytest.mark.parametrize("heading", WHAT_IT_DOES)
def test_receivers_read_it(host: Host, heading: str) -> None:
    """Each receiver, set up as its recipe says, finds the image that was pushed."""
    reads, expected = WHAT_IT_DOES[heading]
    with Receiver() as receiver:
        webhook, request = deliver(host, heading, receiver)
    found = reads(request)
    assert expected in found if heading in ("Slack", "Discord", "Microsoft Teams") else found == expected
    assert request.method == "POST"
    state = "awaiting_callback" if heading == "Jenkins" else "succeeded"
    assert host.states(webhook) == [state]


@on_sqlite
def test_flux(host: Host) -> None:
    """Flux' types `github` and `generic-hmac` take the request with the webhook's secret as token."""
    with Receiver() as receiver:
        webhook, request = deliver(host, "Flux", receiver)
    assert request.path == f"/hook/{64 * '0'}"
    for verify in (deployers.flux_github, deployers.flux_generic_hmac):
        verify(request.headers, request.body, webhook["secret"])
        with pytest.raises(deployers.Refused):
            verify(request.headers, request.body, "another token")


@on_sqlite
def test_flux_harbor(host: Host) -> None:
    """Flux' type `harbor` compares the Authorization header with its token."""
    wanted = json.loads(recipe("Flux"))
    with Receiver() as receiver:
        create(host, wanted | {"hook_url": receiver.url, "headers": {"Authorization": deployers.SECRET}})
        host.push()
        host.deliver()
    deployers.flux_harbor(receiver.requests[0].headers, receiver.requests[0].body)


@on_sqlite
def test_jenkins_calls_back(host: Host) -> None:
    """Jenkins' callback, also from one without a root URL, decides the delivery."""
    with Receiver(302) as receiver:
        webhook, request = deliver(host, "Jenkins", receiver)
    said = {"description": "Build result SUCCESS", "context": "Jenkins", "target_url": "/job/app/7/"}
    assert host.call_back(request.body, **said).status_code == 200
    assert host.states(webhook) == ["succeeded"]


@on_sqlite
def test_dokploy_refuses_another_tag(host: Host) -> None:
    """Dokploy's answer to another tag fails the delivery at once, and does not count against the hook."""
    with Receiver(MOVED) as receiver:
        webhook, _ = deliver(host, "Dokploy", receiver)
    assert host.states(webhook) == ["failed"]
    [hook] = host.api("GET", f"acme/app/webhooks/{webhook['id']}/").get_json()["hooks"]
    assert hook["failing_since"] is None


@pytest.mark.skipif(not shutil.which("webhook"), reason="Debian's webhook is not installed")
@on_sqlite
def test_a_shell_script(host: Host, tmp_path: Path) -> None:
    """Debian's `webhook` runs the script of the page with the image and tag, if the signature is right."""
    wanted, hooks, script = SECTIONS["A shell script"]
    called, port = tmp_path / "called", free_port()
    (tmp_path / "docker").write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    (tmp_path / "deploy.sh").write_text(script)
    for name in ("docker", "deploy.sh"):
        (tmp_path / name).chmod(0o755)
    url = f"http://127.0.0.1:{port}{urlsplit(json.loads(wanted)['hook_url']).path}"
    webhook = create(host, json.loads(wanted) | {"hook_url": url})
    here = hooks.replace("SECRET", webhook["secret"]).replace("/usr/local/bin", str(tmp_path))
    (tmp_path / "webhook.conf").write_text(here)
    program = subprocess.Popen(
        ["webhook", "-hooks", tmp_path / "webhook.conf", "-ip", "127.0.0.1", "-port", str(port), "-verbose"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        stdout=(tmp_path / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        poll(lambda: b"serving hooks on" in (tmp_path / "log").read_bytes())
        host.push(tag="v1")
        host.deliver()
        poll(lambda: called.exists() and called.read_text().count("\n") == 2)
        assert called.read_text() == f"pull {IMAGE}\ncompose --project-directory /srv/app up --detach\n"
        assert host.states(webhook) == ["succeeded"]
        assert host.api("POST", f"acme/app/webhooks/{webhook['id']}/rotate-secret/").status_code == 200
        host.push(tag="v2")
        host.deliver()
        assert host.states(webhook) == ["pending", "succeeded"]
        assert called.read_text().count("\n") == 2
    finally:
        program.kill()
        program.wait()
