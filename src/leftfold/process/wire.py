"""How processes are kept in the log, beside the events of the App's own codec. Without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from leftfold.codec import Codec, EventCodec, EventType
from leftfold.errors import UndecodableEvent
from leftfold.event import Event, Metadata, RecordedEvent, derived_id, pack_metadata
from leftfold.event import record as recorded_of
from leftfold.formats import is_msgpack
from leftfold.process import events as log
from leftfold.process.rules import Rules
from leftfold.query import Query

_PREFIX = "process."


class StoredEvent(Struct, frozen=True, omit_defaults=True):
    """What came in, as it is kept: as JSON where that is what it was, otherwise packed."""

    stream: str
    type: str
    id: UUID
    position: int = 0
    version: int = 0
    schema_version: int = 1
    recorded_us: int = 0
    occurred_us: int | None = None
    tags: tuple[str, ...] = ()
    metadata: Metadata = Metadata()
    data: msgspec.Raw = msgspec.Raw(b"null")
    packed: bytes = b""


class _StoredReacted(Struct, frozen=True):
    event: StoredEvent


class _StoredHeld(Struct, frozen=True):
    event: StoredEvent


_STORED: dict[type[log.CameIn], type] = {log.Reacted: _StoredReacted, log.Held: _StoredHeld}
_MEANT: dict[type, type[log.CameIn]] = {stored: meant for meant, stored in _STORED.items()}
_OWN = Codec(
    *(EventType(each, log.type_name(each)) for each in log.PLAIN),
    *(EventType(stored, log.type_name(meant)) for meant, stored in _STORED.items()),
)

_COMMANDS: WeakKeyDictionary[Rules[Any], Codec] = WeakKeyDictionary()


def commands_of(rules: Rules[Any]) -> Codec:
    """The codec of the commands that a process sends."""
    found = _COMMANDS.get(rules)
    if found is None:
        given = rules.commands
        found = _COMMANDS[rules] = given if isinstance(given, Codec) else Codec(*given)
    return found


def pack_work(to: str, id: str | None, encoded: Event[bytes]) -> log.Work:
    """A command that was encoded, to be kept."""
    return log.Work(to, id, encoded.type, encoded.schema_version, msgspec.Raw(encoded.data))


def unpack_command(rules: Rules[Any], work: log.Work) -> Any:
    """The command that was kept. Raises UnknownEventType, UndecodableEvent."""
    data = bytes(work.command)
    event = Event("command", data, type=work.type, schema_version=work.version)
    [decoded] = commands_of(rules).decode(recorded_of(event, 1, 1, 0))
    return decoded.data


def command_id(stream: str, sent: log.StepSent) -> str:
    """Of the command of a step: one that was rejected is another command when it is repaired."""
    return f"{stream}:{sent.step}" + (f":{sent.attempt}" if sent.attempt > 1 else "")


def first_id(stream: str, sent: log.StepSent) -> UUID:
    """The id of the first event that the command of a step comes to, or of its rejection."""
    return derived_id(f"{sent.work.to}-{sent.work.id}", command_id(stream, sent), 0)


def is_own_type(name: str) -> bool:
    """Whether a type is one of what is recorded of processes."""
    return name.startswith(_PREFIX)


class ProcessCodec:
    """The codec of an App with processes: their events, and what its own codec knows."""

    def __init__(self, codec: EventCodec) -> None:
        self._codec = codec

    @property
    def fingerprint(self) -> str:
        return self._codec.fingerprint

    def encode(self, event: Event[Any]) -> Event[bytes]:
        """The stored form of an event. Raises InvalidEvent."""
        data = event.data
        if isinstance(data, log.WITH_EVENTS):
            stored = _STORED[type(data)](self._stored(data))
            return _OWN.encode(replace(event, data=stored))
        if isinstance(data, log.PLAIN):
            return _OWN.encode(event)
        return self._codec.encode(event)

    def read_back(self, encoded: Event[bytes]) -> Any:
        """The domain object that the log will give back for what `encode` has made."""
        if not is_own_type(encoded.type):
            return self._codec.read_back(encoded)
        return self._meant(_OWN.read_back(encoded))

    def decode_page(self, page: Sequence[RecordedEvent[bytes]]) -> list[RecordedEvent[Any]]:
        """What recorded events mean today, in order. Raises UndecodableEvent, UnknownEventType."""
        if not any(is_own_type(each.type) for each in page):
            return self._codec.decode_page(page)
        decoded: list[RecordedEvent[Any]] = []
        for each in page:
            is_own = is_own_type(each.type)
            found = (_OWN if is_own else self._codec).decode_page([each])
            decoded += [self._whole(one) for one in found]
        return decoded

    def _whole(self, event: RecordedEvent[Any]) -> RecordedEvent[Any]:
        """With what it says came in. What that cannot be turned into, this cannot be either."""
        try:
            return replace(event, data=self._meant(event.data))
        except UndecodableEvent as error:
            # The one that was read is named first: it is the one to be passed over, say.
            raise type(error)(_place(event), f"what came in cannot be had: {error}") from error

    def decode_data(self, page: Sequence[RecordedEvent[bytes]]) -> list[Any] | None:
        """The domain objects alone; None where there may be more or fewer of them."""
        if not any(is_own_type(each.type) for each in page):
            return self._codec.decode_data(page)
        decoded = self.decode_page(page)
        return [each.data for each in decoded] if len(decoded) == len(page) else None

    def resolve(self, query: Query) -> Query:
        """The query with classes replaced by stored names. Raises InvalidInput."""
        items = [replace(item, types=tuple(map(_name, item.types))) for item in query.items]
        return self._codec.resolve(Query(tuple(items)))

    def residual(self, query: Query) -> Query | None:
        """What is left to check of decoded events."""
        items = [replace(item, types=tuple(map(_name, item.types))) for item in query.items]
        return self._codec.residual(Query(tuple(items)))

    def _stored(self, came_in: log.CameIn) -> StoredEvent:
        event, version = came_in.event, came_in.event.schema_version
        given = Event(event.stream, event.data, type=event.type, schema_version=version)
        # What is no longer one event stays as it is stored.
        encoded = self.encode(given) if came_in.today is None else given
        is_packed = is_msgpack(encoded.data)
        return StoredEvent(
            event.stream,
            encoded.type,
            event.id,
            position=event.position,
            version=event.version,
            schema_version=encoded.schema_version,
            recorded_us=event.recorded_us,
            occurred_us=event.occurred_us,
            tags=event.tags,
            metadata=event.metadata,
            data=msgspec.Raw(b"null" if is_packed else encoded.data),
            packed=encoded.data if is_packed else b"",
        )

    def _meant(self, data: Any) -> Any:
        kind = _MEANT.get(type(data))
        return data if kind is None else self._came_in(kind, data.event)

    def _came_in(self, kind: type[log.CameIn], stored: StoredEvent) -> log.CameIn:
        recorded = RecordedEvent(
            stored.position,
            stored.stream,
            stored.version,
            stored.type,
            stored.packed or bytes(stored.data),
            stored.tags,
            stored.schema_version,
            stored.id.bytes,
            stored.recorded_us,
            stored.occurred_us,
            pack_metadata(stored.metadata),
        )
        decoded = self.decode_page([recorded])
        return kind(decoded[0]) if len(decoded) == 1 else kind(recorded, tuple(decoded))


def _place(event: RecordedEvent[Any]) -> tuple[int, str, int, str, int]:
    return event.position, event.stream, event.version, event.type, event.schema_version


def _name(kind: str | type) -> str | type:
    is_own = isinstance(kind, type) and kind in (*log.PLAIN, *log.WITH_EVENTS)
    return log.type_name(kind) if is_own and isinstance(kind, type) else kind
