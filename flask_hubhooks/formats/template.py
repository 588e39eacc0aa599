"""Owners' own JSON documents, with placeholders such as `{tag}` in their strings.

Placeholders are replaced in the parsed document, so the result is valid JSON whatever the values are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

from .push import PLACEHOLDERS, Push

MAX_TEMPLATE_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_DEPTH = 16
"""Of nested objects and lists."""

_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Not orjson, which encodes the payloads: it refuses integers of more than 64 bits."""
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class BadTemplate(Exception):
    """The text is not a valid template; the message says why."""


class BodyTooLarge(Exception):
    """A filled template is larger than we send."""


class Template:
    """A valid template. Keys are not filled; in other strings `{{` and `}}` stand for braces."""

    def __init__(self, text: str) -> None:
        """Parse and check a text; raises `BadTemplate`."""
        self._content = _parsed(text)
        names = set()

        def note(found: re.Match[str]) -> str:
            if found[0] not in ("{{", "}}"):
                if found[1] is None:
                    raise BadTemplate(f"Must not contain a single {found[0]}. Write {found[0] * 2} instead.")
                if found[1] not in PLACEHOLDERS:
                    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                    raise BadTemplate(f"Unknown placeholder {{{found[1][:50]}}}. Use {known}.")
                names.add(found[1])
            return ""

        _replaced(self._content, note)
        self.has_callback = "callback_url" in names

    def body(self, push: Push) -> bytes:
        """Fill the template with a push and return UTF-8 JSON; raises `BodyTooLarge`."""
        values = push.placeholders() | {"{{": "{", "}}": "}"}
        body = _encoded(_replaced(self._content, lambda found: values[found[1] or found[0]])).encode()
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The filled template has {len(body)} bytes; the limit is {MAX_BODY_BYTES}.")
        return body


cached_template = lru_cache(maxsize=256)(Template)
"""Like `Template`, for workers: they fill the same few templates over and over."""


def _replaced(content: Any, replace: Callable[[re.Match[str]], str]) -> Any:
    """Return a copy of a document with the placeholders in its strings replaced."""
    if isinstance(content, str):
        return _PLACEHOLDER.sub(replace, content)
    if isinstance(content, dict):
        return {key: _replaced(value, replace) for key, value in content.items()}
    if isinstance(content, list):
        return [_replaced(each, replace) for each in content]
    return content


def _parsed(text: str) -> Any:
    """Parse JSON within our limits that can be written as JSON again; raises `BadTemplate`."""
    too_deep = f"Must not nest objects and lists more than {MAX_DEPTH} deep."
    try:
        if len(text.encode()) > MAX_TEMPLATE_BYTES:
            raise BadTemplate(f"Must be at most {MAX_TEMPLATE_BYTES} bytes.")
        content = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
        if _depth(content) > MAX_DEPTH:
            raise BadTemplate(too_deep)
        _encoded(content).encode()
    except RecursionError:
        raise BadTemplate(too_deep) from None
    except UnicodeEncodeError:
        raise BadTemplate("Must not contain lone surrogates, which UTF-8 cannot express.") from None
    except json.JSONDecodeError as error:
        raise BadTemplate(f"Must be valid JSON ({error}).") from None
    except ValueError:
        raise BadTemplate("Must not contain integers of thousands of digits.") from None
    return content


def _depth(content: Any) -> int:
    if not isinstance(content, dict | list):
        return 0
    within = content.values() if isinstance(content, dict) else content
    return 1 + max(map(_depth, within), default=0)


def _finite(digits: str) -> float:
    return number if math.isfinite(number := float(digits)) else _refuse_number(digits)


def _refuse_number(digits: str) -> NoReturn:
    raise BadTemplate(f"Must not contain numbers that JSON cannot express: {digits[:50]}.")
