"""The sidecar: who may sign in and do what, what is wrong with its settings, and that a push is delivered."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask, Response, jsonify, request
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from example_app import sidecar
from example_app.demo.sidecar import main as make_sidecar
from flask_hubhooks import ConfigError

from ..support.marks import TOKENS, URL, needs_docker_registry
from ..web.test_sources import envelope
from .test_demo import Demo

PASSWORD = "alice"
HASH = "$2y$05$z2vCWG3cic.MuLu8Mmypf.YJgtkFO9VmMjuNdWNPpJiahAA4wd9EO"
USERS = ("alice", "bob", "root", "*")
ALICE, BOB, ROOT = (("alice", PASSWORD), ("bob", PASSWORD), ("root", PASSWORD))
REPOSITORIES = ["alice/app", "alice/team/app", "bob/app", "old"]
API = "/v2/repositories/alice/app/webhooks/"


@pytest.fixture
def registry() -> Iterator[str]:
    """The URL of a registry's API for `root`, which lists two repositories at a time."""
    app = Flask(__name__)

    @app.before_request
    def check() -> Response | None:
        given = request.authorization
        known = given is not None and (given.username, given.password) == ROOT
        return None if known else Response(status=401)

    @app.get("/v2/_catalog")
    def catalog() -> Response:
        begin = int(request.args.get("last", "0"))
        answer = jsonify(repositories=REPOSITORIES[begin : begin + 2])
        if begin + 2 < len(REPOSITORIES):
            answer.headers["Link"] = f'<http://elsewhere.example/v2/_catalog?last={begin + 2}>; rel="next"'
        return answer

    @app.get("/v2/<path:name>/tags/list")
    def tags(name: str) -> tuple[dict[str, object], int]:
        return ({"name": name, "tags": None}, 200) if name in REPOSITORIES else ({"errors": []}, 404)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, registry: str) -> dict[str, str]:
    """The environment of a sidecar."""
    (tmp_path / "htpasswd").write_text("# our users\n\n" + "".join(f"{name}:{HASH}\n" for name in USERS))
    return {
        "SIDECAR_SECRET_KEY": "for tests alone, and no secret",
        "SIDECAR_DATABASE_URL": f"sqlite:///{tmp_path / 'sidecar.db'}",
        "SIDECAR_HTPASSWD": str(tmp_path / "htpasswd"),
        "SIDECAR_ADMINS": "root",
        "HUBHOOKS_EXTERNAL_URL": "http://localhost",
        "HUBHOOKS_SOURCE_TOKENS": f'{{"distribution": "{TOKENS["distribution"]}"}}',
        "HUBHOOKS_REGISTRY_HOST": "registry.example.com",
        "HUBHOOKS_REGISTRY_URL": registry,
        "HUBHOOKS_REGISTRY_AUTH": ":".join(ROOT),
        "HUBHOOKS_REDIS_URL": "redis://127.0.0.1:1/0",
        "HUBHOOKS_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
    }


