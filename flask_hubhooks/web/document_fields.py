"""The fields of the API's JSON documents, and whom a document is made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from operator import attrgetter
from typing import Any, ClassVar, cast

from marshmallow import Schema, fields

from ..records.credentials import headers_of
from ..records.models import Webhook
from ..state import State
from ..transport.hook_url import origin
from .schemas import HTTP_URL

JSONSchema = dict[str, Any]
Read = Callable[[Any], Any]
"""Takes the value of which a document is made, and returns that of one field."""


@dataclass(frozen=True)
class Viewer:
    """The user a document is made for: readers see outcomes, writers see exchanges."""

    state: State
    scope: str
    may_write: bool

    def of(self, scope: str) -> Viewer:
        """Return the viewer of webhooks of a scope: of inherited ones everybody sees what readers see."""
        return self if scope == self.scope else replace(self, may_write=False)

    def document(self, schema: Document, value: Any) -> Any:
        """Serialize a value, leaving out what this user may not see."""
        with self.looking():
            return schema.dump(value)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Make documents for this user."""
        former = _viewer.set(self)
        try:
            yield
        finally:
            _viewer.reset(former)


_viewer: ContextVar[Viewer] = ContextVar("hubhooks_viewer")


def viewer() -> Viewer:
    """The user that the present document is made for."""
    return _viewer.get()


class Document(Schema):
    """A JSON object with all of its fields, and no others."""

    prefix: ClassVar[str] = ""
    """Comes before the names of the attributes that fields without `read` show."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._readers = [(name, field.reader()) for name, field in self.fields.items()]  # type: ignore[attr-defined]

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """Serialize a value. marshmallow's own `dump` would make a page of 100 deliveries a third slower."""
        if self.many if many is None else many:
            return [self.dump(each, many=False) for each in obj]
        return {name: read(obj) for name, read in self._readers}


class Field(fields.Field[Any]):
    """A field of a document: always present, and null only where `null` says so."""

    json_schema: ClassVar[JSONSchema] = {}

    def __init__(self, description: str = "", *, read: str | Read = "", null: bool = False, **more: Any) -> None:
        described = {"description": description} if description else {}
        super().__init__(allow_none=null, metadata=self.json_schema | described | more)
        self.source = read

    def reader(self) -> Read:
        """Return the function that takes what the document shows and returns this field in JSON."""
        return _reader(self, self.source)


def _reader(field: fields.Field[Any], source: str | Read) -> Read:
    if callable(source):
        return source
    return attrgetter(source or f"{cast(Document, field.parent).prefix}{field.name}")


class Text(Field):
    json_schema: ClassVar = {"type": "string"}


class Flag(Field):
    json_schema: ClassVar = {"type": "boolean"}


class Count(Field):
    json_schema: ClassVar = {"type": "integer", "minimum": 0}


class Number(Field):
    """A number from 1, such as an id."""

    json_schema: ClassVar = {"type": "integer", "minimum": 1}


class Link(Field):
    json_schema: ClassVar = {"type": "string", "format": "uri"}


class List(Field):
    """A list of JSON values; `items` is their schema."""

    json_schema: ClassVar = {"type": "array"}


class Choice(Field):
    """One of several words. A member of an enumeration is shown as its value."""

    json_schema: ClassVar = {"type": "string"}

    def __init__(self, words: Sequence[str], description: str = "", *, null: bool = False, **more: Any) -> None:
        super().__init__(description, null=null, enum=[*words, None] if null else [*words], **more)

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: word.value if isinstance(word := read(value), Enum) else word


class Time(Field):
    """A time in RFC 3339, in UTC."""

    json_schema: ClassVar = {"type": "string", "format": "date-time"}

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: time(read(value))


def time(value: datetime | None) -> str | None:
    """Format a time as RFC 3339 in UTC."""
    return value.isoformat().replace("+00:00", "Z") if value else None


class UUID(Field):
    json_schema: ClassVar = {"type": "string", "format": "uuid"}

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: str(read(value))


class HookURL(Field):
    """A hook URL. Readers see its origin only, since receivers put credentials into paths and queries."""

    json_schema: ClassVar = {
        "type": "string",
        "pattern": HTTP_URL,
        "description": "Users without write access see `https://host[:port]/…`.",
    }

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: read(value) if _viewer.get().may_write else f"{origin(read(value))}/…"


class WritersField(Field):
    """A field that is null for users without write access."""

    def reader(self) -> Read:
        read = super().reader()
        return lambda value: read(value) if _viewer.get().may_write else None


class WritersText(WritersField, Text):
    """Text that is null for users without write access."""


class WritersList(WritersField, List):
    """A list that is null for users without write access."""


class Inherited(Flag):
    """Whether a webhook belongs to a namespace of the repository it is shown for, or to the registry."""

    def reader(self) -> Read:
        return lambda webhook: webhook.scope != _viewer.get().scope


class HeaderNames(Field):
    """The names of a webhook's request headers, each with null for its value."""

    json_schema: ClassVar = {
        "type": "object",
        "additionalProperties": {"type": "null"},
        "description": "The names of the request headers; null without write access, and if they cannot be decrypted.",
    }

    def reader(self) -> Read:
        def read(webhook: Webhook) -> dict[str, None] | None:
            viewer = _viewer.get()
            headers = headers_of(viewer.state.secrets, webhook) if viewer.may_write else None
            return None if headers is None else dict.fromkeys(headers)

        return read


class Nested(fields.Nested):
    """Another document, or a list of documents."""

    def __init__(
        self,
        schema: type[Document],
        description: str = "",
        *,
        read: str | Read = "",
        many: bool = False,
        null: bool = False,
        writers_only: bool = False,
    ) -> None:
        metadata = {"description": description} if description else {}
        super().__init__(schema, many=many, allow_none=null, metadata=metadata)
        self.source = read
        self.writers_only = writers_only

    def reader(self) -> Read:
        read, dump = _reader(self, self.source), self.schema.dump

        def read_nested(value: Any) -> Any:
            nested = None if self.writers_only and not _viewer.get().may_write else read(value)
            return None if nested is None else dump(nested)

        return read_nested
