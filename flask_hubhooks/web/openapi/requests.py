"""JSON Schemas and parameters from the marshmallow schemas that check what clients send."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_instance
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema, fields

from ...config import Config
from ...crypto.signing import MAX_SECRET_BYTES, MIN_SECRET_BYTES, SECRET_PREFIX
from ...records import request_headers
from ...records.tag_filter import PATTERN, PATTERN_LIMIT
from .. import schemas
from .answers import HTTP_URL, JSONSchema

_PRINTABLE = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"

_BY_VALIDATOR: dict[Any, Callable[[Config], JSONSchema]] = {
    schemas.printable: lambda _: {"pattern": _PRINTABLE},
    schemas.name: lambda config: {"minLength": 1, "maxLength": config.max_name_length, "pattern": _PRINTABLE},
    schemas.hook_url: lambda config: {"pattern": HTTP_URL, "maxLength": config.max_url_length},
    schemas.pattern: lambda _: {"pattern": f"^{PATTERN.pattern}$", "maxLength": PATTERN_LIMIT},
    schemas.secret: lambda _: {
        "pattern": f"^{SECRET_PREFIX}[A-Za-z0-9+/]+=*$",
        "minLength": len(SECRET_PREFIX) + 4 * math.ceil(MIN_SECRET_BYTES / 3),
        "maxLength": len(SECRET_PREFIX) + 4 * math.ceil(MAX_SECRET_BYTES / 3),
    },
    schemas.http_url: lambda _: {"pattern": "^(https?://.+)?$"},
    schemas.page_size: lambda config: {
        "default": min(schemas.PAGE_SIZE, config.max_page_size),
        "minimum": 1,
        "maximum": config.max_page_size,
    },
}
"""What our own validators come to; those of marshmallow are known to apispec."""

_BY_FIELD: dict[type[fields.Field[Any]], JSONSchema] = {
    schemas.Time: {"description": "Without an offset it is UTC."},
    schemas.HeadersField: {
        "description": "Request headers by name; null leaves a value as it is.",
        "propertyNames": {"minLength": 1, "maxLength": request_headers.NAME_LIMIT},
        "additionalProperties": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": request_headers.VALUE_LIMIT,
        },
        "maxProperties": request_headers.HEADERS_LIMIT,
    },
}
"""What our own fields take, beside their types."""


class _Converter(OpenAPIConverter):
    """It also knows our own fields and validators, and what a schema checks as a whole."""

    field_mapping: dict[type, tuple[str | None, str | None]] = {  # noqa: RUF012 - apispec declares it so
        **OpenAPIConverter.field_mapping,
        schemas.Time: ("string", "date-time"),
        schemas.HeadersField: ("object", None),
    }
    config: Config

    def field2property(self, field: fields.Field[Any]) -> JSONSchema:
        content: JSONSchema = super().field2property(field) | _BY_FIELD.get(type(field), {})
        for validator in field.validators:
            if validator in _BY_VALIDATOR:
                content |= _BY_VALIDATOR[validator](self.config)
        if isinstance(field, fields.List) and isinstance(field.inner, fields.Nested):
            content["maxItems"] = self.config.max_hooks
        return content

    def schema2jsonschema(self, schema: Schema) -> JSONSchema:
        instance = resolve_schema_instance(schema)
        about = (type(instance).__doc__ or "").partition("\n")[0]
        return {"description": about, **super().schema2jsonschema(instance), **_as_a_whole(instance)}


class Requests(MarshmallowPlugin):
    """The plugin that turns schemas into what stands in the document, within the limits of a config."""

    Converter = _Converter
    converter: _Converter

    def __init__(self, config: Config) -> None:
        super().__init__(schema_name_resolver=_name)
        self._config = config

    def init_spec(self, spec: APISpec) -> None:
        """Called by the spec that is made with this plugin."""
        super().init_spec(spec)
        self.converter.config = self._config

    def body(self, schema: Schema) -> JSONSchema:
        """A reference to a body's schema, which is put into the components."""
        return dict(self.converter.resolve_nested_schema(schema))

    def query(self, schema: Schema) -> list[JSONSchema]:
        """The parameters of a query."""
        parameters = self.converter.schema2parameters(schema, location="query")
        return [each | {"schema": _without_null(each["schema"])} for each in parameters]


def _as_a_whole(schema: Schema) -> JSONSchema:
    """What the `validates_schema` of a schema comes to."""
    if isinstance(schema, schemas.HookSchema):
        return {"minProperties": 1}
    if isinstance(schema, schemas.WebhookSchema) and "hook_url" in schema.fields:
        return {"not": {"required": ["hook_url", "hooks"]}}
    return {}


def _name(schema: Any) -> str:
    """What a schema is called among the components, beside those of the answers."""
    instance = resolve_schema_instance(schema)
    name = type(instance).__name__.removesuffix("Schema")
    if instance.partial:
        return f"{name}Change"
    return "".join([f"{name}Wanted", *(f"Without{each.title()}" for each in sorted(instance.exclude))])


def _without_null(schema: JSONSchema) -> JSONSchema:
    """The schema of a parameter that may be left out, and is never null."""
    content = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
    if "null" in content.get("type", ()):
        content["type"] = next(each for each in content["type"] if each != "null")
    if "enum" in content:
        content["enum"] = [each for each in content["enum"] if each is not None]
    return content