Start = Callable[[dict[str, str]], FlaskClient]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that makes a sidecar, and a client of it that has signed in nobody."""
    apps: list[Flask] = []

    def start(settings: dict[str, str]) -> FlaskClient:
        apps.append(sidecar.create_app(settings))
        return apps[-1].test_client()

    yield start
    for app in apps:
        with app.app_context():
            app.extensions["sqlalchemy"].engine.dispose()


@pytest.fixture
def client(start: Start, settings: dict[str, str]) -> FlaskClient:
    return start(settings)


def test_signing_in(client: FlaskClient, settings: dict[str, str]) -> None:
    """Pages and API ask for a name and a password, and a user who is removed from the file is out at once."""
    for path in ("/", API, "/r/alice/app/webhooks/", "/v2/registry/webhooks/"):
        asked = client.get(path)
        assert asked.status_code == 401
        assert asked.headers["WWW-Authenticate"].lower().startswith("basic ")
        assert client.get(path, headers={"Authorization": f"Bearer {PASSWORD}"}).status_code == 401
    for wrong in (("alice", "bob"), ("", ""), ("carol", PASSWORD), ("alice", ""), ("alice", "x" * 100), ("a", "a\0")):
        assert client.get("/", auth=wrong).status_code == 401
    assert client.get("/", auth=ALICE).status_code == 200
    assert client.get(API, auth=ALICE).status_code == 200
    Path(settings["SIDECAR_HTPASSWD"]).write_text(f"bob:{HASH}\n")
    assert client.get(API, auth=ALICE).status_code == 401
    assert client.get("/", auth=BOB).status_code == 200


def test_too_many_wrong_passwords(client: FlaskClient) -> None:
    """After ten wrong passwords an address has to wait, even with the right one; others need not."""
    for _ in range(10):
        assert client.get("/", auth=("alice", "wrong")).status_code == 401
    assert client.get("/", auth=ALICE).status_code == 429
    assert client.get("/", auth=ALICE, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 200


@pytest.mark.parametrize(
    ("user", "allowed"),
    [
        (
            "alice",
            ["repositories/alice/app", "repositories/alice/team/app", "namespaces/alice", "namespaces/alice/team"],
        ),
        ("bob", ["repositories/bob/app", "namespaces/bob"]),
        ("root", [*(f"repositories/{name}" for name in REPOSITORIES), "registry"]),
        ("*", []),
    ],
)
def test_who_may_do_what(client: FlaskClient, user: str, allowed: list[str]) -> None:
    """Users have what is below their name, admins everything, and nobody else even learns what there is."""
    names = [*REPOSITORIES, "alice", "alice/none", "alice/../bob/app"]
    namespaces = [f"namespaces/{name}" for name in ("alice", "alice/team", "bob", "ali")]
    for scope in [*(f"repositories/{name}" for name in names), *namespaces, "registry"]:
        expected = 201 if scope in allowed or (user == "root" and scope in namespaces) else 404
        content = {"name": "deploy", "hook_url": URL}
        answer = client.post(f"/v2/{scope}/webhooks/", json=content, auth=(user, PASSWORD))
        assert (scope, answer.status_code) == (scope, expected)
        seen = client.get(f"/v2/{scope}/webhooks/", auth=(user, PASSWORD)).status_code
        assert (scope, seen) == (scope, 200 if expected == 201 else 404)


def test_the_list_of_repositories(client: FlaskClient) -> None:
    """Users find their own repositories on all pages of the registry's list, and their namespace; admins all."""
    page = client.get("/", auth=ALICE)
    assert "frame-ancestors" in page.headers["Content-Security-Policy"]
    for scope in ("alice/app", "alice/team/app", "alice/*"):
        assert f'"/r/{scope}/webhooks/"' in page.text
    assert "bob" not in page.text and '"/r/*/webhooks/"' not in page.text
    page = client.get("/", auth=ROOT)
    for scope in (*REPOSITORIES, "*"):
        assert f'"/r/{scope}/webhooks/"' in page.text
    assert '<a href="/">registry.example.com</a>' in client.get("/r/alice/app/webhooks/", auth=ALICE).text
    assert "You have none yet." in client.get("/", auth=("*", PASSWORD)).text


def test_a_registry_that_is_down(start: Start, settings: dict[str, str]) -> None:
    """Without the registry there is no list, and webhooks are still to be had."""
    client = start(settings | {"HUBHOOKS_REGISTRY_URL": "http://127.0.0.1:9"})
    page = client.get("/", auth=ALICE)
    assert page.status_code == 502 and "did not list its repositories" in page.text
    assert client.get(API, auth=ALICE).status_code == 200


def test_other_sites(client: FlaskClient) -> None:
    """A browser sends its password with forms of other sites, too, which changes nothing."""
    form = {"name": "deploy", "hook_url": URL}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {}):
        for path in ("/r/alice/app/webhooks/", API):
            assert client.post(path, data=form, headers=headers, auth=ALICE).status_code in (400, 403, 415)
    assert client.get(API, auth=ALICE).get_json()["count"] == 0


def test_an_event_becomes_a_delivery(client: FlaskClient) -> None:
    """The registry's event of a push is a delivery, which only the owner sees."""
    webhook = client.post(API, json={"name": "deploy", "hook_url": URL}, auth=ALICE).get_json()
    events = envelope("1.0")
    events["events"][0]["target"]["repository"] = "alice/app"
    told = "/hubhooks/sources/distribution/"
    assert client.post(told, json=events, headers={"Authorization": "Bearer wrong"}).status_code == 401
    answer = client.post(told, json=events, headers={"Authorization": f"Bearer {TOKENS['distribution']}"})
    assert answer.get_json() == {"pushes": 1, "recorded": 1}
    [delivery] = client.get(f"{API}{webhook['id']}/history/", auth=ALICE).get_json()["results"]
    assert (delivery["push"]["tag"], delivery["state"]) == ("1.0", "pending")
    assert client.get(f"{API}{webhook['id']}/history/", auth=BOB).status_code == 404


