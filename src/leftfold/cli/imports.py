"""The command `import`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from msgspec import Struct

from leftfold.cli.importer import Importer
from leftfold.cli.interrupt import Interrupts
from leftfold.cli.mapping import Columns, read_mapping
from leftfold.cli.output import complain
from leftfold.cli.progress import STEP_EVENTS, Bar, Timer, bar
from leftfold.cli.rows import Given, Source, csv_rows, json_rows, opened
from leftfold.cli.session import Session
from leftfold.cli.typed import Typed
from leftfold.errors import InvalidInput


class ImportOptions(Struct, frozen=True, kw_only=True):
    """What to import, and how its columns become events."""

    file: Annotated[
        str, typer.Argument(metavar="FILE", help="- is stdin. A name in .gz is unpacked.")
    ]
    format: Annotated[
        Literal["jsonl", "csv"] | None,
        typer.Option("--format", help="By default CSV for a name in .csv or with a mapping."),
    ] = None
    mapping: Annotated[
        Path | None,
        typer.Option(
            "--mapping", metavar="FILE", help="The options below from a JSON file. Options win."
        ),
    ] = None
    stream: Annotated[
        str | None,
        typer.Option("--stream", metavar="TEMPLATE", help="The stream: 'account-{account_id}'."),
    ] = None
    type: Annotated[
        str | None,
        typer.Option("--type", metavar="TEMPLATE", help="The type: Posted, or '{type}'."),
    ] = None
    id: Annotated[
        str | None,
        typer.Option("--id", metavar="TEMPLATE", help="What identifies a row: '{trans_id}'."),
    ] = None
    occurred_at: Annotated[
        str | None,
        typer.Option("--occurred-at", metavar="TEMPLATE", help="When it happened: '{date}'."),
    ] = None
    date_format: Annotated[
        str | None,
        typer.Option(
            "--date-format", metavar="FORMAT", help="Of --occurred-at: %y%m%d. Default: ISO 8601."
        ),
    ] = None
    time_zone: Annotated[
        str | None,
        typer.Option("--time-zone", metavar="NAME", help="Of times without one. Default: UTC."),
    ] = None
    tag: Annotated[
        list[str],
        typer.Option("--tag", metavar="TEMPLATE", help="A tag: 'owner:{owner}'. Repeatable."),
    ] = []
    field: Annotated[
        list[str],
        typer.Option(
            "--field",
            metavar="NAME[:KIND]=COLUMN",
            help="A field of the data; KIND is string, int, number or bool. Repeatable. "
            "Default: every column, as a string.",
        ),
    ] = []
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", metavar="CHARACTER", help="Between columns. Default: ,"),
    ] = None
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="NAME",
            help="Stands for the file in ids that are made from lines. Default: its name.",
        ),
    ] = None

    @property
    def columns(self) -> Columns:
        """The mapping: options, and then what the mapping file says. Raises InvalidInput."""
        given = Columns(
            stream=self.stream,
            type=self.type,
            id=self.id,
            occurred_at=self.occurred_at,
            date_format=self.date_format,
            time_zone=self.time_zone,
            tags=self.tag,
            fields=dict(map(_field, self.field)),
            delimiter=self.delimiter,
        )
        return given if self.mapping is None else given.or_else(read_mapping(self.mapping))

    @property
    def name(self) -> str:
        """What stands for the file in ids and messages: the same wherever the file lies."""
        name = "stdin" if self.file == "-" else os.path.basename(self.file)
        return self.source or name.removesuffix(".gz")


class Imported(Struct, frozen=True):
    """What `import` came to, also where it stopped."""

    source: str
    read: int
    appended: int
    already_there: int
    complete: bool
    seconds: float
    events_per_second: int


def import_(session: Session, options: ImportOptions) -> None:
    """Record the events of a file, each once. Run again, it goes on where it stopped."""
    columns = options.columns
    is_csv = _is_csv(options, columns)
    typed = Typed(session.codec) if session.codec is not None else None
    interrupts = Interrupts()
    with interrupts.handled(), opened(options.file) as (file, told):
        source = Source(options.name, file)
        rows = csv_rows(source, columns, typed) if is_csv else json_rows(source, typed)
        with session.appending(may_create=True) as store:
            importer = Importer(store, interrupts, source.name)
            with _reported(session, importer), bar("import", _size(options.file)) as shown:
                importer.add_all(_shown(rows, shown, told))


@contextmanager
def _reported(session: Session, importer: Importer) -> Iterator[None]:
    """Report what was recorded, however the import ends."""
    timer, is_complete = Timer(), False
    try:
        yield
        is_complete = True
    except KeyboardInterrupt:
        complain("interrupted; run the same import again, and it goes on from here")
        raise
    finally:
        report = Imported(
            importer.source,
            importer.read,
            importer.appended,
            importer.known,
            is_complete,
            timer.seconds,
            timer.rate(importer.read),
        )
        session.output.document(report)


def _shown(rows: Iterator[Given], shown: Bar, told: Callable[[], int]) -> Iterator[Given]:
    for count, row in enumerate(rows, 1):
        if count % STEP_EVENTS == 0:
            shown.to(told(), count)
        yield row


def _size(file: str) -> int:
    return 0 if file == "-" else os.path.getsize(file)


def _field(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not equals or not name or not column:
        raise InvalidInput(f"--field is NAME=COLUMN or NAME:KIND=COLUMN, found {text!r}")
    return name, column


def _is_csv(options: ImportOptions, columns: Columns) -> bool:
    """Whether the file is CSV. Raises InvalidInput for a mapping that nothing would use."""
    is_mapped = columns != Columns()
    if options.format == "jsonl" and is_mapped:
        raise InvalidInput("JSON lines have names of their own; a mapping is for CSV")
    if options.format is not None:
        return options.format == "csv"
    return is_mapped or options.file.removesuffix(".gz").endswith(".csv")
