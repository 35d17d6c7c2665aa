"""How the columns of a CSV file become events."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import asdict

from leftfold.cli.template import Row, Template, column_of
from leftfold.errors import InvalidInput

DATES_CACHED_MAX = 10_000
"""Dates that are remembered: the rows of a day often share one."""

Cell = str | Raw | bool | None
_INT = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BOOLS = dict.fromkeys(("true", "t", "yes", "y", "1"), True)
_BOOLS |= dict.fromkeys(("false", "f", "no", "n", "0"), False)


class Columns(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping, as it stands in a mapping file. The options of `import` have the same names."""

    stream: str | None = None
    type: str | None = None
    id: str | None = None
    occurred_at: str | None = None
    date_format: str | None = None
    time_zone: str | None = None
    tags: list[str] = []
    fields: dict[str, str] = {}
    delimiter: str | None = None

    def or_else(self, other: Columns) -> Columns:
        """This mapping, and what `other` says where this says nothing."""
        mine = {name: value for name, value in asdict(self).items() if value not in (None, [], {})}
        return Columns(**(asdict(other) | mine))


def read_mapping(path: Path) -> Columns:
    """The mapping in a JSON file. Raises InvalidInput, OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Columns)
    except ValueError as error:
        raise InvalidInput(f"the mapping in {path}: {error}") from None


class Mapped(Struct, frozen=True):
    """What a row says."""

    stream: str
    type: str
    data: bytes
    tags: tuple[str, ...]
    id: str | None
    occurred_at: datetime | None


class RowMapping:
    """A mapping onto the columns that a file has. Raises InvalidInput where they do not fit."""

    def __init__(self, mapping: Columns, columns: Sequence[str]) -> None:
        if mapping.stream is None or mapping.type is None:
            raise InvalidInput("a CSV file needs --stream and --type, such as 'account-{account}'")
        self._stream = Template("--stream", mapping.stream, columns)
        self._type = Template("--type", mapping.type, columns)
        self._id = None if mapping.id is None else Template("--id", mapping.id, columns)
        self._tags = [Template("--tag", tag, columns) for tag in mapping.tags]
        self._time: Template | None = None
        if mapping.occurred_at is not None:
            self._time = Template("--occurred-at", mapping.occurred_at, columns)
        elif mapping.date_format is not None:
            raise InvalidInput("--date-format is for --occurred-at, which is not given")
        self._when = _reader_of_dates(mapping.date_format, mapping.time_zone or "UTC")
        self._cells = [
            _cell_maker(*each, columns) for each in (mapping.fields or _all(columns)).items()
        ]

    def map(self, row: Row) -> Mapped:
        """The event that a row says. Raises InvalidInput."""
        return Mapped(
            _filled("--stream", self._stream, row),
            _filled("--type", self._type, row),
            msgspec.json.encode({name: make(row) for name, make in self._cells}),
            tuple(dict.fromkeys(tag for each in self._tags if (tag := each.fill(row)))),
            None if self._id is None else _filled("--id", self._id, row),
            None if self._time is None else self._when(_filled("--occurred-at", self._time, row)),
        )


def _filled(what: str, template: Template, row: Row) -> str:
    text = template.fill(row)
    if not text:
        raise InvalidInput(f"a column of {what} is empty")
    return text


def _all(columns: Sequence[str]) -> Mapping[str, str]:
    return {name: name for name in columns}


def _cell_maker(
    field: str, source: str, columns: Sequence[str]
) -> tuple[str, Callable[[Row], Cell]]:
    """A field of the data, and what makes its value. `field` may end in a colon and a kind."""
    name, colon, kind = field.rpartition(":")
    if not colon:
        name, kind = field, "string"
    if kind not in _KINDS or not name:
        kinds = ", ".join(_KINDS)
        raise InvalidInput(f"--field is NAME:KIND=COLUMN with a kind of {kinds}, found {field!r}")
    convert = _KINDS[kind]
    if "{" in source:
        filled = Template("--field", source, columns)
        return name, lambda row: convert(name, filled.fill(row) or "")
    place = column_of("--field", source, columns)
    return name, lambda row: convert(name, row[place])


def _string(_: str, text: str) -> Cell:
    return text


def _int(name: str, text: str) -> Cell:
    if not text:
        return None
    if not _INT.fullmatch(text):
        raise InvalidInput(f"field {name!r} is an int, found {text!r}")
    return Raw(str(int(text)).encode())


def _number(name: str, text: str) -> Cell:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"field {name!r} is a number, found {text!r}")
    # By its digits: a float would change 0.10.
    return Raw(str(Decimal(text)).encode())


def _bool(name: str, text: str) -> Cell:
    if not text:
        return None
    if text.lower() not in _BOOLS:
        raise InvalidInput(f"field {name!r} is a bool, found {text!r}")
    return _BOOLS[text.lower()]


_KINDS: dict[str, Callable[[str, str], Cell]] = {
    "string": _string,
    "int": _int,
    "number": _number,
    "bool": _bool,
}


def _reader_of_dates(format: str | None, zone_name: str) -> Callable[[str], datetime]:
    try:
        zone = ZoneInfo(zone_name)
    except (KeyError, ValueError, OSError):
        raise InvalidInput(
            f"--time-zone is a name such as UTC or Europe/Prague, found {zone_name!r}"
        ) from None

    @lru_cache(DATES_CACHED_MAX)
    def read(text: str) -> datetime:
        try:
            # The zone is added below, where the text has none.
            found = datetime.strptime(text, format) if format else datetime.fromisoformat(text)  # noqa: DTZ007
        except ValueError:
            wanted = f"a date as {format!r}" if format else "a moment in ISO 8601"
            raise InvalidInput(f"--occurred-at wants {wanted}, found {text!r}") from None
        return found if found.utcoffset() is not None else found.replace(tzinfo=zone)

    return read
