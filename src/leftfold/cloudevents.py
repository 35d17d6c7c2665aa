"""Recorded events as CloudEvents 1.0, in JSON with all attributes and the data in one document
(*structured mode*), for consumers that publish what happens.
"""

from __future__ import annotations

import inspect
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent
from leftfold.formats import Format, make_format

CONTENT_TYPE = "application/cloudevents+json"
"""The media type of what `cloud_event` returns."""
SPEC_VERSION = "1.0"

Publish = Callable[[bytes, str], Any]
"""Takes a document and its media type; a plain function, or a coroutine function."""

_URI_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_NO_CHARACTERS = "".join(
    f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
)
_DISALLOWED = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NO_CHARACTERS}]")


def cloud_event(event: RecordedEvent[Any], *, source: str, type_prefix: str = "") -> bytes:
    """A recorded event as a CloudEvent in JSON, the same bytes each time.

    `source` is a URI that names this log: it and the id make the event unique. `type_prefix` comes
    before the type; CloudEvents advises a domain name backwards, such as `com.example.bank.`. Data
    that is bytes goes into `data_base64`. Tags, actor, command id and extra metadata stay inside.
    Raises InvalidInput for what a CloudEvent cannot have, such as a control character in the name
    of a stream, and ValueError or TypeError for data that JSON cannot have.
    """
    metadata = event.metadata
    attributes: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": str(event.id),
        "source": _checked_source(source),
        "type": _text("type", f"{type_prefix}{event.type}"),
        "subject": _text("subject", event.stream),
        "time": _rfc3339(event.occurred_at),
        "recordedtime": _rfc3339(event.recorded_at),
        # Integers of CloudEvents have 32 bits, and these may have more.
        "position": str(event.position),
        "streamversion": str(event.version),
        "schemaversion": event.schema_version,
    }
    if metadata.correlation_id is not None:
        attributes["correlationid"] = _text("correlationid", metadata.correlation_id)
    if metadata.causation_id is not None:
        attributes["causationid"] = _text("causationid", metadata.causation_id)
    return msgspec.json.encode(attributes | _data(event.data))


def publishing(publish: Publish, *, source: str, type_prefix: str = "") -> Callable[..., Any]:
    """A `handle` for a Consumer, which gives each event as a CloudEvent to
    `publish(document, content_type)`: a coroutine function where `publish` is one.

    What `publish` raises is tried again, so it raises unless the broker has taken the event. The
    others are as for `cloud_event`. Raises InvalidInput.
    """
    _checked_source(source)
    _text("type_prefix", type_prefix)
    if not callable(publish):
        raise InvalidInput(f"publish is a function of a document and its type, found {publish!r}")

    def plainly(event: RecordedEvent[Any]) -> Any:
        return publish(cloud_event(event, source=source, type_prefix=type_prefix), CONTENT_TYPE)

    async def awaiting(event: RecordedEvent[Any]) -> None:
        await plainly(event)

    return awaiting if _is_async(publish) else plainly


def _is_async(publish: Publish) -> bool:
    call = type(publish).__call__
    return inspect.iscoroutinefunction(publish) or inspect.iscoroutinefunction(call)


def _data(data: Any) -> dict[str, Any]:
    if isinstance(data, bytes):
        encoded = b64encode(data).decode()
        return {"datacontenttype": "application/octet-stream", "data_base64": encoded}
    return {
        "datacontenttype": "application/json",
        "data": msgspec.Raw(_format(data.__class__).encode(data)),
    }


@lru_cache(maxsize=1_000)
def _format(cls: type) -> Format:
    """As a codec writes objects of this class in JSON."""
    return make_format(cls, "json")


def _rfc3339(moment: datetime) -> str:
    return f"{moment.replace(tzinfo=None).isoformat()}Z"


def _checked_source(source: object) -> str:
    if not isinstance(source, str) or not _URI_REFERENCE.fullmatch(source):
        raise InvalidInput(
            f"source is a URI that names where events come from, such as urn:example:bank, found "
            f"{source!r}"
        )
    return source


def _text(what: str, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"{what} is a str, found {text!r}")
    if found := _DISALLOWED.search(text):
        raise InvalidInput(
            f"{what} of a CloudEvent has no control characters, found {found[0]!r} in {text!r}"
        )
    return text
