"""CloudEvents 1.0 over HTTP, in binary and in structured mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .events import BadEvent, json_object, text_at


@dataclass(frozen=True)
class CloudEvent:
    attributes: Mapping[str, Any]
    """`id`, `type`, `time` and others, by their names in lower case."""
    data: Any

    @property
    def type(self) -> str:
        return text_at(self.attributes, "type")


def cloud_event(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """Read an event whose attributes are in headers, or in the body beside its data. Raises `BadEvent`."""
    content = json_object(body)
    if "ce-type" in headers:
        return CloudEvent({name[3:]: value for name, value in headers.items() if name.startswith("ce-")}, content)
    if "specversion" in content and text_at(content, "type"):
        return CloudEvent(content, content.get("data"))
    raise BadEvent("This is not a CloudEvent: neither the headers nor the body have its attributes.")
