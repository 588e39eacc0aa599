"""An app to run beside a bare CNCF Distribution registry (`registry:2`, `registry:3`), which then has webhooks.

    pip install '.[sidecar]'
    gunicorn --workers 2 --threads 8 'example_app.sidecar:create_app()'
    flask --app example_app.sidecar hubhooks worker

The registry sends its events to `/hubhooks/sources/distribution/`. `/` lists a user's repositories, with links to their
webhooks. `docs/sources.md` explains the settings, all of which are environment variables.

This file needs nothing else of `example_app`: copy it, and change what you like.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from time import monotonic
from urllib.parse import urlsplit

import bcrypt
import requests
from flask import Flask, Response, g, has_request_context, render_template, request
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader
from requests.auth import HTTPBasicAuth
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_hubhooks import ConfigError, HubHooks, Repository

logger = logging.getLogger(__name__)

REQUIRED = {
    "SIDECAR_SECRET_KEY": "a random text (python -c 'import secrets; print(secrets.token_hex())' makes one)",
    "SIDECAR_DATABASE_URL": "a URL such as sqlite:////data/sidecar.db or postgresql+psycopg://user:password@host/db",
    "SIDECAR_HTPASSWD": "the path of an htpasswd file (htpasswd -B -c <path> <name> makes one)",
    "HUBHOOKS_SOURCE_TOKENS": """'{"distribution": "<token>"}', with the token that the registry sends""",
    "HUBHOOKS_REGISTRY_URL": "the URL at which the registry is reached from here, such as 'http://registry:5000'",
}
"""Settings that have no default, and what to set them to. HubHooks checks the others of its own."""

# A name and a bcrypt hash. Checking a password takes about a second at cost 14, and twice as long at 15. A salt ends in
# one of four characters; bcrypt fails on any other.
HTPASSWD_LINE = re.compile(r"([^:]+):(\$2[aby]\$(?:0[4-9]|1[0-4])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31})")
MAX_WRONG, WINDOW_S = 10, 60
"""How many wrong passwords one address may send to a process within so many seconds."""

NAME_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = re.compile(rf"{NAME_PART}(?:/{NAME_PART})*")
"""A repository's name, as the OCI distribution specification has it."""
TIMEOUT_S = 5
"""How long we wait for the registry."""

# One process at a time creates the tables. The number is arbitrary, but no other lock may use it.
TABLES_LOCK = {"postgresql": "SELECT pg_advisory_xact_lock(7236502)", "sqlite": "BEGIN IMMEDIATE"}

CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
TEMPLATES = {
    "sidecar.html": """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>{% block title %}Webhooks{% endblock %}</title>
  <link rel="stylesheet" href="{{ url_for('hubhooks.static', filename='hubhooks.css') }}">
</head>
<body class="hubhooks-body">
  <main>
    <header class="hubhooks">
      <a href="{{ url_for('show_repositories') }}">{{ config.HUBHOOKS_REGISTRY_HOST }}</a>
      {% if g.user %}· Signed in as {{ g.user }}{% endif %}
    </header>
    {% block content %}{% endblock %}
  </main>
</body>
</html>""",
    "repositories.html": """{% extends "sidecar.html" %}
{% macro webhooks_of(scope) %}{{ url_for("hubhooks.pages_webhooks", repository=scope) }}{% endmacro %}
{% block title %}Repositories{% endblock %}
{% block content %}
<div class="hubhooks">
  <h1>Repositories</h1>
  {% if fault %}
  <div class="alert" role="alert">
    <p>The registry did not list its repositories. The log of this app says why.</p>
  </div>
  {% else %}
  <ul class="one-line">
    {% for name in names %}
    <li class="card"><a href="{{ webhooks_of(name) }}">{{ name }}</a></li>
    {% else %}
    <li class="card">You have none yet. A repository appears here after its first push.</li>
    {% endfor %}
  </ul>
  {% endif %}
  {% if namespace %}
  <p><a href="{{ webhooks_of(namespace ~ '/*') }}">Webhooks of all repositories in {{ namespace }}</a></p>
  {% endif %}
  {% if is_admin %}
  <p><a href="{{ webhooks_of('*') }}">Webhooks of the whole registry</a></p>
  {% endif %}
</div>
{% endblock %}""",
}


