"""Files as rows to import: line by line, each with its number, so that errors can name it."""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast
from uuid import UUID, uuid5

from msgspec import Struct

from leftfold.cli.mapping import Columns, RowMapping
from leftfold.cli.typed import Typed
from leftfold.cli.wire import from_line
from leftfold.errors import InvalidInput
from leftfold.event import Event
from leftfold.limits import DATA_BYTES_MAX, check_append

LINE_BYTES_MAX = 2 * DATA_BYTES_MAX
"""Of one line: data of the greatest size, in base64, and the rest of an event."""

# Ids of imported rows are derived in this namespace. It never changes: the same row has to have the
# same id in every release.
_NAMESPACE = UUID("6f2d8a52-98d0-4f0e-9c41-3c3b7c0d9e5a")


class BadLine(InvalidInput):
    """A line cannot be imported."""

    def __init__(self, source: str, line: int, reason: object) -> None:
        super().__init__(f"{source}, line {line}: {reason}")
        self.line = line


class Given(Struct, frozen=True):
    """An event to import, and the line where it begins."""

    line: int
    event: Event[bytes]


class Source:
    """An open file. `name` stands in messages and in ids that are made from lines."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self._file = file
        self.line = 0

    def lines(self) -> Iterator[str]:
        """The lines, as text, with their ends. Raises BadLine."""
        while raw := self._next():
            self.line += 1
            if len(raw) > LINE_BYTES_MAX:
                raise BadLine(self.name, self.line, f"it has more than {LINE_BYTES_MAX} bytes")
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                raise BadLine(
                    self.name, self.line, f"not UTF-8 at byte {error.start + 1}"
                ) from None
            yield text.removeprefix("\ufeff") if self.line == 1 else text

    def _next(self) -> bytes:
        try:
            return self._file.readline(LINE_BYTES_MAX + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadLine(self.name, self.line + 1, f"the gzip file is broken: {error}") from None

    def id_of(self, given: str | None, line: int, content: str) -> UUID:
        """The id of a row: what it says itself, or else made of where it stands and what it says.

        The same row gets the same id each time, so it is recorded once.
        """
        if given is None:
            return uuid5(_NAMESPACE, f"line\0{self.name}\0{line}\0{content}")
        try:
            if len(given) == 36:
                return UUID(given)
        except ValueError:
            pass
        return uuid5(_NAMESPACE, f"id\0{given}")


@contextmanager
def opened(name: str) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """A file by name, - for stdin, unpacked if its name ends in .gz; and how far it was read."""
    if name == "-":
        yield sys.stdin.buffer, lambda: 0
        return
    with open(name, "rb") as file:
        if name.endswith(".gz"):
            with gzip.open(file) as unpacked:
                yield cast(IO[bytes], unpacked), file.tell
        else:
            yield file, file.tell


def json_rows(source: Source, typed: Typed | None) -> Iterator[Given]:
    """The events of JSON lines. Raises BadLine."""
    for text in source.lines():
        content = text.strip()
        if not content:
            continue
        try:
            line = from_line(content)
            event = line.event(source.id_of(line.id, source.line, content))
            if typed is not None and line.schema_version is None:
                event = typed.encode(event)
            elif typed is not None:
                # As it was recorded: it is to come back unchanged.
                typed.check(event)
            check_append([event], ())
        except InvalidInput as error:
            raise BadLine(source.name, source.line, error) from error
        yield Given(source.line, event)


def csv_rows(source: Source, mapping: Columns, typed: Typed | None) -> Iterator[Given]:
    """The events of a CSV file with a header. Raises BadLine, and InvalidInput for a mapping that
    does not fit the header.
    """
    records = _records(source, mapping.delimiter or ",")
    _, columns = next(records, (0, []))
    if not columns:
        raise BadLine(source.name, 1, "a CSV file begins with the names of its columns")
    if len(set(columns)) < len(columns):
        raise BadLine(source.name, 1, "two columns have the same name")
    return _csv_rows(source, records, RowMapping(mapping, columns), typed, len(columns))


def _csv_rows(
    source: Source,
    records: Iterator[tuple[int, list[str]]],
    mapping: RowMapping,
    typed: Typed | None,
    width: int,
) -> Iterator[Given]:
    for line, row in records:
        if len(row) != width:
            raise BadLine(source.name, line, f"{len(row)} columns, the header has {width}")
        try:
            event = _csv_event(source, line, row, mapping)
            if typed is not None:
                event = typed.encode(event)
            check_append([event], ())
        except InvalidInput as error:
            raise BadLine(source.name, line, error) from error
        yield Given(line, event)


def _csv_event(source: Source, line: int, row: list[str], mapping: RowMapping) -> Event[bytes]:
    mapped = mapping.map(row)
    return Event(
        mapped.stream,
        mapped.data,
        type=mapped.type,
        tags=mapped.tags,
        id=source.id_of(mapped.id, line, "\x1f".join(row)),
        occurred_at=mapped.occurred_at,
    )


def _records(source: Source, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the line where it begins. Empty lines are left out."""
    delimiter = "\t" if delimiter == "\\t" else delimiter
    csv.field_size_limit(DATA_BYTES_MAX)
    try:
        reader = csv.reader(source.lines(), delimiter=delimiter, strict=True)
    except TypeError:
        raise InvalidInput(f"--delimiter is one character, found {delimiter!r}") from None
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadLine(source.name, line, f"not CSV: {error}") from None
