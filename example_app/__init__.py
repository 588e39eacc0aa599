"""A small real container registry with webhooks and pages, in one Flask app.

export FLASK_SECRET_KEY=… FLASK_HUBHOOKS_EXTERNAL_URL=http://localhost:5000
flask --app example_app run
flask --app example_app hubhooks worker
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from flask_wtf import CSRFProtect

from example_app.api import api
from example_app.database import create_tables, db, prepare_sqlite
from example_app.pages import pages
from example_app.registry import registry
from example_app.webhooks import hubhooks


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The app, configured from `FLASK_…` environment variables and then from `config`.

    Files and a SQLite database go below the instance folder unless `REGISTRY_ROOT` and
    `SQLALCHEMY_DATABASE_URI` say otherwise. There is no default for `SECRET_KEY`: what signs the callback
    URLs must be secret.
    """
    app = Flask(__name__)
    app.config["HUBHOOKS_LAYOUT"] = "base.html"
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///registry.db"
    app.config["REGISTRY_ROOT"] = str(Path(app.instance_path) / "registry")
    app.config.from_prefixed_env()
    app.config.from_mapping(config or {})
    app.config["SESSION_COOKIE_SECURE"] = str(app.config.get("HUBHOOKS_EXTERNAL_URL")).startswith("https:")
    db.init_app(app)
    app.register_blueprint(registry)
    app.register_blueprint(pages)
    app.register_blueprint(api)
    app.register_blueprint(hubhooks)
    csrf = CSRFProtect(app)
    for blueprint in (registry, api):  # their clients are no browsers, and they know nobody by the session
        csrf.exempt(blueprint)
    with app.app_context():
        prepare_sqlite()
        create_tables()
    return app
