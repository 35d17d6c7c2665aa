"""What of SQL is PostgreSQL's own: types of columns, and how values are sent and received."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec
import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.numeric import Int8Dumper, IntDumper
from psycopg.types.string import StrDumper, TextLoader

from leftfold.projection.database import ColumnType
from leftfold.stores.values import decimal, moment, real

STATEMENTS_CACHED_MAX = 1000
"""Statements whose translation is remembered."""

_TYPES: dict[ColumnType, str] = {
    # Whatever the database's own order is, text sorts as in Python.
    "text": 'text COLLATE "C"',
    "integer": "bigint",
    "boolean": "boolean",
    "real": "double precision",
    "decimal": "numeric",
    "bytes": "bytea",
    "datetime": "timestamptz",
    "date": "date",
    "uuid": "uuid",
    "json": "jsonb",
}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class JsonText(str):
    """JSON, as it is sent to PostgreSQL."""

    __slots__ = ()


class PostgresDialect:
    """PostgreSQL has types for all. Text of JSON comes back in another form, of the same value."""

    name = "postgresql"
    for_update = " FOR UPDATE"
    same = "IS NOT DISTINCT FROM"

    def column(self, kind: ColumnType) -> str:
        return _TYPES[kind]

    def encoder(self, kind: ColumnType) -> Callable[[Any], Any] | None:
        return _ENCODERS.get(kind)

    def decoder(self, kind: ColumnType) -> Callable[[Any], Any] | None:
        return _in_order if kind == "json" else None

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'


_ENCODERS: dict[ColumnType, Callable[[Any], Any]] = {
    "real": real,
    "decimal": decimal,
    "datetime": moment,
    "json": JsonText,
}


def _in_order(text: str) -> str:
    """JSON in the order in which it was sent; jsonb sorts keys by their length."""
    return msgspec.json.encode(msgspec.json.decode(text.encode()), order="deterministic").decode()


@lru_cache(STATEMENTS_CACHED_MAX)
def translated(sql: str) -> bytes:
    """A statement with ? for each value, as psycopg takes it."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


class _JsonDumper(StrDumper):
    oid = psycopg.adapters.types["jsonb"].oid


class _JsonbLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        return str(bytes(data[1:]), "utf8")  # after the number of the format


class _MomentLoader(Loader):
    """In UTC, whatever the session's time zone is."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        try:
            return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))
        except OverflowError:
            raise psycopg.DataError("a timestamp that is not in the years 1 to 9999") from None


def adapt(context: AdaptContext) -> None:
    """Have a connection take and return the values that columns hold."""
    adapters = context.adapters
    adapters.register_dumper(JsonText, _JsonDumper)
    adapters.register_loader("jsonb", _JsonbLoader)
    adapters.register_loader("timestamptz", _MomentLoader)
    for name in ("json", "jsonb"):
        adapters.register_loader(name, TextLoader)
    # One type for all integers: each combination of types is prepared as a statement of its own.
    adapters.register_dumper(int, Int8Dumper)


def adapt_to_callers(context: AdaptContext) -> None:
    """Have a cursor take integers as callers know it: `left(name, %s)` wants a small one."""
    context.adapters.register_dumper(int, IntDumper)
