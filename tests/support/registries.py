"""A registry on loopback that shows tags, and the events that it would post."""

from __future__ import annotations

import json
import ssl
import uuid
from base64 import b64encode
from urllib.parse import parse_qs, urlsplit

from .host import Host
from .marks import TOKENS
from .receivers import Answer, Connection, Receiver, Request, http


class Registry(Receiver):
    """It answers HEAD for the tags in `shows`, as `fault` says if that is set, and else with 404."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, auth: str = "", realm: str = "") -> None:
        super().__init__(self._show, tls=tls)
        self.shows: dict[str, str] = {}
        """Digests by `repository:tag`."""
        self.fault: Answer | None = None
        self.auth = auth
        """The user name and password that it wants, or its realm if it has one."""
        self.realm = realm
        self.tokens: set[str] = set()
        """Those that are valid; its realm may be on the same server, at `/token`."""

    @property
    def base(self) -> str:
        """Its `HUBHOOKS_REGISTRY_URL`."""
        return self.url.removesuffix("/hook")

    @property
    def looked_up(self) -> list[str]:
        """The tags that were looked up, as `repository:tag`."""
        return [_image(each) for each in self.requests if each.method == "HEAD"]

    def _show(self, request: Request, connection: Connection) -> int | bytes | None:
        if request.path.startswith("/token"):
            return self._give_token(request)
        if not self._lets_in(request):
            challenge = f'Bearer realm="{self.realm}",service="it, self"' if self.realm else "Basic"
            return http(401, b"", f"WWW-Authenticate: {challenge}")
        if self.fault is not None:
            return self.fault(request, connection) if callable(self.fault) else self.fault
        digest = self.shows.get(_image(request))
        return http(200, b"", f"Docker-Content-Digest: {digest}") if digest else http(404, b"")

    def _lets_in(self, request: Request) -> bool:
        if self.realm:
            return request.headers.get("authorization", "").removeprefix("Bearer ") in self.tokens
        return not self.auth or request.headers.get("authorization") == _basic(self.auth)

    def _give_token(self, request: Request) -> int | bytes:
        if self.auth and request.headers.get("authorization") != _basic(self.auth):
            return 401
        wanted = parse_qs(urlsplit(request.path).query)
        assert wanted["service"] == ["it, self"] and wanted["scope"][0].startswith("repository:"), wanted
        self.tokens.add(token := uuid.uuid4().hex)
        return http(200, json.dumps({"token": token, "expires_in": 300}).encode())


def _basic(auth: str) -> str:
    return f"Basic {b64encode(auth.encode()).decode()}"


def _image(request: Request) -> str:
    return request.path.removeprefix("/v2/").replace("/manifests/", ":")


def post_push(host: Host, digest: str = "sha256:new", tag: str = "latest", repository: str = "acme/app") -> None:
    """Post an event as CNCF Distribution does, to a host app that has `marks.WITH_SOURCES`."""
    target = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": repository, "tag": tag}
    event = {"id": str(uuid.uuid4()), "action": "push", "target": target | ({"digest": digest} if digest else {})}
    authorization = {"Authorization": f"Bearer {TOKENS['distribution']}"}
    answer = host.client.post("/hubhooks/sources/distribution/", json={"events": [event]}, headers=authorization)
    assert answer.get_json() == {"pushes": 1, "recorded": 1}, answer.text
