"""A host app for processes of their own: `flask --app tests.support.worker_app`, on what the FLASK_ environment names.

The tables are the test's to make.
"""

from __future__ import annotations

import json
import os

from .host import Host

app = Host(
    os.environ["FLASK_SQLALCHEMY_DATABASE_URI"],
    os.environ["FLASK_HUBHOOKS_REDIS_URL"],
    config=json.loads(os.environ.get("HOST_CONFIG", "{}")),
    creates_tables=False,
).app
