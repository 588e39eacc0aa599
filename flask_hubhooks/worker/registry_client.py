"""Asks the registry at `HUBHOOKS_REGISTRY_URL` which digest a tag has."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple
from urllib.parse import quote, urlencode

from werkzeug.datastructures import WWWAuthenticate

from ..transport import Outcome, Request
from ..transport.hook_url import BadURL, target
from ..version import VERSION

logger = logging.getLogger(__name__)

LOOK_UP_S = 5.0
"""How long one look-up may take, with signing in."""
TOKEN_S = 60.0
"""How long a token is used if its server does not say; clients must expect that (Docker's token specification)."""
MAX_TOKEN_S = 3600.0
MAX_TOKENS = 1024
# Without these, Distribution answers 404 for OCI images, and with a child's digest for Docker's lists.
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)


class Shown(NamedTuple):
    """What the registry shows for a tag."""

    digest: str = ""
    """Empty if there is no such tag, or the registry could not be asked."""
    fault: str = ""
    """Why it could not be asked: for the operator's log."""
    refused: bool = False
    """It answered, but we may not see this repository. Others may well be shown."""


Send = Callable[[Request, Callable[[Outcome], None]], None]
Done = Callable[[Shown], None]


class RegistryClient:
    """Looks up tags. It signs in with `auth`, a user name and a password separated by a colon, if there is one.

    `send` sends its requests, see `Transport.send`. The operator chose the URL, so the address rules do not apply to
    it. Redirects are not followed.

    Registries with token servers name these themselves ("realm"). What a registry says must not lead our requests into
    the internal network, nor the password to somebody who listens in. So the realm may be on the registry's own host,
    and must use https if the registry's URL does. Any other host must use https, and the address rules for hooks apply.
    """

    def __init__(self, send: Send, url: str, auth: str | None) -> None:
        self._send = send
        self._url = url
        self._basic = {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"} if auth else {}
        self._tokens: dict[str, tuple[str, float]] = {}
        """By repository, each with the time until which it is used."""

    def look_up(self, repository: str, tag: str, done: Done) -> None:
        """Call `done` with what the registry shows, within `LOOK_UP_S`, on the transport's thread.

        It may also be called before this returns.
        """
        _LookUp(self, repository, tag, done).start()


class _LookUp:
    """One look-up: HEAD, and if the registry wants a token, GET for the token, and HEAD again."""

    def __init__(self, client: RegistryClient, repository: str, tag: str, done: Done) -> None:
        self._client = client
        self._repository = repository
        self._url = f"{client._url}/v2/{quote(repository)}/manifests/{quote(tag)}"
        self._done = done
        self._ends = monotonic() + LOOK_UP_S

    def start(self) -> None:
        token, until = self._client._tokens.get(self._repository, ("", 0.0))
        self._ask({"Authorization": f"Bearer {token}"} if monotonic() < until else self._client._basic, self._answered)

    def _ask(self, authorization: dict[str, str], answered: Callable[[Outcome], None]) -> None:
        self._request("HEAD", self._url, {"Accept": ACCEPT} | authorization, answered, trusted=True)

    def _request(
        self, method: str, url: str, headers: dict[str, str], answered: Callable[[Outcome], None], *, trusted: bool
    ) -> None:
        def guarded(outcome: Outcome) -> None:
            try:
                answered(outcome)
            except Exception:
                logger.exception("the registry's answer about a tag could not be read")
                self._done(Shown(fault="its answer could not be read"))

        left_s = round(self._ends - monotonic(), 1)
        if left_s <= 0:
            return self._done(Shown(fault=f"it did not answer within {LOOK_UP_S:g} s"))
        headers = {"User-Agent": f"flask_hubhooks/{VERSION}"} | headers
        self._client._send(Request(url, b"", headers, deadline_s=left_s, method=method, trusted=trusted), guarded)

    def _answered(self, outcome: Outcome) -> None:
        challenge = _bearer_challenge(outcome) if outcome.status_code == 401 else None
        if challenge is None:
            return self._finish(outcome)
        self._client._tokens.pop(self._repository, None)
        self._ask_for_token(challenge)

    def _ask_for_token(self, challenge: WWWAuthenticate) -> None:
        realm = challenge.get("realm") or ""
        try:
            found, registry = target(realm), target(self._client._url)
        except BadURL:
            return self._done(Shown(fault="it wants a token, but does not say where to get one"))
        own = found.host == registry.host
        if found.scheme != "https" and not (own and registry.scheme == "http"):
            return self._done(
                Shown(fault=f"it wants a token from {found.host} over http, where others could read the password")
            )
        wanted = {"service": challenge.get("service") or "", "scope": f"repository:{self._repository}:pull"}
        query = urlencode({name: value for name, value in wanted.items() if value})
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        self._request("GET", url, self._client._basic, self._got_token, trusted=own)

    def _got_token(self, outcome: Outcome) -> None:
        if outcome.status_code != 200:
            return self._done(_failed("its token server", outcome))
        try:
            answer = json.loads(outcome.response_body)
            token: str = answer.get("token") or answer["access_token"]
            lasts_s = min(float(answer.get("expires_in") or TOKEN_S), MAX_TOKEN_S)
            authorization = {"Authorization": "Bearer " + token}
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return self._done(Shown(fault="its token server answered with no token"))
        tokens = self._client._tokens
        if len(tokens) >= MAX_TOKENS:
            tokens.pop(next(iter(tokens)), None)
        tokens[self._repository] = (token, monotonic() + lasts_s - LOOK_UP_S)
        self._ask(authorization, self._finish)

    def _finish(self, outcome: Outcome) -> None:
        headers = {name.lower(): value for name, value in outcome.response_headers}
        if outcome.status_code == 200:
            self._done(Shown(digest=headers.get("docker-content-digest", "")))
        elif outcome.status_code == 404:
            self._done(Shown())
        else:
            self._done(_failed("it", outcome))


def _bearer_challenge(outcome: Outcome) -> WWWAuthenticate | None:
    for name, value in outcome.response_headers:
        if name.lower() == "www-authenticate":
            challenge = WWWAuthenticate.from_header(value)
            if challenge and challenge.type == "bearer":
                return challenge
    return None


def _failed(server: str, outcome: Outcome) -> Shown:
    if outcome.status_code is None:
        # What follows the first sentence is advice about hooks, but for addresses that are forbidden.
        cause = outcome.error if outcome.blocked else outcome.error.partition(". ")[0]
        return Shown(fault=f"{server} could not be asked: {cause}")
    refused = outcome.status_code in (401, 403)
    advice = " (check HUBHOOKS_REGISTRY_AUTH)" if refused else ""
    return Shown(fault=f"{server} answered with {outcome.status_code}{advice}", refused=refused)