def create_app(environ: Mapping[str, str] = os.environ) -> Flask:
    """The app, configured from the environment. Raises `ConfigError` for a setting that is missing or wrong."""
    environ = {name: value for name, value in environ.items() if value.strip()}
    for name, example in REQUIRED.items():
        if name not in environ:
            raise ConfigError(f"{name} is not set. Set it to {example}.")
    try:
        is_known = make_url(environ["SIDECAR_DATABASE_URL"]).get_backend_name() in TABLES_LOCK
    except (ArgumentError, ValueError):  # their texts may hold the password
        is_known = False
    if not is_known:
        raise ConfigError(f"SIDECAR_DATABASE_URL must be {REQUIRED['SIDECAR_DATABASE_URL']}.")
    proxies = environ.get("SIDECAR_PROXIES", "0")
    if not re.fullmatch("[0-9]", proxies):
        raise ConfigError("SIDECAR_PROXIES must be the number of reverse proxies in front of the app, from 0 to 9.")
    users = Users(environ["SIDECAR_HTPASSWD"])
    admins = {name.strip() for name in environ.get("SIDECAR_ADMINS", "").split(",")} - {""}

    app = Flask(__name__, static_folder=None)
    app.jinja_loader = DictLoader(TEMPLATES)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=int(proxies), x_proto=int(proxies))  # type: ignore[method-assign]
    app.config.from_mapping(
        SECRET_KEY=environ["SIDECAR_SECRET_KEY"],
        SQLALCHEMY_DATABASE_URI=environ["SIDECAR_DATABASE_URL"],
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=environ.get("HUBHOOKS_EXTERNAL_URL", "").startswith("https:"),
        HUBHOOKS_LAYOUT="sidecar.html",
    )
    app.config.update({name: _json_or_text(value) for name, value in environ.items() if name.startswith("HUBHOOKS_")})
    db = SQLAlchemy(app)
    hubhooks = HubHooks(db)

    def may_write(user: str, scope: str) -> bool:
        """Whether the repository, or the pattern such as `alice/*`, is the user's."""
        return user in admins or scope.startswith(f"{user}/")

    @hubhooks.authorizer
    @hubhooks.namespace_authorizer
    def authorize(action: str, scope: str) -> str | None:
        """Only those who may write may read: we do not know who may pull a repository, whose tags the history shows."""
        user = users.signed_in()
        return user if may_write(user, scope) else None

    app.register_blueprint(hubhooks)
    auth = app.config.get("HUBHOOKS_REGISTRY_AUTH")
    registry = Registry(app.config["HUBHOOKS_REGISTRY_URL"], auth, app.config.get("HUBHOOKS_CA_BUNDLE"))

    @hubhooks.repository_loader
    def load(name: str) -> Repository | None:
        # Do not ask the registry about its own events: it sends them before it shows a new repository.
        is_event = has_request_context() and request.path.startswith("/hubhooks/sources/")
        return Repository(is_private=bool(auth)) if is_event or registry.has(name) else None

    @app.get("/")
    def show_repositories() -> tuple[str, int]:
        user = users.signed_in()
        known = {"namespace": user if NAME.fullmatch(user) else "", "is_admin": user in admins}
        try:
            names = sorted(name for name in registry.names() if may_write(user, name))
        except requests.RequestException as error:
            logger.error("the registry did not list its repositories: %s", error)
            return render_template("repositories.html", fault=True, **known), 502
        return render_template("repositories.html", names=names, **known), 200

    @app.after_request
    def protect(response: Response) -> Response:
        if response.mimetype == "text/html":
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            response.headers["Cache-Control"] = "no-store"
        return response

    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            with db.engine.connect() as connection, suppress(OperationalError):  # another process is doing it
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")  # lets us read while another process writes
        with db.engine.begin() as connection:
            connection.execute(text(TABLES_LOCK[connection.dialect.name]))
            db.metadata.create_all(connection)
        db.engine.dispose()  # processes cannot share connections, and gunicorn's --preload forks later
    return app


