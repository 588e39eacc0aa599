"""All that a registry needs to have webhooks."""

from __future__ import annotations

from datetime import datetime, timezone

from example_app import models
from example_app.auth import owner_of, sign_in_first, signed_in
from example_app.database import db
from flask_hubhooks import HubHooks, Repository
from flask_hubhooks.signals import image_pushed

hubhooks = HubHooks(db, push_signal=image_pushed)


@hubhooks.authorizer
def authorize(action: str, repository: str) -> str | None:
    """Only the owner of a repository sees its webhooks and changes them."""
    user = signed_in()
    if user is None:
        raise sign_in_first()
    return user if user == owner_of(repository) else None


@hubhooks.repository_loader
def load(name: str) -> Repository | None:
    """What the payload says of a repository."""
    row = models.find(name)
    if row is None:
        return None
    return Repository(
        description=row.description,
        full_description=row.full_description,
        is_private=row.is_private,
        star_count=row.star_count,
        owner=owner_of(name),
        date_created=datetime.fromtimestamp(row.created, timezone.utc),
    )
