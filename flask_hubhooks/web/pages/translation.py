"""The language of the pages: English, or the visitor's where the host has Flask-Babel and we have a catalogue."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from flask import current_app
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent.parent.parent / "translations"


def gettext(text: str, **values: object) -> Markup:
    """The text in the visitor's language, as HTML; `%(name)s` stands for a value, which is escaped."""
    return _filled(_catalogue().ugettext(text) if _is_translated() else text, values)


def ngettext(one: str, many: str, number: int, **values: object) -> Markup:
    """The text for a number of things, which stands for `%(number)s`."""
    fallback = one if number == 1 else many
    text = _catalogue().ungettext(one, many, number) if _is_translated() else fallback
    return _filled(text, {"number": number, **values})


def language() -> str:
    """The language of our texts, as HTML names it."""
    if not _is_translated():
        return "en"
    from flask_babel import get_locale

    locale = get_locale()
    return str(locale).replace("_", "-") if (FOLDER / locale.language).is_dir() else "en"


def direction() -> str:
    """The direction in which the visitor reads a page."""
    if not _is_translated():
        return "ltr"
    from flask_babel import get_locale

    return str(get_locale().text_direction)


def _filled(text: str, values: dict[str, object]) -> Markup:
    return escape(text) % values if values else escape(text)


def _is_translated() -> bool:
    return "babel" in current_app.extensions


def _catalogue() -> Any:
    return _domain().get_translations()


@cache
def _domain() -> Any:
    from flask_babel import Domain

    return Domain([str(FOLDER)], "hubhooks")