class Users:
    """The users of an htpasswd file with bcrypt hashes, which is read again when it has changed.

    Browsers and API clients send name and password with each request, by HTTP basic authentication, as clients of the
    registry do. There is no session to steal, and a user who is removed from the file is out at once.

    Browsers also send the password when another site makes them send a request. HubHooks refuses such requests: forms
    need its CSRF token, and other requests must come from its own pages or be JSON.
    """

    def __init__(self, path: str) -> None:
        """Raises `ConfigError` if the file cannot be read."""
        self._path = Path(path)
        self._version: object = None
        self._hashes: dict[str, bytes] = {}
        self._wrong: dict[str, list[float]] = {}
        """When each address sent wrong passwords, in seconds."""
        self._lock = Lock()
        try:
            self._read_if_changed()
        except OSError as error:
            raise ConfigError(f"SIDECAR_HTPASSWD: {path} cannot be read: {error.strerror}.") from None

    def signed_in(self) -> str:
        """The user who sent the request. Raises 401 unless the password is right, and 429 after too many wrong ones."""
        if "user" not in g:  # we are asked several times in a request, and checking a password takes time
            given = request.authorization
            if given is None or given.type != "basic":
                raise _sign_in_first()
            g.user = self._check(given.username or "", given.password or "", request.remote_addr or "")
        return str(g.user)

    def _check(self, name: str, password: str, address: str) -> str:
        with self._lock:
            now = monotonic()
            recent = {each: [time for time in times if now - time < WINDOW_S] for each, times in self._wrong.items()}
            self._wrong = {each: times for each, times in recent.items() if times}
            if len(self._wrong.get(address, ())) >= MAX_WRONG:
                raise TooManyRequests("There were too many wrong passwords. Wait a minute.", retry_after=WINDOW_S)
            try:
                self._read_if_changed()
            except OSError as error:
                logger.error("%s cannot be read, so its users stay as they were: %s", self._path, error.strerror)
            hashes = self._hashes
        # An unknown name takes as long as a wrong password, so that nobody learns which names there are.
        hashed = hashes.get(name) or next(iter(hashes.values()), None)
        # bcrypt ignores what follows 72 bytes; its library refuses longer passwords.
        is_right = hashed is not None and bcrypt.checkpw(password.encode()[:72], hashed)
        if is_right and name in hashes:
            return name
        with self._lock:
            self._wrong.setdefault(address, []).append(now)
        raise _sign_in_first()

    def _read_if_changed(self) -> None:
        """Log which lines are ignored, by their numbers: what they hold is secret."""
        status = self._path.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        if version == self._version:
            return
        hashes: dict[str, bytes] = {}
        for number, line in enumerate(self._path.read_text("utf-8", "replace").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            user = HTPASSWD_LINE.fullmatch(line.strip())
            if user is None:
                fault = "it is not a name and a bcrypt hash of cost 4 to 14, as htpasswd -B writes them"
            elif user[1] in hashes:
                fault = "an earlier line has the same name"
            else:
                hashes[user[1]] = user[2].encode()
                continue
            logger.error("line %d of %s is ignored: %s", number, self._path, fault)
        if not hashes:
            logger.error("nobody can sign in: %s has no users", self._path)
        self._hashes, self._version = hashes, version


def _sign_in_first() -> Unauthorized:
    challenge = WWWAuthenticate("basic", {"realm": "Webhooks of the registry", "charset": "UTF-8"})
    return Unauthorized("Sign in with a name and a password of the registry.", www_authenticate=challenge)


class Registry:
    """Asks the registry which repositories it has. Raises `requests.RequestException` if it does not say.

    `auth` is `user:password`. Registries that want a token of a token server do not say.
    """

    def __init__(self, url: str, auth: str | None, ca_bundle: str | None) -> None:
        self._url = url.rstrip("/")
        self._auth = HTTPBasicAuth(*auth.encode().split(b":", 1)) if auth else None
        self._verify = ca_bundle or True

    def has(self, name: str) -> bool:
        """Whether there is such a repository."""
        if not NAME.fullmatch(name):
            return False
        response = self._get(f"/v2/{name}/tags/list?n=1")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return False
        response.raise_for_status()
        return True

    def names(self) -> Iterator[str]:
        """The names of all repositories, page by page."""
        path = "/v2/_catalog"
        while path:
            response = self._get(path)
            response.raise_for_status()
            yield from response.json().get("repositories") or ()
            # Behind a proxy, host and path of the link may be wrong.
            query = urlsplit(response.links.get("next", {}).get("url", "")).query
            path = f"/v2/_catalog?{query}" if query else ""

    def _get(self, path: str) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False  # ignores proxies of the environment, and passwords in .netrc
            return session.get(
                self._url + path, auth=self._auth, timeout=TIMEOUT_S, verify=self._verify, allow_redirects=False
            )


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value
