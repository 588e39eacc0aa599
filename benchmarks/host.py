"""The app that is measured, with the extension, and with the table that the rivals' jobs use."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from flask_hubhooks import HubHooks, Repository
from flask_hubhooks.crypto.callback_tokens import CallbackTokens
from flask_hubhooks.formats import dockerhub as payload
from flask_hubhooks.signals import image_pushed

SECRET_KEY = "a benchmark's secret key"
EXTERNAL_URL = "https://registry.example.com"
REPOSITORY = Repository(description="An app", full_description="What the app does.\n" * 10, star_count=7)

db = SQLAlchemy()
hubhooks = HubHooks(db, push_signal=image_pushed)


class Notification(db.Model):  # type: ignore[name-defined,misc]
    """What a Flask developer without the extension would store for each webhook request."""

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str]
    body: Mapped[str]
    status: Mapped[str] = mapped_column(default="pending")
    status_code: Mapped[int | None]
    sent_at: Mapped[datetime | None]


@hubhooks.authorizer
def authorize(action: str, repository: str) -> str:
    return "benchmark"


@hubhooks.repository_loader
def load(name: str) -> Repository:
    return REPOSITORY


def create_app(settings: Mapping[str, Any] | None = None) -> Flask:
    """Create the app with these settings, or with those in `FLASK_…` environment variables."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=SECRET_KEY,
        HUBHOOKS_EXTERNAL_URL=EXTERNAL_URL,
        HUBHOOKS_ALLOWED_NETWORKS=["127.0.0.0/8"],
    )
    if settings:
        app.config.update(settings)
    else:
        app.config.from_prefixed_env()
    db.init_app(app)
    app.register_blueprint(hubhooks)
    return app


def example_body(repository: str = "acme/app", tag: str = "latest") -> bytes:
    """The same payload that the engine sends, for the rivals."""
    content: dict[str, Any] = payload.payload(
        external_url=EXTERNAL_URL,
        callback_url=payload.make_callback_url(
            EXTERNAL_URL, repository, CallbackTokens([SECRET_KEY]).make(uuid.uuid4(), 1)
        ),
        repository=repository,
        tag=tag,
        pusher="benchmark",
        pushed_at=datetime.now(timezone.utc),
        details=REPOSITORY.snapshot(),
    )
    return payload.body(content)
