"""The registry's app: workers deliver for it, a web server takes its callbacks, and the harness pushes to it.

It is configured by FLASK_SQLALCHEMY_DATABASE_URI, FLASK_HUBHOOKS_REDIS_URL and FLASK_HUBHOOKS_EXTERNAL_URL;
CHAOS_WORKER is what a worker calls itself.
"""

from __future__ import annotations

import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_hubhooks import HubHooks

from .pace import quicken

db = SQLAlchemy()
hubhooks = HubHooks(db)


@hubhooks.authorizer
def authorize(action: str, repository: str) -> str:
    return "chaos"


def create_app() -> Flask:
    """The app; it does not touch the database, which may be away just now."""
    quicken(os.environ.get("CHAOS_WORKER", ""))
    app = Flask(__name__)
    app.config.update(SECRET_KEY="a secret key of chaos", HUBHOOKS_ALLOWED_NETWORKS=["127.0.0.0/8"])
    app.config.from_prefixed_env()
    db.init_app(app)
    app.register_blueprint(hubhooks)
    return app
