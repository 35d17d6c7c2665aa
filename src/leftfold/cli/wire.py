"""An event as a line of JSON: what `export` and `read --json` write, and `import` reads."""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from leftfold.cli.times import iso
from leftfold.errors import InvalidInput
from leftfold.event import NO_METADATA, Event, Metadata, RecordedEvent
from leftfold.formats import decode_plain, is_msgpack


class Line(Struct, frozen=True):
    """A recorded event. `data` is there where the stored bytes are JSON on one line, else
    `data_base64`: either way the very bytes come back.
    """

    position: int
    stream: str
    version: int
    type: str
    schema_version: int
    id: UUID
    recorded_at: str
    occurred_at: str
    tags: tuple[str, ...]
    metadata: Metadata
    data: Raw | UnsetType = UNSET
    data_base64: str | UnsetType = UNSET


def to_line(event: RecordedEvent[bytes]) -> Line:
    """The line of a recorded event."""
    is_json = is_json_line(event.data)
    return Line(
        event.position,
        event.stream,
        event.version,
        event.type,
        event.schema_version,
        event.id,
        iso(event.recorded_us),
        iso(event.recorded_us if event.occurred_us is None else event.occurred_us),
        event.tags,
        event.metadata,
        Raw(event.data) if is_json else UNSET,
        UNSET if is_json else b64encode(event.data).decode(),
    )


def is_json_line(data: bytes) -> bool:
    """Whether the bytes can stand in a line of JSON as they are."""
    # Blanks around a value would not come back.
    if b"\n" in data or b"\r" in data or data.strip() != data:
        return False
    try:
        msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return False
    return True


def data_text(data: bytes) -> str:
    """Data for people: JSON, also where it is stored as msgpack; else base64."""
    try:
        plain = decode_plain(data)
        if not is_msgpack(data):
            return data.decode()
        # Any single byte above is a number in msgpack; but events are objects, or arrays.
        if isinstance(plain, dict | list):
            return msgspec.json.encode(plain).decode()
    except (ValueError, TypeError, RecursionError):
        pass
    return b64encode(data).decode()


class GivenMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata in a line to import."""

    correlation_id: str | None = None
    causation_id: str | None = None
    command_id: str | None = None
    actor: str | None = None
    extra: dict[str, Any] = {}

    @property
    def metadata(self) -> Metadata:
        """As a value of an event."""
        found = Metadata(
            self.correlation_id, self.causation_id, self.command_id, self.actor, self.extra
        )
        return NO_METADATA if found == NO_METADATA else found


class GivenLine(Struct, frozen=True, forbid_unknown_fields=True):
    """A line to import: what `export` writes, or only stream, type and data.

    Position, version and the time of recording are the new store's own to give.
    """

    stream: str
    type: str
    data: Raw | UnsetType = UNSET
    data_base64: str | UnsetType = UNSET
    id: str | None = None
    schema_version: int | None = None
    occurred_at: datetime | None = None
    tags: tuple[str, ...] = ()
    metadata: GivenMetadata = GivenMetadata()
    position: int | None = None
    version: int | None = None
    recorded_at: str | None = None

    def event(self, id: UUID) -> Event[bytes]:
        """The event to append. Raises InvalidInput."""
        return Event(
            self.stream,
            self._data(),
            type=self.type,
            tags=self.tags,
            id=id,
            metadata=self.metadata.metadata,
            schema_version=self.schema_version or 1,
            occurred_at=self.occurred_at,
        )

    def _data(self) -> bytes:
        given: Sequence[object] = [self.data, self.data_base64]
        if given.count(UNSET) != 1:
            raise InvalidInput("a line has either data or data_base64")
        if isinstance(self.data, Raw):
            return bytes(self.data)
        try:
            return binascii.a2b_base64(str(self.data_base64), strict_mode=True)
        except ValueError as error:
            raise InvalidInput(f"data_base64 is not base64: {error}") from None


_decode = msgspec.json.Decoder(GivenLine).decode


def from_line(text: str) -> GivenLine:
    """A line to import. Raises InvalidInput, which says what is wrong with it."""
    try:
        return _decode(text)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {error}") from None
