"""`python -m example_app.demo.sidecar`: Debian's docker-registry, with the sidecar and a worker beside it."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from queue import Empty, SimpleQueue

import bcrypt
import requests

from example_app.demo.client import Client
from example_app.demo.receiver import Event, Receiver
from example_app.demo.servers import FLASK, Servers, free_port
from example_app.demo.terminal import Terminal
from example_app.demo.waiting import Failed, Stopped, StopSignal, until
from example_app.image import build_image, build_layout

START_S = 30.0
STOP_S = 0.1
"""When a part fails: how long the signal may take that then ended it, as Ctrl-C goes to all processes at once."""
NOT_INSTALLED = """docker-registry is not installed. On Debian or Ubuntu, install it with:

   apt install docker-registry
"""
TO_OPEN = """
To open in a browser, and sign in as alice with the password alice:

   {url}/

The user admin, with the password admin, sees everything. To push an image, from another terminal:

   skopeo copy --dest-tls-verify=false --dest-creds alice:alice oci:{layout}:latest docker://{host}/alice/app:1.0

   docker login {host} -u alice -p alice
   docker tag <an image of yours> {host}/alice/app:1.0
   docker push {host}/alice/app:1.0

The webhook "deploy" gets the pushes of all repositories in alice. What its receiver gets appears here.
Ctrl-C ends everything.
"""


class Sidecar(Servers):
    """docker-registry, the sidecar in gunicorn, its worker, and Valkey between these two."""

    def __init__(self, stop: StopSignal) -> None:
        super().__init__(stop, free_port(5000))
        self.host = self.registry_url.removeprefix("http://")
        self.address = f"127.0.0.1:{free_port(8080)}"
        self.url = f"http://{self.address}"
        self._token = secrets.token_urlsafe()

    def start(self) -> None:
        """Start all of them; the registry and the sidecar answer a little later."""
        users = {name: bcrypt.hashpw(name.encode(), bcrypt.gensalt(6)).decode() for name in ("alice", "admin")}
        (self._folder / "htpasswd").write_text("".join(f"{name}:{hashed}\n" for name, hashed in users.items()))
        (self._folder / "registry.yml").write_text(json.dumps(self._registry_config()))  # JSON is YAML, too
        self.layout = self._folder / "image"
        build_layout(self.layout, build_image({"app/version": b"1.0\n"}))
        self._start_valkey()
        self._stack.callback(self._end_processes)
        self._spawn("registry", "docker-registry", "serve", str(self._folder / "registry.yml"))
        app = ("--bind", self.address, "--threads", "8", "example_app.sidecar:create_app()")
        self._spawn("sidecar", sys.executable, "-m", "gunicorn", *app)
        self._spawn("worker", *FLASK, "--app", "example_app.sidecar", "hubhooks", "worker")

    def answers(self) -> bool:
        """Whether the sidecar answers."""
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(self.url, timeout=5).status_code == 401
            except requests.ConnectionError:
                return False

    def _make_settings(self) -> dict[str, str]:
        return {
            "SIDECAR_SECRET_KEY": secrets.token_hex(32),
            "SIDECAR_DATABASE_URL": f"sqlite:///{self._folder / 'sidecar.db'}",
            "SIDECAR_HTPASSWD": str(self._folder / "htpasswd"),
            "SIDECAR_ADMINS": "admin",
            "HUBHOOKS_EXTERNAL_URL": self.url,
            "HUBHOOKS_SOURCE_TOKENS": json.dumps({"distribution": self._token}),
            "HUBHOOKS_REGISTRY_HOST": self.host,
            "HUBHOOKS_REGISTRY_URL": self.registry_url,
            "HUBHOOKS_REGISTRY_AUTH": "admin:admin",
            "HUBHOOKS_REDIS_URL": self.redis_url,
            "HUBHOOKS_ALLOWED_NETWORKS": json.dumps(["127.0.0.0/8"]),
            "XDG_RUNTIME_DIR": str(self._folder),  # for gunicorn's control socket
        }

    def _registry_config(self) -> dict[str, object]:
        endpoint = {
            "name": "hubhooks",
            "url": f"{self.url}/hubhooks/sources/distribution/",
            "headers": {"Authorization": [f"Bearer {self._token}"]},
            "timeout": "5s",
            "threshold": 5,
            "backoff": "1s",
            "ignore": {"mediatypes": ["application/octet-stream"], "actions": ["pull", "mount", "delete"]},
        }
        return {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "registry")}},
            "http": {"addr": self.host},
            "auth": {"htpasswd": {"realm": "registry", "path": str(self._folder / "htpasswd")}},
            "notifications": {"events": {"includereferences": True}, "endpoints": [endpoint]},
        }


def main() -> int:
    """Return 0 once Ctrl-C ends what has started, and 1 if something did not work."""
    if not shutil.which("docker-registry"):
        print(NOT_INSTALLED, file=sys.stderr)
        return 1
    stop, terminal, events = StopSignal(), Terminal(sys.stdout), SimpleQueue[Event]()
    servers = Sidecar(stop)
    with servers, Receiver("deploy", events) as receiver:
        try:
            servers.start()
            until(
                "the registry answering", Client(servers.registry_url, terminal.request).is_up, servers.check, START_S
            )
            until("the sidecar answering", servers.answers, servers.check, START_S)
            sidecar = Client(servers.url, terminal.request)
            receiver.secret = sidecar.create_webhook("alice/*", "deploy", receiver.url)["secret"]
            for line in TO_OPEN.format(url=servers.url, host=servers.host, layout=servers.layout).splitlines():
                terminal.line(line, indent="")
            while True:
                servers.check()
                try:
                    event = events.get(timeout=0.1)
                except Empty:
                    continue
                if event.kind != "received":
                    raise Failed("the receiver got a request whose signature is wrong")
                image = f"{event.payload['repository']['repo_name']}:{event.payload['push_data']['tag']}"
                terminal.line(f"{time.strftime('%H:%M:%S')}  {event.receiver} received the payload for {image}")
        except Stopped as stopped:
            terminal.line(f"\nStopped by {stopped}.", indent="")
            return 0
        except (Failed, requests.RequestException) as failure:
            time.sleep(STOP_S)
            try:
                stop.check()
            except Stopped:
                return 0
            servers.report(failure, terminal)
            return 1


if __name__ == "__main__":
    sys.exit(main())
