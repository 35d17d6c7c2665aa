"""Domain objects to stored events and back. A codec is an explicit object; nothing registers
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from leftfold.errors import InvalidEvent, InvalidInput, UndecodableEvent, UnknownEventType
from leftfold.event import Event, RecordedEvent
from leftfold.formats import Format, FormatName, make_format
from leftfold.limits import SCHEMA_VERSION_MAX, check_is_query, check_name
from leftfold.query import Condition, NoneMatch, Query, QueryItem
from leftfold.upcasting import Payload, Upcaster, Upcasting


class Tag(Struct, frozen=True):
    """Marks a field of an event class: `account: Annotated[str, Tag()]` gives the tag
    `account:123`.

    The prefix defaults to the field's name. A list, tuple or set gives a tag for each element, None
    gives none.
    """

    prefix: str | None = None


class EventType(Struct, frozen=True):
    """An event class with what a codec should know besides: the stored name and the schema version.

    The stored name defaults to the class's name. Give it when the class is renamed, and stored
    events stay readable. Raise `version` (from 1) when the shape changes in a way that defaults
    cannot bridge, and add an upcaster.
    """

    cls: type
    name: str = ""
    version: int = 1


class EventCodec(Protocol):
    """What a facade needs of a codec."""

    @property
    def fingerprint(self) -> str: ...

    def encode(self, event: Event[Any]) -> Event[bytes]: ...

    def read_back(self, encoded: Event[bytes]) -> Any: ...

    def decode_page(self, page: Sequence[RecordedEvent[bytes]]) -> list[RecordedEvent[Any]]: ...

    def decode_data(self, page: Sequence[RecordedEvent[bytes]]) -> list[Any] | None: ...

    def resolve(self, query: Query) -> Query: ...

    def residual(self, query: Query) -> Query | None: ...


class RawCodec:
    """Leaves events as they are: data is bytes, types are names."""

    fingerprint = ""

    def encode(self, event: Event[Any]) -> Event[bytes]:
        return event

    def read_back(self, encoded: Event[bytes]) -> Any:
        return encoded.data

    def decode_page(self, page: Sequence[RecordedEvent[bytes]]) -> list[RecordedEvent[Any]]:
        return list(page)

    def decode_data(self, page: Sequence[RecordedEvent[bytes]]) -> list[Any] | None:
        return [recorded.data for recorded in page]

    def resolve(self, query: Query) -> Query:
        return query

    def residual(self, query: Query) -> Query | None:
        return None


RAW = RawCodec()


class Codec:
    """Turns events of the given classes into stored events and back.

    Classes are msgspec Structs, dataclasses, attrs classes or pydantic models, bare or in an
    `EventType`. What is written is checked by reading it back as its class. Reading is lenient:
    fields that the class does not know are ignored, missing ones take their defaults, and upcasters
    bring older versions up to date. `format` is for writing; both formats are read. A stored type
    without a class raises UnknownEventType, or with `unknown="pass"` comes back with its data as
    bytes.

    Raises InvalidInput for classes it cannot handle, and for names, versions and upcasters that
    contradict each other.
    """

    def __init__(
        self,
        *types: type | EventType,
        upcasters: Sequence[Upcaster] = (),
        format: FormatName = "json",
        unknown: Literal["raise", "pass"] = "raise",
    ) -> None:
        if format not in ("json", "msgpack") or unknown not in ("raise", "pass"):
            raise InvalidInput(
                f"format is 'json' or 'msgpack', found {format!r}; "
                f"unknown is 'raise' or 'pass', found {unknown!r}"
            )
        self.format, self._pass_unknown = format, unknown == "pass"
        self._by_class: dict[type, _Entry] = {}
        self._by_name: dict[str, _Entry] = {}
        for each in types:
            self._register(each if isinstance(each, EventType) else EventType(each), format)
        versions = {entry.name: entry.version for entry in self._by_class.values()}
        self._upcasting = Upcasting(upcasters, versions)

    def _register(self, event_type: EventType, format: FormatName) -> None:
        entry = _Entry(event_type, format)
        if event_type.cls in self._by_class:
            raise InvalidInput(f"{event_type.cls.__name__} is registered twice")
        if entry.name in self._by_name:
            other = self._by_name[entry.name].cls
            raise InvalidInput(
                f"the event type {entry.name!r} is registered twice, for {other.__qualname__} and "
                f"{event_type.cls.__qualname__}; give one another name: EventType(cls, name=...)"
            )
        self._by_class[event_type.cls] = self._by_name[entry.name] = entry

    @property
    def types(self) -> tuple[EventType, ...]:
        """The event classes with the names and versions under which they are stored."""
        return tuple(
            EventType(entry.cls, entry.name, entry.version) for entry in self._by_class.values()
        )

    @property
    def fingerprint(self) -> str:
        """Of what it makes of old events: snapshots of another one are not used."""
        return self._upcasting.fingerprint

    def encode(self, event: Event[Any]) -> Event[bytes]:
        """The stored form of an event whose data is a domain object. Raises InvalidEvent."""
        entry = self._by_class.get(type(event.data))
        if entry is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            name = type(event.data).__name__
            raise InvalidEvent(
                name, "$", f"this class is not registered with the codec, which knows {known}"
            )
        tags = event.tags
        if entry.tag_fields:
            tags = tuple(dict.fromkeys((*entry.tags(event.data), *tags)))
        return Event(
            event.stream,
            entry.encode(event.data),
            type=entry.name,
            tags=tags,
            id=event.id,
            metadata=event.metadata,
            schema_version=entry.version,
            occurred_at=event.occurred_at,
        )

    def read_back(self, encoded: Event[bytes]) -> Any:
        """The domain object that the log will give back for what `encode` has made."""
        return self._by_name[encoded.type].decode(encoded.data)

    def decode(self, recorded: RecordedEvent[bytes]) -> list[RecordedEvent[Any]]:
        """The domain events that a recorded event means today: mostly one; an upcaster may make it
        none or several.

        Raises UndecodableEvent, UnknownEventType.
        """
        return self.decode_page([recorded])

    def decode_page(self, page: Sequence[RecordedEvent[bytes]]) -> list[RecordedEvent[Any]]:
        """What `decode` says of each recorded event, in order: one loop, as replays spend their
        time here.
        """
        by_name = self._by_name
        decoded: list[RecordedEvent[Any]] = []
        for recorded in page:
            entry = by_name.get(recorded.type)
            if entry is None or entry.version != recorded.schema_version:
                decoded += self._decode_older(recorded)
                continue
            try:
                data = entry.decode(recorded.data)
            except ValueError as error:
                raise _undecodable(recorded, _misfit(entry, error)) from error
            decoded.append(_with_data(recorded, recorded.type, entry.version, data))
        return decoded

    def decode_data(self, page: Sequence[RecordedEvent[bytes]]) -> list[Any] | None:
        """The domain objects alone, one for each recorded event; None where an event is of an older
        form, for then there may be more or fewer. Loads spend their time here.
        """
        by_name = self._by_name
        decoded: list[Any] = []
        for recorded in page:
            entry = by_name.get(recorded.type)
            if entry is None or entry.version != recorded.schema_version:
                return None
            try:
                decoded.append(entry.decode(recorded.data))
            except ValueError as error:
                raise _undecodable(recorded, _misfit(entry, error)) from error
        return decoded

    def _decode_older(self, recorded: RecordedEvent[bytes]) -> list[RecordedEvent[Any]]:
        if not self._upcasting.knows(recorded.type, recorded.schema_version):
            if self._pass_unknown:
                return [recorded]
            raise UnknownEventType(_facts(recorded), self._why_unknown(recorded))
        return [
            self._decode_payload(recorded, payload) for payload in self._upcasting.upcast(recorded)
        ]

    def _decode_payload(
        self, recorded: RecordedEvent[bytes], payload: Payload
    ) -> RecordedEvent[Any]:
        entry = self._by_name.get(payload.type)
        if entry is None or entry.version != payload.version:
            what = f"{payload.type!r} version {payload.version}"
            raise _undecodable(recorded, f"upcast to {what}, which the codec does not know")
        try:
            data = entry.decode(msgspec.json.encode(payload.data))
        except (ValueError, TypeError) as error:
            raise _undecodable(recorded, f"after upcasting, {_misfit(entry, error)}") from error
        return _with_data(recorded, payload.type, payload.version, data)

    def _why_unknown(self, recorded: RecordedEvent[bytes]) -> str:
        entry = self._by_name.get(recorded.type)
        if entry is not None:
            known = f"the codec knows {recorded.type!r} up to schema version {entry.version}"
            return f"{known}; deploy the newer code first"
        known = ", ".join(sorted(self._by_name)) or "none"
        return (
            f"the codec has no such type, it knows {known}; "
            "register a class, or pass such events through with Codec(..., unknown='pass')"
        )

    def resolve(self, query: Query) -> Query:
        """The query with classes replaced by every stored name that means them today. Raises
        InvalidInput.
        """
        if not _has_classes(query):
            return query
        return Query(tuple(replace(item, types=self._names(item)) for item in query.items))

    def residual(self, query: Query) -> Query | None:
        """What is left to check of decoded events: upcasters may have made other types of those
        that a class is found by. None for nothing.
        """
        if not (self._upcasting.renames and _has_classes(query)):
            return None
        return Query(tuple(replace(item, types=self._outcomes(item)) for item in query.items))

    def _names(self, item: QueryItem) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for each in item.types:
            found = (each,) if isinstance(each, str) else self._upcasting.sources(self._name(each))
            names.update(dict.fromkeys(found))
        return tuple(names)

    def _outcomes(self, item: QueryItem) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for each in item.types:
            found = self._upcasting.outcomes(each) if isinstance(each, str) else (self._name(each),)
            names.update(dict.fromkeys(found))
        return tuple(names)

    def _name(self, cls: type) -> str:
        if cls not in self._by_class:
            raise InvalidInput(f"{cls.__name__} is not registered with the codec")
        return self._by_class[cls].name


def _has_classes(query: Query) -> bool:
    return any(isinstance(each, type) for item in query.items for each in item.types)


def resolve_condition(codec: EventCodec, condition: Condition) -> Condition:
    """The condition in terms of stored names."""
    return (
        NoneMatch(codec.resolve(check_is_query(condition.query)), condition.after)
        if isinstance(condition, NoneMatch)
        else condition
    )


class _Entry:
    """One event class: its name and version, and how its objects are encoded, decoded, tagged."""

    def __init__(self, event_type: EventType, format_name: FormatName) -> None:
        cls, self.name, self.version = event_type.cls, event_type.name, event_type.version
        if not _is_event_class(cls):
            raise InvalidInput(
                f"{cls!r} is not an event class: "
                "a msgspec Struct, a dataclass, an attrs class or a pydantic model"
            )
        self.cls = cls
        self.name = self.name or cls.__name__
        check_name("type", self.name)
        if not 1 <= self.version <= SCHEMA_VERSION_MAX:
            raise InvalidInput(
                f"{self.name}: version is from 1 to {SCHEMA_VERSION_MAX}, found {self.version}"
            )
        try:
            self._format: Format = make_format(cls, format_name)
            self.tag_fields = _tag_fields(cls)
        except (TypeError, NameError) as error:
            raise InvalidInput(f"{cls.__name__} cannot be an event class: {error}") from error
        self.decode: Callable[[bytes], Any] = self._format.decode
        self._encode, self._read_back = self._format.encode, self._format.read_back

    def encode(self, data: Any) -> bytes:
        try:
            encoded = self._encode(data)
            # What cannot be read back must never be recorded, for it stays for ever.
            self._read_back(encoded)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            path, reason = self._format.explain(error)
            raise InvalidEvent(self.name, path, reason) from error
        return encoded

    def tags(self, data: Any) -> list[str]:
        found = []
        for field, prefix in self.tag_fields:
            value = getattr(data, field)
            if value is None:
                continue
            if isinstance(value, list | tuple | set | frozenset):
                # Sorted, because sets have no order of their own.
                found += sorted(f"{prefix}:{each}" for each in value)
            else:
                found.append(f"{prefix}:{value}")
        return found


_MARKS = ("__struct_fields__", "__dataclass_fields__", "__attrs_attrs__", "__pydantic_validator__")


def _is_event_class(cls: object) -> bool:
    return isinstance(cls, type) and any(hasattr(cls, mark) for mark in _MARKS)


def _tag_fields(cls: type) -> list[tuple[str, str]]:
    fields = []
    for field, hint in get_type_hints(cls, include_extras=True).items():
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Tag)]
        fields += [(field, mark.prefix or field) for mark in marks]
    return fields


def _misfit(entry: _Entry, error: Exception) -> str:
    path, reason = entry._format.explain(error)
    mend = f"give {entry.cls.__name__} a default there, or a new version and an upcaster"
    return f"{reason} at {path}; {mend}"


def _facts(recorded: RecordedEvent[Any]) -> tuple[int, str, int, str, int]:
    return (
        recorded.position,
        recorded.stream,
        recorded.version,
        recorded.type,
        recorded.schema_version,
    )


def _undecodable(recorded: RecordedEvent[Any], reason: str) -> UndecodableEvent:
    return UndecodableEvent(_facts(recorded), reason)


def _with_data(
    recorded: RecordedEvent[bytes], type_: str, version: int, data: Any
) -> RecordedEvent[Any]:
    return RecordedEvent(
        recorded.position,
        recorded.stream,
        recorded.version,
        type_,
        data,
        recorded.tags,
        version,
        recorded.id_bytes,
        recorded.recorded_us,
        recorded.occurred_us,
        recorded.packed_metadata,
    )
