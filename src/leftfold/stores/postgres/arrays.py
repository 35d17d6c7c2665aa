"""Arrays of SQL as they are sent to PostgreSQL.

psycopg sends lists as well, but asks each value of a list for its type, several times: that was a
third of the time of a group of appends. Here the class of an array says it.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Any, ClassVar
from uuid import UUID

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

_START = Struct(">iiIii").pack
"""Dimensions, whether there may be nulls, the type of the values, how many, the first index."""
_LENGTH = Struct(">i").pack
_INTEGER = Struct(">ii").pack
_BIGINT = Struct(">iq").pack
_BOOLEAN = Struct(">i?").pack
_UUID = Struct(">i16s").pack
_NULL = _LENGTH(-1)


class Booleans(list[bool]):
    """A boolean[]."""


class Integers(list[int]):
    """An integer[]."""


class Bigints(list[int | None]):
    """A bigint[]."""


class Texts(list[str | None]):
    """A text[]."""


class Jsons(list[str | None]):
    """A jsonb[]."""


class Uuids(list[UUID]):
    """A uuid[]."""


class ManyBytes(list[bytes]):
    """A bytea[]."""


class _ArrayDumper(Dumper):
    # The statement says the type of the array. Were it said here, a statement would be prepared
    # once more for each choice of arguments that are null.
    format = Format.BINARY
    type_oid: ClassVar[int]
    """The type of the values."""

    def dump(self, obj: Any) -> bytes:
        if not obj:
            return _START(0, 0, self.type_oid, 0, 0)[:12]
        return b"".join((_START(1, 1, self.type_oid, len(obj), 1), *self.values(obj)))

    def values(self, obj: Any) -> Iterable[bytes]:
        """Each value after its length."""
        raise NotImplementedError


class _BooleansDumper(_ArrayDumper):
    type_oid = 16

    def values(self, obj: Booleans) -> Iterable[bytes]:
        return [_BOOLEAN(1, each) for each in obj]


class _IntegersDumper(_ArrayDumper):
    type_oid = 23

    def values(self, obj: Integers) -> Iterable[bytes]:
        return [_INTEGER(4, each) for each in obj]


class _BigintsDumper(_ArrayDumper):
    type_oid = 20

    def values(self, obj: Bigints) -> Iterable[bytes]:
        return [_NULL if each is None else _BIGINT(8, each) for each in obj]


class _UuidsDumper(_ArrayDumper):
    type_oid = 2950

    def values(self, obj: Uuids) -> Iterable[bytes]:
        return [_UUID(16, each.bytes) for each in obj]


class _ManyBytesDumper(_ArrayDumper):
    type_oid = 17

    def values(self, obj: ManyBytes) -> Iterable[bytes]:
        return [part for each in obj for part in (_LENGTH(len(each)), each)]


class _TextsDumper(_ArrayDumper):
    type_oid = 25
    before: ClassVar[bytes] = b""
    """What each value begins with: jsonb has the version of its format there."""

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        # The connection may be a caller's own, and use something else than UTF-8.
        connection = context.connection if context else None
        encoding = connection.info.encoding if connection else "utf-8"
        # A client that says nothing about its characters is taken to mean these, as in psycopg.
        self._encoding = "utf-8" if encoding == "ascii" else encoding

    def values(self, obj: Texts | Jsons) -> Iterable[bytes]:
        encoding, before = self._encoding, self.before
        encoded = [None if each is None else before + each.encode(encoding) for each in obj]
        return [_NULL if each is None else _LENGTH(len(each)) + each for each in encoded]


class _JsonsDumper(_TextsDumper):
    type_oid = 3802
    before = b"\x01"


_DUMPERS: dict[type, type[Dumper]] = {
    Booleans: _BooleansDumper,
    Integers: _IntegersDumper,
    Bigints: _BigintsDumper,
    Texts: _TextsDumper,
    Jsons: _JsonsDumper,
    Uuids: _UuidsDumper,
    ManyBytes: _ManyBytesDumper,
}


def send_arrays(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Let a connection send arrays of these classes. Lists are sent as ever."""
    for cls, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(cls, dumper)
