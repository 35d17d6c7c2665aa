"""Rows of read models as columns: what type a field has, which fields are the key, and how values
get into a table and out of it. Without I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from inspect import Parameter, signature
from operator import attrgetter
from typing import Any, get_type_hints
from uuid import UUID

import msgspec
from msgspec import inspect

from leftfold.errors import InvalidInput
from leftfold.fingerprint import digest, shape
from leftfold.projection.database import ColumnType, Dialect
from leftfold.states import is_frozen_class

INTEGER_MAX = 2**63 - 1
COLUMNS_MAX = 200

Values = tuple[Any, ...]

_KINDS: dict[type, ColumnType] = {
    inspect.StrType: "text",
    inspect.IntType: "integer",
    inspect.BoolType: "boolean",
    inspect.FloatType: "real",
    inspect.DecimalType: "decimal",
    inspect.BytesType: "bytes",
    inspect.DateTimeType: "datetime",
    inspect.DateType: "date",
    inspect.UUIDType: "uuid",
}
_CLASSES: dict[ColumnType, type] = {
    "text": str,
    "integer": int,
    "boolean": bool,
    "real": float,
    "decimal": Decimal,
    "bytes": bytes,
    "datetime": datetime,
    "date": date,
    "uuid": UUID,
}
_OF_POSTGRES = ("ctid", "tableoid", "xmin", "xmax", "cmin", "cmax")
KEY_TYPES = ("text", "integer", "datetime", "date", "uuid")


class Column:
    """One field of a row."""

    def __init__(self, field: inspect.Field, hint: Any) -> None:
        self.name = field.name
        self.is_key = field.required
        inner, self.is_nullable = _without_none(field.type)
        self.enum = inner.cls if isinstance(inner, inspect.EnumType) else None
        self.kind = _kind(inner)
        self._decoder = msgspec.json.Decoder(hint) if self.kind == "json" else None

    @property
    def is_canonical(self) -> bool:
        """Whether there is but one value for each that the database has."""
        return self.enum is None and self.kind not in ("datetime", "json", "real")

    @property
    def key_class(self) -> type:
        """The class of a key's values."""
        return self.enum or _CLASSES.get(self.kind, object)

    def encoder(self, dialect: Dialect) -> Callable[[Any], Any]:
        """What makes of the field's value what a table takes. It raises ValueError for misfits."""
        expected = object if self.kind == "json" or self.enum else _CLASSES[self.kind]
        check, encode = _CHECKS.get(self.kind), dialect.encoder(self.kind)

        def encoded(value: Any) -> Any:
            if type(value) is not expected:
                if value is None and self.is_nullable:
                    return None
                value = self._converted(value)
            if check is not None and not check(value):
                raise ValueError(f"{self.name}: {_MISFITS[self.kind]}, found {value!r}")
            return value if encode is None else encode(value)

        return encoded

    def _converted(self, value: Any) -> Any:
        """What a value of another class stands for."""
        try:
            if value is not None and self._decoder is not None:
                return _json(value, self._decoder)
            if value is not None and self.enum is not None:
                return self.enum(value).value
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        if self.kind == "real" and type(value) is int:
            return float(value)
        raise ValueError(f"{self.name}: it is of type {self.kind}, found {value!r}")

    def canonical(self, value: Any) -> Any:
        """The one of several values that the database has only one form for."""
        if self.enum is not None:
            return self.enum(value)
        if type(value) is datetime and value.utcoffset() is not None:
            return value.astimezone(UTC)
        return value

    def restored(self, value: Any) -> Any:
        """The field's value again."""
        if self._decoder is not None:
            return self._decoder.decode(value)
        return value if self.enum is None else self.enum(value)


