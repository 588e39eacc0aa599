"""The language of the pages: the visitor's if the host has Flask-Babel and we have a catalogue, else English.

`make translations` updates the catalogues with the texts of the templates and of this package: those of `gettext` and
`ngettext`, those that are `marked`, and constant error messages. Messages that contain values stay English: causes and
reasons in the history, why a webhook was disabled, and errors that name a limit, a method or an address.
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
"""The domain of our catalogues, which are separate from the host's."""


def gettext(text: str, /, **values: object) -> Markup:
    """Return the text in the visitor's language as HTML. `%(name)s` stands for a value, which is escaped."""
    return _filled(_catalogue().gettext(text), values)


def ngettext(one: str, many: str, number: int, /, **values: object) -> Markup:
    """Return the text for a number of things, which replaces `%(number)s`."""
    return _filled(_catalogue().ngettext(one, many, number), {"number": number, **values})


def marked(text: str) -> str:
    """Mark a constant that is translated when it is shown."""
    return text


def marked_plural(one: str, many: str) -> tuple[str, str]:
    """Mark a constant for one thing and for many that is translated when it is shown."""
    return one, many


def language() -> str:
    """Return the language of our texts as an HTML `lang`."""
    return str(_catalogue().info().get("language", "en")).replace("_", "-")


def direction() -> str:
    """Return the direction in which the visitor reads, as an HTML `dir`."""
    locale = _locale()
    return str(locale.text_direction) if locale else "ltr"


def _filled(text: str, values: dict[str, object]) -> Markup:
    return escape(text) % values if values else escape(text)


def _catalogue() -> NullTranslations:
    return _loaded(str(_locale() or "en"))


@cache
def _loaded(locale: str) -> NullTranslations:
    """Load the catalogue of a locale such as `zh_Hans_CN` or of its language, or an empty one for English texts."""
    return translation(DOMAIN, FOLDER, [locale], fallback=True)


def _locale() -> Any:
    """Return the Babel locale that the host selects for the visitor; None without Flask-Babel."""
    if "babel" not in current_app.extensions:
        return None
    from flask_babel import get_locale

    return get_locale()
