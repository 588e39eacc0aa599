"""Receivers in other languages verify our signatures: Debian's `webhook`, in Go, and a script in Perl."""

from __future__ import annotations

import base64
import hmac
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

import flask_hubhooks

from ..support.host import Host
from ..support.marks import on_sqlite
from ..support.processes import free_port
from ..support.receivers import Receiver, Request, poll

SCRIPT = Path(__file__).parent.parent / "data" / "verify.pl"


@pytest.fixture
def request_of(host: Host) -> Iterator[tuple[Request, list[str]]]:
    """A real delivery's request during a secret rotation, with the former and the current secret."""
    with Receiver() as receiver:
        webhook = host.create(receiver.url, repository="acme/app")
        path = f"acme/app/webhooks/{webhook['id']}/rotate-secret/"
        secret = host.api("POST", path).get_json()["secret"]
        host.push(tag="latest", pusher="Jürgen 容器 \U0001f433")
        host.deliver()
    yield receiver.requests[0], [webhook["secret"], secret]


@pytest.mark.skipif(not shutil.which("perl"), reason="perl is not installed")
@on_sqlite
def test_perl(request_of: tuple[Request, list[str]]) -> None:
    """A short Perl script verifies a delivery with either secret, and refuses a changed body, id or time."""
    request, secrets = request_of
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    signed = [request.headers[name] for name in names]

    def verdict(secret: str, signed: list[str], body: bytes) -> tuple[int, bytes]:
        done = subprocess.run(["perl", SCRIPT, secret, *signed], input=body, capture_output=True, timeout=30)
        return done.returncode, done.stdout

    assert [verdict(secret, signed, request.body) for secret in secrets] == [(0, b"valid\n")] * 2
    changed = request.body.replace(b"latest", b"lastet")
    assert changed != request.body
    assert verdict(secrets[0], signed, changed) == (1, b"not valid\n")
    assert verdict("whsec_" + "A" * 44, signed, request.body) == (1, b"not valid\n")
    for place in (0, 1):
        other = [each if number != place else f"{each}1" for number, each in enumerate(signed)]
        assert verdict(secrets[0], other, request.body) == (1, b"not valid\n")


@contextmanager
def webhook_program(folder: Path, secret: str) -> Iterator[tuple[str, Path]]:
    """adnanh/webhook with a hook that checks X-Hub-Signature-256; yields its URL and the file that it writes."""
    written, command = folder / "written", folder / "command.sh"
    command.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {written}\n')
    command.chmod(0o755)
    rule = {"type": "payload-hmac-sha256", "secret": secret}
    hook: dict[str, Any] = {
        "id": "deploy",
        "execute-command": str(command),
        "include-command-output-in-response": True,
        "pass-arguments-to-command": [{"source": "payload", "name": "repository.repo_name"}],
        "trigger-rule": {"match": rule | {"parameter": {"source": "header", "name": "X-Hub-Signature-256"}}},
    }
    hook["trigger-rule-mismatch-http-response-code"] = 403
    hooks, port = folder / "hooks.json", free_port()
    hooks.write_text(json.dumps([hook]))
    with (folder / "log").open("wb") as log:
        program = subprocess.Popen(
            ["webhook", "-hooks", hooks, "-ip", "127.0.0.1", "-port", str(port), "-verbose"], stdout=log, stderr=log
        )
    try:
        poll(lambda: b"serving hooks on" in (folder / "log").read_bytes())
        yield f"http://127.0.0.1:{port}/hooks/deploy", written
    finally:
        program.kill()
        program.wait()


@pytest.mark.skipif(not shutil.which("webhook"), reason="Debian's webhook is not installed")
@on_sqlite
def test_go(host: Host, tmp_path: Path) -> None:
    """Debian's `webhook` runs its command for a real delivery, and refuses it with a changed body or secret."""
    secret = "whsec_" + "Zm9v" * 10
    with webhook_program(tmp_path, secret) as (url, written), Receiver() as recorder:
        webhook = host.create(url, secret=secret)
        host.create(recorder.url, name="the same", secret=secret)
        host.push(pusher="Jürgen 容器")
        host.deliver()
        [delivery] = host.history(webhook)
        assert (delivery["state"], written.read_text()) == ("succeeded", "acme/app")
        written.unlink()
        [request] = recorder.requests
        kept = {name: request.headers[name] for name in ("content-type", "x-hub-signature-256")}
        changed = request.body.replace(b"acme/app", b"acme/apq")
        answers = [requests.post(url, body, headers=kept, timeout=10).status_code for body in (request.body, changed)]
        assert answers == [200, 500]  # it calls a wrong signature an error
        written.unlink()
        del kept["x-hub-signature-256"]
        assert requests.post(url, request.body, headers=kept, timeout=10).status_code == 403
        assert not written.exists()
        host.api("POST", f"acme/app/webhooks/{webhook['id']}/rotate-secret/")
        host.push(tag="another")
        host.deliver()
        attempt = host.details(webhook, host.history(webhook)[0])["attempts"][0]
        assert attempt["status_code"] == 500
        assert not written.exists()