class Columns:
    """The columns of a row type, the key first as declared. Raises InvalidInput for types that
    make no table.
    """

    def __init__(self, row: Any, what: str) -> None:
        self.row = row
        self._what = what
        self.columns = _columns(row, what)
        self.names = tuple(each.name for each in self.columns)
        self.key = tuple(each for each in self.columns if each.is_key)
        if not self.key:
            raise InvalidInput(f"{what}: the key is the fields without a default, found none")
        for each in self.key:
            if each.kind not in KEY_TYPES or each.is_nullable:
                raise InvalidInput(
                    f"{what}: {each.name!r} cannot be a key, which is of str, int, UUID, date or "
                    "datetime"
                )
        self._have_forms = any(each.enum or each.kind == "datetime" for each in self.key)
        self.is_one_text = [(each.kind, each.enum) for each in self.key] == [("text", None)]
        """Whether the key is a single text."""
        self.are_canonical = all(each.is_canonical for each in self.columns)
        """Whether a row that is written and read again is the same, and not only equal."""
        is_json = any(each.kind == "json" for each in self.columns)
        self.are_frozen = is_frozen_class(row) and not is_json
        """Whether nobody can change a row in place."""
        self._key_classes = [each.key_class for each in self.key]
        described = (f"{each.name} {each.kind} {each.is_nullable}" for each in self.columns)
        self.shape = digest(*described, shape(row))

    def check_is_indexable(self, name: object) -> None:
        """Refuse, with InvalidInput, to index a field that is not there, or does not sort."""
        kinds = {each.name: each.kind for each in self.columns}
        if name not in kinds:
            raise InvalidInput(f"{self._what} has no field {name!r} to index")
        if kinds[name] in ("json", "decimal"):
            raise InvalidInput(
                f"{self._what}: {name!r} is {kinds[name]}, which cannot be indexed; an amount can "
                "be, as an int of the smallest unit"
            )

    def key_of(self, found: Any) -> Values:
        """One key as a tuple, the same for values that are one in the database. Raises ValueError
        for one of another length.
        """
        values = found if isinstance(found, tuple) else (found,)
        if len(values) != len(self.key):
            names = ", ".join(each.name for each in self.key)
            raise ValueError(f"the key is ({names}), found {found!r}")
        if self._have_forms:
            values = tuple(
                [each.canonical(value) for each, value in zip(self.key, values, strict=True)]
            )
        # Not only when they get to the database: to Python 1 and True are one key.
        if [*map(type, values)] != self._key_classes:
            names = ", ".join(f"{each.name} of type {each.kind}" for each in self.key)
            raise ValueError(f"the key is ({names}), found {found!r}")
        return values

    def initial(self, key: Values) -> Any:
        """The row of a key before its first event."""
        return self.row(**{each.name: value for each, value in zip(self.key, key, strict=True)})

    def bind(self, dialect: Dialect) -> Binding:
        """How rows get into a table of an engine, and out of it."""
        return Binding(self, dialect)


class Binding:
    """How rows get into a table of one engine, and out of it."""

    def __init__(self, columns: Columns, dialect: Dialect) -> None:
        self._make = columns.row
        self._names = columns.names
        self._is_positional = _is_positional(columns)
        self._encoders = {each.name: each.encoder(dialect) for each in columns.columns}
        self._pairs = [(attrgetter(name), encode) for name, encode in self._encoders.items()]
        self._decoders = [_decoder(each, dialect) for each in columns.columns]
        self._key_encoders = [self._encoders[each.name] for each in columns.key]
        self._key_places = [columns.names.index(each.name) for each in columns.key]

    def values(self, row: Any) -> Values:
        """The values of a row, by column. Raises ValueError for a misfit, which it names."""
        if type(row) is not self._make:
            expected = self._make.__name__
            raise ValueError(f"a row is of {expected}, found {type(row).__name__}")
        return tuple([encode(get(row)) for get, encode in self._pairs])

    def key_values(self, key: Values) -> Values:
        """The values of a key. Raises ValueError for a misfit."""
        pairs = zip(self._key_encoders, key, strict=True)
        return tuple([encode(value) for encode, value in pairs])

    def value(self, name: str, value: Any) -> Any:
        """The value of one field. Raises ValueError for a misfit."""
        return self._encoders[name](value)

    def key_of(self, values: Values) -> Values:
        """The encoded key in the values of a row."""
        return tuple([values[place] for place in self._key_places])

    def row(self, values: Sequence[Any]) -> Any:
        """The row of values by column."""
        decoded = [
            value if decode is None or value is None else decode(value)
            for value, decode in zip(values, self._decoders, strict=True)
        ]
        if self._is_positional:
            return self._make(*decoded)
        return self._make(**dict(zip(self._names, decoded, strict=True)))


