"""Deleting and renaming a repository: its row, its files and its webhooks change together or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import CursorResult, Delete, Update, update
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError

from example_app.database import db
from example_app.errors import RegistryError
from example_app.models import Repository
from example_app.registry import files_of
from example_app.webhooks import hubhooks
from flask_hubhooks import RepositoryHasWebhooks


class NameTaken(Exception):
    """The new name belongs to another repository, or webhooks are left from one that had it."""


def delete(name: str) -> None:
    """Delete a repository with its content and webhooks; RegistryError if it does not exist."""
    files = files_of(name)
    with _rollback_on_error():
        _change_row(name, delete_from(Repository))
        with files.set_aside():
            hubhooks.repository_deleted(name)  # last before the commit: it locks rows that workers wait for
            db.session.commit()


def rename(old: str, new: str) -> None:
    """Rename a repository; NameTaken, or RegistryError if it does not exist or `new` cannot be a name."""
    files, new_files = files_of(old), files_of(new)
    with _rollback_on_error():
        try:
            _change_row(old, update(Repository).values(name=new))
        except IntegrityError:
            raise NameTaken(f"The name {new} is taken.") from None
        if new == old:
            raise NameTaken(f"The name {new} is taken by this repository itself.")
        with files.moved_to(new_files):
            try:
                hubhooks.repository_renamed(old, new)
            except RepositoryHasWebhooks:
                raise NameTaken(f"The name {new} has webhooks of a former repository.") from None
            db.session.commit()


def _change_row(name: str, statement: Delete | Update) -> None:
    changed = cast(CursorResult[Any], db.session.execute(statement.where(Repository.name == name)))
    if changed.rowcount == 0:
        raise RegistryError("NAME_UNKNOWN", name)


@contextmanager
def _rollback_on_error() -> Iterator[None]:
    try:
        yield
    except BaseException:
        db.session.rollback()
        raise
