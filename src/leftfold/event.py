"""Values: events, their ids and their metadata. Frozen. Imports nothing of leftfold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from time import time_ns
from typing import Any, Generic, TypeVar
from uuid import UUID, SafeUUID, uuid5

import msgspec
from msgspec import Struct

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, exactly; `moment` carries a time zone."""
    return (moment - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """The moment `us` microseconds after 1970, in UTC."""
    return EPOCH + timedelta(0, 0, us)


def now_us() -> int:
    """The system's clock, in microseconds since 1970."""
    return time_ns() // 1000


_new_object = object.__new__
_set_int = UUID.__dict__["int"].__set__
_set_is_safe = UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown


def _uuid(number: int) -> UUID:
    # UUID.__init__ spends 0.8 us on checks that an integer made here cannot fail.
    value = _new_object(UUID)
    _set_int(value, number)
    _set_is_safe(value, _UNKNOWN)
    return value


class _IdSource:
    """What a process adds to the clock: 12 random bits, and a counter that starts at random."""

    def __init__(self) -> None:
        self.reseed()

    def reseed(self) -> None:
        self.millisecond = -1
        self.high = 0
        self.random = (7 << 76) | (int.from_bytes(os.urandom(2)) & 0xFFF) << 64 | (2 << 62)
        self.next_low = count(int.from_bytes(os.urandom(8)) >> 3).__next__


_NAMESPACE = UUID("6f1c0f5e-3c55-5b0e-9d2b-7a0c3c1f7e11")

_ids = _IdSource()
# A forked child would go on with its parent's counter and make the same ids.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.reseed)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562, method 1 of 6.2): unique everywhere, and increasing within a process
    while its clock is.
    """
    millisecond = time_ns() // 1_000_000
    if millisecond != _ids.millisecond:
        # Two threads may both do this, with the same result or a millisecond apart.
        _ids.high = millisecond << 80 | _ids.random
        _ids.millisecond = millisecond
    return _uuid(_ids.high | _ids.next_low())


def derived_id(scope: str | tuple[str, str], command_id: str | None, index: int) -> UUID:
    """The id of the event number `index` that a command comes to; `scope` is the stream, where the
    boundary is one.
    """
    return uuid5(_NAMESPACE, repr((scope, command_id, index)))


class Metadata(Struct, frozen=True, omit_defaults=True):
    """Where an event comes from. Ids are any strings; those in UUID form take 16 bytes in a store.

    `extra` holds the user's own keys: JSON values only (str, int, float, bool, None, list, dict
    with str keys).
    """

    correlation_id: str | None = None
    """The whole conversation that the event belongs to."""
    causation_id: str | None = None
    """Its direct cause: the id of a command or of an event."""
    command_id: str | None = None
    """The command that was handled."""
    actor: str | None = None
    """Who asked for it."""
    extra: Mapping[str, Any] = {}


NO_METADATA = Metadata()

PackedMetadata = tuple[
    str | bytes | None, str | bytes | None, str | bytes | None, str | None, str | None
]
"""`Metadata` as a store keeps it: ids in UUID form as 16 bytes, `extra` as JSON text or None."""


def _pack_id(text: str | None) -> str | bytes | None:
    if text is None or len(text) != 36:
        return text
    digits = text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:]
    if text[8] + text[13] + text[18] + text[23] != "----":
        return text
    try:
        packed = bytes.fromhex(digits)
    except ValueError:
        return text
    # Capitals and blanks, which fromhex allows, would not come back.
    return packed if packed.hex() == digits else text


def _unpack_id(packed: str | bytes | None) -> str | None:
    if not isinstance(packed, bytes):
        return packed
    digits = packed.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def pack_metadata(metadata: Metadata) -> PackedMetadata:
    """The compact form of `metadata`; `unpack_metadata` gives back an equal value."""
    return (
        _pack_id(metadata.correlation_id),
        _pack_id(metadata.causation_id),
        _pack_id(metadata.command_id),
        metadata.actor,
        msgspec.json.encode(metadata.extra).decode() if metadata.extra else None,
    )


def unpack_metadata(packed: PackedMetadata) -> Metadata:
    """The value that `pack_metadata` was given."""
    correlation_id, causation_id, command_id, actor, extra = packed
    return Metadata(
        _unpack_id(correlation_id),
        _unpack_id(causation_id),
        _unpack_id(command_id),
        actor,
        msgspec.json.decode(extra) if extra else {},
    )


class _Placed(Struct, Generic[T], frozen=True):
    stream: str
    data: T


class Event(_Placed[T], Generic[T], frozen=True, kw_only=True):
    """A fact to append: `Event("account-123", MoneyDeposited(...))`.

    `data` is a domain object, which a codec turns into bytes together with `type`, `schema_version`
    and the tags that its class marks; or it is bytes already, and then `type` is required. The id
    makes appends idempotent: repeat an append with the same ids and it is recorded once.
    `occurred_at` is when it happened in the world (None: when it is recorded) and carries a time
    zone.
    """

    type: str = ""
    tags: tuple[str, ...] = ()
    id: UUID = msgspec.field(default_factory=new_id)
    metadata: Metadata = NO_METADATA
    schema_version: int = 1
    occurred_at: datetime | None = None


class Instead(Event[T], Generic[T], frozen=True, kw_only=True):
    """A decided event that keeps its id: that of another event, which then is never recorded. Where
    that one was recorded before, the append raises DuplicateEvent.
    """


class RecordedEvent(Struct, Generic[T], frozen=True, eq=False, gc=False):
    """A fact in the log. `data` is bytes when it comes from a store, a domain object when a codec
    has decoded it.

    Stores build millions of these, so ids, times and metadata stay in the form in which they are
    kept until asked for: read `id`, `recorded_at`, `occurred_at` and `metadata`, not the fields
    below them.
    """

    position: int
    stream: str
    version: int
    type: str
    data: T
    tags: tuple[str, ...]
    schema_version: int
    id_bytes: bytes
    recorded_us: int
    occurred_us: int | None
    packed_metadata: PackedMetadata

    @property
    def id(self) -> UUID:
        """The id that the writer gave it."""
        return _uuid(int.from_bytes(self.id_bytes))

    @property
    def recorded_at(self) -> datetime:
        """When the store recorded it, in UTC; never decreases along positions."""
        return from_us(self.recorded_us)

    @property
    def occurred_at(self) -> datetime:
        """When it happened in the world, in UTC: what the writer said, or else `recorded_at`."""
        return from_us(self.recorded_us if self.occurred_us is None else self.occurred_us)

    @property
    def metadata(self) -> Metadata:
        """Where it comes from."""
        return unpack_metadata(self.packed_metadata)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordedEvent):
            return False
        *mine, my_metadata = msgspec.structs.astuple(self)
        *others, other_metadata = msgspec.structs.astuple(other)
        # Stores may pack metadata in other ways.
        return mine == others and (my_metadata == other_metadata or self.metadata == other.metadata)

    def __hash__(self) -> int:
        return hash((self.position, self.id_bytes))

    def __repr__(self) -> str:
        occurred = (
            "" if self.occurred_us is None else f", occurred_at={self.occurred_at.isoformat()}"
        )
        return (
            f"RecordedEvent({self.position}, {self.stream!r}, version={self.version}, "
            f"type={self.type!r}, data={self.data!r}, tags={self.tags!r}, "
            f"schema_version={self.schema_version}, id={self.id}, "
            f"recorded_at={self.recorded_at.isoformat()}{occurred}, metadata={self.metadata!r})"
        )


class Appended(Struct, frozen=True, eq=False):
    """What an append came to. A repeated append gets the value that the first one got: it equals
    that, and says that it is a repeat.
    """

    first_position: int
    position: int
    """The position of its last event."""
    versions: Mapping[str, int]
    """Each stream it wrote to, and the stream's version after it."""
    is_repeat: bool = False
    """Whether the events were recorded already, so that nothing was written now."""

    @property
    def token(self) -> str:
        """For `after=` of views: they then show this append."""
        return str(self.position)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Appended) and (
            (self.first_position, self.position, self.versions)
            == (other.first_position, other.position, other.versions)
        )

    def __hash__(self) -> int:
        return hash((self.first_position, self.position))


def record(
    event: Event[bytes], position: int, version: int, recorded_us: int
) -> RecordedEvent[bytes]:
    """`event` as a log holds it, for stores that keep values rather than rows."""
    return RecordedEvent(
        position,
        event.stream,
        version,
        event.type,
        event.data,
        event.tags,
        event.schema_version,
        event.id.bytes,
        recorded_us,
        None if event.occurred_at is None else to_us(event.occurred_at),
        pack_metadata(event.metadata),
    )