def without(name: str) -> Callable[[dict[str, str]], object]:
    return lambda settings: settings.pop(name)


def spoilt_database(url: str) -> Callable[[dict[str, str]], object]:
    return lambda settings: settings.update(SIDECAR_DATABASE_URL=url)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *((without(name), f"{name} is not set") for name in sidecar.REQUIRED),
        (without("HUBHOOKS_EXTERNAL_URL"), "HUBHOOKS_EXTERNAL_URL is not set"),
        (without("HUBHOOKS_REGISTRY_HOST"), "HUBHOOKS_REGISTRY_HOST is not set"),
        (lambda settings: settings.update(SIDECAR_SECRET_KEY=" "), "SIDECAR_SECRET_KEY is not set"),
        (lambda settings: settings.update(SIDECAR_PROXIES="many"), "SIDECAR_PROXIES must be the number"),
        (lambda settings: settings.update(SIDECAR_HTPASSWD="/nowhere"), "/nowhere cannot be read: No such file"),
        *(
            (spoilt_database(url), "SIDECAR_DATABASE_URL must be a URL such as")
            for url in ("secret", "mysql://a:secret@db/hooks", "postgresql://a:secret@db:port/hooks", "sqlite//a")
        ),
        (lambda settings: settings.update(HUBHOOKS_SOURCE_TOKENS="{oops"), "HUBHOOKS_SOURCE_TOKENS must be a dict"),
        (lambda settings: settings.update(HUBHOOKS_QUEU="x"), "Did you mean HUBHOOKS_QUEUE"),
    ],
)
def test_wrong_settings(settings: dict[str, str], spoil: Callable[[dict[str, str]], object], message: str) -> None:
    """A setting that is missing or wrong is named, with what it must be."""
    spoil(settings)
    with pytest.raises(ConfigError, match=message) as raised:
        sidecar.create_app(settings)
    assert "secret" not in str(raised.value).replace("import secrets; print(secrets.token_hex())", "")


def test_wrong_lines(client: FlaskClient, settings: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """A line with which nobody can sign in is logged by its number only, and does not keep others out."""
    ignored = [
        "carol-without-a-colon",
        f":{HASH}",
        "carol:plain text",
        "carol:$apr1$salt$SnjX1aqnS5OQwGnUeNN3M.",
        "carol:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
        f"carol:{HASH[:-1]}",
        f"carol:{HASH.replace('$05$', '$31$')}",
        f"carol:{HASH[:28]}z{HASH[29:]}",
        f"alice:{HASH}",
    ]
    Path(settings["SIDECAR_HTPASSWD"]).write_text("\n".join([f"alice:{HASH}", *ignored, f"bob:{HASH}"]))
    with caplog.at_level(logging.ERROR):
        assert client.get("/", auth=("carol", PASSWORD)).status_code == 401
        assert client.get("/", auth=ALICE).status_code == 200
        assert client.get("/", auth=BOB).status_code == 200
    assert re.findall("line ([0-9]+) of", caplog.text) == [str(number) for number in range(2, 2 + len(ignored))]
    assert not any((line.partition(":")[2] or line) in caplog.text for line in ignored)


def test_no_users(client: FlaskClient, settings: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """A file without users lets nobody in, and while there is no file, the users stay."""
    htpasswd = Path(settings["SIDECAR_HTPASSWD"])
    moved = htpasswd.rename(htpasswd.with_name("moved"))
    assert client.get("/", auth=ALICE).status_code == 200
    assert "cannot be read, so its users stay as they were: No such file" in caplog.text
    moved.rename(htpasswd).write_text("\n# nobody\n")
    assert client.get("/", auth=ALICE).status_code == 401
    assert "has no users" in caplog.text


@needs_docker_registry
def test_make_sidecar(tmp_path: Path) -> None:
    """An image that is pushed with the command it prints is delivered, and Ctrl-C leaves nothing behind."""
    demo = Demo(tmp_path, module="example_app.demo.sidecar")
    try:
        command = demo.shown(r"(skopeo copy [^\n]+)")
        demo.shown("Ctrl-C ends everything")
        pushed = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=60, check=False)
        assert pushed.returncode == 0, pushed.stderr
        demo.shown(r"deploy received the payload for alice/app:1\.0")
        demo.interrupt()
        assert demo.ended() == 0, demo.text
    finally:
        if demo.process.poll() is None:
            demo.interrupt()
            demo.process.wait(20)


def test_without_docker_registry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without docker-registry it says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert make_sidecar() == 1
    assert "apt install docker-registry" in capsys.readouterr().err
