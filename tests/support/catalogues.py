"""The catalogues of the pages' texts: `python -m tests.support.catalogues` brings them up to date with the sources.

Babel's own commands write the day, its version and made-up addresses into a catalogue; ours change only where a text
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po, write_po

import flask_hubhooks
from flask_hubhooks.records.callbacks import NOT_AWAITED
from flask_hubhooks.records.webhooks import NO_FINAL_CALLBACK
from flask_hubhooks.transport.hook_url import ABSOLUTE
from flask_hubhooks.web.pages.translation import DOMAIN, FOLDER

LANGUAGES = {"zh": "zh_Hans"}
"""What the catalogues are written in, by the folder in which gettext looks for a locale's."""
SOURCES = [("templates/**.html", "jinja2"), ("**.py", "python")]
CALLS = {
    "_": None,
    "ngettext": (1, 2),
    "hubhooks_say": None,
    "hubhooks_say_number": (1, 2),
    "marked": None,
    "marked_plural": (1, 2),
    "Problem": (2,),
    "BadHeader": None,
    "BadPattern": None,
    "BadTLS": None,
    "BadTemplate": None,
    "BadURL": None,
}
"""Which calls hold a text, and as which argument where it is not the first."""
ELSEWHERE = (
    ABSOLUTE,
    NOT_AWAITED,
    NO_FINAL_CALLBACK,
    "Enter a value: there is none, or it can no longer be decrypted.",
    "Enter the template of the payload.",
    "Missing data for required field.",
    "Must not contain control characters.",
    "Must not be blank.",
    "Not a valid cursor. Use the one in next or previous.",
    "Not a valid integer.",
    "There is already a webhook with this name.",
    "TLS settings need a hook URL that begins with https://.",
    "A hook URL has a user name and password, which are sent in this header. Remove one of them.",
    "The webhook has an Authorization header. Remove it, or the user name and password.",
    "No user name and password are stored for this scheme, host and port. Write them into the URL, such as "
    "https://user:password@ci.example.com/hook, or remove them.",
    "This webhook has no such hook, or the hook is listed twice.",
)
"""What pages show that no such call holds: messages of marshmallow's, and those of our own in mappings."""

Text = str | tuple[str, str]
"""One text, or those for one thing and for many."""


class Catalogue(Catalog):
    """A language's texts; what stands at the top says nothing of days, tools and people."""

    def _get_mime_headers(self) -> list[tuple[str, str]]:
        return [
            ("Language", str(self.locale_identifier)),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Plural-Forms", self.plural_forms),
        ]


def texts() -> set[Text]:
    """What the pages may show, as the sources have it."""
    refusals = (f"Nothing was sent: {text}." for text in _found({"NotNow": None}))
    return {*ELSEWHERE, *_found(CALLS), *refusals}


def _found(calls: Mapping[str, Any]) -> set[Text]:
    """The texts in these calls, in templates and modules."""
    root = Path(flask_hubhooks.__file__).parent
    return {_text(each[2]) for each in extract_from_dir(root, SOURCES, {"**": {"encoding": "utf-8"}}, calls)}


def path(folder: str) -> Path:
    return FOLDER / folder / "LC_MESSAGES" / f"{DOMAIN}.po"


def stored(folder: str) -> Catalog:
    """A catalogue as it is."""
    with path(folder).open("rb") as file:
        return read_po(file)


def compiled(folder: str) -> Catalog:
    """A catalogue as it is compiled."""
    with path(folder).with_suffix(".mo").open("rb") as file:
        return read_mo(file)


def strings(catalogue: Catalog) -> dict[Text, Text]:
    """The translation of each text; "" where there is none."""
    return {_text(each.id): _text(each.string) for each in catalogue if each.id}


def _text(text: Any) -> Text:
    return text if isinstance(text, str) else tuple(text)


def fresh(folder: str) -> Catalogue:
    """A catalogue of the texts that there are now, with their translations as far as there are some."""
    language = LANGUAGES[folder]
    known = strings(stored(folder)) if path(folder).exists() else {}
    catalogue = Catalogue(language, DOMAIN, header_comment=f"# The texts of flask_hubhooks's pages in {language}.")
    catalogue.fuzzy = False
    for text in texts():
        catalogue.add(text, known.get(text, ""))
    return catalogue


def missing(catalogue: Catalog) -> list[Text]:
    """The texts without a translation."""
    return [text for text, string in strings(catalogue).items() if not (string and all(string))]


def main() -> None:
    for folder in LANGUAGES:
        catalogue = fresh(folder)
        path(folder).parent.mkdir(parents=True, exist_ok=True)
        with path(folder).open("wb") as file:
            write_po(file, catalogue, width=0, no_location=True, sort_output=True)
        with path(folder).with_suffix(".mo").open("wb") as file:
            write_mo(file, catalogue)
        for text in missing(catalogue):
            print(f"{folder}: no translation of {text!r}")


if __name__ == "__main__":
    main()
