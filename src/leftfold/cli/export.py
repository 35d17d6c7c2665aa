"""The command `export`."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal, cast

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.options import Span
from leftfold.cli.output import as_json, chunks, complain
from leftfold.cli.progress import Timer, bar
from leftfold.cli.session import Session, check_stream_exists
from leftfold.cli.times import iso
from leftfold.cli.wire import data_text, to_line
from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent
from leftfold.formats import decode_plain

WRITTEN_AT_ONCE = 500
"""Events that are held in memory."""
CSV_COLUMNS = (
    "position",
    "stream",
    "version",
    "type",
    "schema_version",
    "id",
    "recorded_at",
    "occurred_at",
    "tags",
    "correlation_id",
    "causation_id",
    "command_id",
    "actor",
    "extra",
)

Page = list[RecordedEvent[bytes]]


class ExportOptions(Span, frozen=True, kw_only=True):
    """What to write, where, and how."""

    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Where to; - is stdout. A name in .gz is compressed."),
    ] = "-"
    format: Annotated[
        Literal["jsonl", "csv"],
        typer.Option("--format", help="JSON lines, which `import` reads, or CSV for a table."),
    ] = "jsonl"
    field: Annotated[
        list[str],
        typer.Option(
            "--field",
            metavar="NAME",
            help="A field of the data as a column of the CSV, instead of all data. Repeatable.",
        ),
    ] = msgspec.field(default_factory=list)


class Exported(Struct, frozen=True):
    """What `export` has written."""

    file: str
    events: int
    seconds: float
    events_per_second: int


def export(session: Session, options: ExportOptions) -> None:
    """Write events to a file, which gets its name when it is whole."""
    if options.field and options.format != "csv":
        raise InvalidInput("--field is for --format csv; JSON lines have all data")
    timer, count = Timer(), 0
    with session.open() as store:
        events = options.read(store)
        check_stream_exists(store, options.stream)
        with _target(options.file) as file, bar("export", store.head()) as shown:
            write = _csv_writer(file, options.field) if options.format == "csv" else _json(file)
            for page in chunks(events, WRITTEN_AT_ONCE):
                write(page)
                count += len(page)
                shown.to(page[-1].position, count)
    result = Exported(options.file, count, timer.seconds, timer.rate(count))
    if options.file == "-":
        complain(f"{count:,} events ({result.seconds} s, {result.events_per_second:,}/s)")
    else:
        session.output.document(result)


@contextmanager
def _target(name: str) -> Iterator[IO[bytes]]:
    """Where to write. A file gets its name at the end, and at once; else it is as it was."""
    if name == "-":
        yield sys.stdout.buffer
        # What the buffer holds may still fail to be written, and then it was no success.
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not path.is_file():
        # A pipe or a device: there is nothing to rename.
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            with _compressed(file, path) as writer:
                yield writer
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _compressed(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ".gz":
        yield file
        return
    # Fixed name and time: the same events make the same file.
    with gzip.GzipFile("", "wb", 6, file, mtime=0) as writer:
        yield cast(IO[bytes], writer)


def _json(file: IO[bytes]) -> Callable[[Page], None]:
    encode = msgspec.json.Encoder().encode_lines

    def write(page: Page) -> None:
        file.write(encode([to_line(event) for event in page]))

    return write


def _csv_writer(file: IO[bytes], fields: list[str]) -> Callable[[Page], None]:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*CSV_COLUMNS, *(fields or ["data"])))

    def flush() -> None:
        file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()

    def write(page: Page) -> None:
        writer.writerows(_row(event, fields) for event in page)
        flush()

    flush()
    return write


def _row(event: RecordedEvent[bytes], fields: list[str]) -> Iterator[object]:
    metadata = event.metadata
    yield from (event.position, event.stream, event.version, event.type, event.schema_version)
    yield from (event.id, iso(event.recorded_us))
    yield iso(event.recorded_us if event.occurred_us is None else event.occurred_us)
    yield as_json(event.tags) if event.tags else ""
    yield from (metadata.correlation_id, metadata.causation_id, metadata.command_id)
    yield metadata.actor
    yield as_json(metadata.extra) if metadata.extra else ""
    if not fields:
        yield data_text(event.data)
        return
    data = _plain(event.data)
    for field in fields:
        yield _cell(data.get(field) if isinstance(data, dict) else None)


def _plain(data: bytes) -> Any:
    try:
        return decode_plain(data)
    except (ValueError, RecursionError):
        return None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else as_json(value)
