"""What the database knows of a repository; its content is in files."""

from __future__ import annotations

import time

from sqlalchemy import String, Text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from example_app.database import Base, db


class Repository(Base):
    """A repository that something was pushed to."""

    __tablename__ = "repositories"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    description: Mapped[str] = mapped_column(String(255), default="")
    full_description: Mapped[str] = mapped_column(Text, default="")
    star_count: Mapped[int] = mapped_column(default=0)
    is_private: Mapped[bool] = mapped_column(default=False)
    # Unix time: an integer is the same on every database, a datetime is not.
    created: Mapped[int] = mapped_column(default=lambda: int(time.time()))


def find(name: str) -> Repository | None:
    """The repository called `name`, or None."""
    return db.session.get(Repository, name)


def ensure(name: str) -> None:
    """Make the repository's row if it has none, and commit, which leaves no transaction open."""
    if find(name) is None:
        db.session.add(Repository(name=name))
    try:
        db.session.commit()
    except IntegrityError:  # another push made it just now
        db.session.rollback()