def _is_positional(columns: Columns) -> bool:
    parameters = signature(columns.row).parameters
    kinds = {each.kind for each in parameters.values()}
    return (*parameters,) == columns.names and kinds == {Parameter.POSITIONAL_OR_KEYWORD}


def _columns(row: Any, what: str) -> list[Column]:
    try:
        info = inspect.type_info(row)
        hints = get_type_hints(row, include_extras=True)
        shape(row)
    except (TypeError, NameError) as error:
        raise InvalidInput(f"{what} makes no table: {error}") from None
    if not isinstance(info, inspect.StructType | inspect.DataclassType):
        raise InvalidInput(f"{what} is a Struct or a dataclass, found {row!r}")
    if len(info.fields) > COLUMNS_MAX:
        raise InvalidInput(f"{what} has at most {COLUMNS_MAX} fields, found {len(info.fields)}")
    _check_names([field.name for field in info.fields], what)
    for field in info.fields:
        if field.name != field.encode_name or not field.name.isascii() or len(field.name) > 60:
            raise InvalidInput(f"{what}: {field.name!r} is no name for a column; rename the field")
    return [Column(field, hints[field.name]) for field in info.fields]


def _check_names(names: Sequence[str], what: str) -> None:
    """Refuse, with InvalidInput, what is no column on some engine, so that rows fit on each."""
    for name in names:
        if name in _OF_POSTGRES:
            raise InvalidInput(
                f"{what}: {name!r} is a column that PostgreSQL has of its own; rename the field"
            )
    by_lower = {name.lower(): name for name in names}
    for name in names:
        if by_lower[name.lower()] != name:
            raise InvalidInput(
                f"{what}: {name!r} and {by_lower[name.lower()]!r} are one column on SQLite, which "
                "does not tell capital letters from small ones; rename one"
            )


def _without_none(found: inspect.Type) -> tuple[inspect.Type, bool]:
    if isinstance(found, inspect.Metadata):
        return _without_none(found.type)
    if not isinstance(found, inspect.UnionType) or not found.includes_none:
        return found, False
    rest = [each for each in found.types if not isinstance(each, inspect.NoneType)]
    return (rest[0] if len(rest) == 1 else found), True


def _kind(found: inspect.Type) -> ColumnType:
    if isinstance(found, inspect.EnumType | inspect.LiteralType):
        values = (
            [each.value for each in found.cls]
            if isinstance(found, inspect.EnumType)
            else found.values
        )
        kinds = {type(each) for each in values}
        return "text" if kinds == {str} else "integer" if kinds == {int} else "json"
    return _KINDS.get(type(found), "json")


def _json(value: Any, decoder: msgspec.json.Decoder[Any]) -> str:
    try:
        # Their order in a dict, too: PostgreSQL keeps another.
        encoded = msgspec.json.encode(value, order="deterministic")
        decoder.decode(encoded)
    except (TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from None
    text = encoded.decode()
    if "\\u0000" in text:
        raise ValueError("it has a NUL character, which no database keeps")
    return text


def _is_text(value: str) -> bool:
    try:
        return "\0" not in value and (value.isascii() or bool(value.encode()))
    except UnicodeEncodeError:  # a lone surrogate
        return False


_CHECKS: dict[ColumnType, Callable[[Any], bool]] = {
    "text": _is_text,
    "integer": lambda value: -INTEGER_MAX <= value <= INTEGER_MAX,
    "real": math.isfinite,
    "decimal": Decimal.is_finite,
    "datetime": lambda value: value.utcoffset() is not None,
}
_MISFITS: dict[ColumnType, str] = {
    "text": "it is valid Unicode without a NUL character",
    "integer": "it is an integer of 64 bits",
    "real": "it is a finite number",
    "decimal": "it is a finite number",
    "datetime": "it has a time zone",
}


def _decoder(column: Column, dialect: Dialect) -> Callable[[Any], Any] | None:
    decode = dialect.decoder(column.kind)
    if column.kind != "json" and column.enum is None:
        return decode
    restored = column.restored
    return restored if decode is None else lambda value: restored(decode(value))
