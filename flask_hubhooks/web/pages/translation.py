"""The language of the pages: English, or the visitor's where the host has Flask-Babel and we have a catalogue.

`make translations` brings the catalogues up to date with the texts of the templates and of this package: those of
`gettext` and `ngettext`, those that are `marked`, and what errors say where it is a constant. What is put together with
values elsewhere stays English: causes and reasons in the history, why a webhook was disabled, and errors that name a
limit, a method or an address.
"""

from __future__ import annotations

from functools import cache
from gettext import NullTranslations, translation
from pathlib import Path
from typing import Any

from flask import current_app
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent.parent.parent / "translations"
DOMAIN = "hubhooks"
"""The name of our catalogues; they are not among the host's."""


def gettext(text: str, /, **values: object) -> Markup:
    """The text in the visitor's language, as HTML; `%(name)s` stands for a value, which is escaped."""
    return _filled(_catalogue().gettext(text), values)


def ngettext(one: str, many: str, number: int, /, **values: object) -> Markup:
    """The text for a number of things, which stands for `%(number)s`."""
    return _filled(_catalogue().ngettext(one, many, number), {"number": number, **values})


def marked(text: str) -> str:
    """A constant that is translated where it is shown."""
    return text


def marked_plural(one: str, many: str) -> tuple[str, str]:
    """A constant for one thing and for many that is translated where it is shown."""
    return one, many


def language() -> str:
    """The language of our texts, as HTML names it: the catalogue's, or English."""
    return str(_catalogue().info().get("language", "en")).replace("_", "-")


def direction() -> str:
    """The direction in which the visitor reads a page."""
    locale = _locale()
    return str(locale.text_direction) if locale else "ltr"


def _filled(text: str, values: dict[str, object]) -> Markup:
    return escape(text) % values if values else escape(text)


def _catalogue() -> NullTranslations:
    return _loaded(str(_locale() or "en"))


@cache
def _loaded(locale: str) -> NullTranslations:
    """The catalogue of a locale such as `zh_Hans_CN`, else of its language; an empty one where we have neither."""
    return translation(DOMAIN, FOLDER, [locale], fallback=True)


def _locale() -> Any:
    """The visitor's Babel locale, as the host selects it; None in a host without Flask-Babel."""
    if "babel" not in current_app.extensions:
        return None
    from flask_babel import get_locale

    return get_locale()
