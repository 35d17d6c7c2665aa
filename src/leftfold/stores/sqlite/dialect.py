"""What of SQL is SQLite's own: types of columns, and how values are kept in them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from leftfold.projection.database import ColumnType
from leftfold.stores.values import decimal, moment, real

_TYPES: dict[ColumnType, str] = {
    "text": "TEXT",
    "integer": "INTEGER",
    "boolean": "INTEGER",
    "real": "REAL",
    "decimal": "TEXT",
    "bytes": "BLOB",
    "datetime": "TEXT",
    "date": "TEXT",
    "uuid": "TEXT",
    "json": "TEXT",
}


class SqliteDialect:
    """Text that sorts as the values do stands for what SQLite has no type for. Decimals are such
    text too, but sort as text.
    """

    name = "sqlite"
    for_update = ""
    same = "IS"

    def column(self, kind: ColumnType) -> str:
        return _TYPES[kind]

    def encoder(self, kind: ColumnType) -> Callable[[Any], Any] | None:
        return _ENCODERS.get(kind)

    def decoder(self, kind: ColumnType) -> Callable[[Any], Any] | None:
        return _DECODERS.get(kind)

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'


def _decimal(value: Decimal) -> str:
    return str(decimal(value))


def _datetime(value: datetime) -> str:
    return moment(value).isoformat(timespec="microseconds")[:-6] + "Z"


_ENCODERS: dict[ColumnType, Callable[[Any], Any]] = {
    "real": real,
    "decimal": _decimal,
    "datetime": _datetime,
    "date": date.isoformat,
    "uuid": str,
}
_DECODERS: dict[ColumnType, Callable[[Any], Any]] = {
    "boolean": bool,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "uuid": UUID,
}
