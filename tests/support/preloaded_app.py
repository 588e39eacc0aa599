"""A host app that uses its database while it is made, as before Gunicorn forks its workers with `--preload`."""

from __future__ import annotations

import json
import os

from sqlalchemy import text

from flask_hubhooks import ImagePush

from .host import Host

host = Host(
    os.environ["FLASK_SQLALCHEMY_DATABASE_URI"],
    os.environ["FLASK_HUBHOOKS_REDIS_URL"],
    config=json.loads(os.environ.get("HOST_CONFIG", "{}")),
    creates_tables=False,
)
app = host.app

with app.app_context():
    host.db.session.execute(text("SELECT 1"))
    host.hubhooks.push(ImagePush("acme/app", "before-fork"))


@app.post("/push/<tag>")
def push(tag: str) -> str:
    host.db.session.execute(text("SELECT 1"))
    host.hubhooks.push(ImagePush("acme/app", tag))
    return "pushed"