TEMPLATES = Path(flask_hubhooks.__file__).parent / "templates" / "hubhooks" / "verify"
PYTHON = """
import json, sys
request = json.load(sys.stdin)
print("valid" if verify(request["headers"], request["body"].encode()) else "not valid")
"""
NODE = """
const request = JSON.parse(require("node:fs").readFileSync(0));
console.log(verify(request.headers, Buffer.from(request.body)) ? "valid" : "not valid");
"""
GO = """
func main() {
	var request struct {
		Headers map[string]string
		Body    string
	}
	json.NewDecoder(os.Stdin).Decode(&request)
	headers := http.Header{}
	for name, value := range request.Headers {
		headers.Set(name, value)
	}
	fmt.Println(map[bool]string{true: "valid", false: "not valid"}[verify(headers, []byte(request.Body))])
}
"""


def python_program(folder: Path) -> list[str]:
    (folder / "verify.py").write_text((TEMPLATES / "python.txt").read_text("utf-8") + PYTHON, "utf-8")
    return [sys.executable, str(folder / "verify.py")]


def node_program(folder: Path) -> list[str]:
    (folder / "verify.js").write_text((TEMPLATES / "node.txt").read_text("utf-8") + NODE, "utf-8")
    return ["node", str(folder / "verify.js")]


def go_program(folder: Path) -> list[str]:
    snippet = (TEMPLATES / "go.txt").read_text("utf-8").replace("import (", 'import (\n\t"encoding/json"\n\t"fmt"', 1)
    (folder / "verify.go").write_text(f"package main\n\n{snippet}{GO}", "utf-8")
    environment = {**os.environ, "GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    command = ["go", "build", "-o", str(folder / "verify"), str(folder / "verify.go")]
    subprocess.run(command, env=environment, check=True, timeout=100)
    return [str(folder / "verify")]


@pytest.mark.parametrize("language", ["python", "node", "go"])
@on_sqlite
def test_what_the_pages_show(request_of: tuple[Request, list[str]], language: str, tmp_path: Path) -> None:
    """The code shown on the pages verifies a delivery with either secret, and refuses any change."""
    if not (shutil.which(language) or language == "python"):
        pytest.skip(f"{language} is not installed")
    command = {"python": python_program, "node": node_program, "go": go_program}[language](tmp_path)
    request, secrets = request_of
    signed = {name: request.headers[name] for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}

    def verdict(secret: str = secrets[0], body: str | None = None, **changed: str) -> str:
        headers = signed | {name.replace("_", "-"): value for name, value in changed.items()}
        content = json.dumps({"headers": headers, "body": request.body.decode() if body is None else body})
        done = subprocess.run(
            command,
            input=content.encode(),
            env={**os.environ, "WEBHOOK_SECRET": secret},
            capture_output=True,
            timeout=30,
        )
        return done.stdout.decode().strip() or done.stderr.decode()

    assert [verdict(secret) for secret in secrets] == ["valid", "valid"]
    assert verdict(body=request.body.decode().replace("latest", "lastet")) == "not valid"
    assert verdict("whsec_" + "A" * 44) == "not valid"
    assert verdict(webhook_id="other") == verdict(webhook_timestamp="1") == "not valid"
    assert verdict(webhook_signature="v1,") == verdict(webhook_signature="") == "not valid"
    for minutes in (-6, 6):
        sent = str(int(time.time()) + minutes * 60)
        key = base64.b64decode(secrets[0].removeprefix("whsec_"))
        digest = hmac.digest(key, f"{signed['webhook-id']}.{sent}.".encode() + request.body, "sha256")
        signature = f"v1,{base64.b64encode(digest).decode()}"
        assert verdict(webhook_timestamp=sent, webhook_signature=signature) == "not valid"
