"""A host app for worker processes: `flask --app tests.worker_app`, on what the FLASK_ environment names."""

from __future__ import annotations

import os

from .host import Host

app = Host(os.environ["FLASK_SQLALCHEMY_DATABASE_URI"], os.environ["FLASK_HUBHOOKS_REDIS_URL"]).app
