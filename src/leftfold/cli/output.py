"""What commands print: tables for people on a terminal, aligned text for a pipe, JSON for machines.

Nothing from the log reaches a terminal unescaped: names and data are anybody's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

ROWS_AT_ONCE = 200
"""Rows that are held to find how wide the columns are."""

WHOLE_CHARACTERS_MAX = 32
"""Columns on a terminal that are wider may be folded."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the caller say how it ends: Rich would exit with a code of its own."""
        raise BrokenPipeError


def complain(message: object) -> None:
    """Say on stderr what is wrong, or what else is to be known."""
    print(f"leftfold: {message}", file=sys.stderr)


def cell(value: object) -> str:
    """A value as one line of text that a terminal shows as it is."""
    if isinstance(value, msgspec.Raw):
        value = bytes(value).decode()
    elif value is None:
        value = ""
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last is shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


class Output:
    """Where a command prints its results. `is_json`: one JSON document, or JSON lines."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        self._console = _Console(highlight=False, markup=False, emoji=False)
        self.is_terminal = self._console.is_terminal
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            # A name from the log may have characters that the terminal's encoding lacks.
            reconfigure(errors="backslashreplace")

    def document(self, document: Struct, heading: str = "") -> None:
        """One result with names and values."""
        if self.is_json:
            self.json(document)
            return
        values = {name: getattr(document, name) for name in document.__struct_fields__}
        self.text(heading)
        self.values({name: value for name, value in values.items() if value is not None})

    def values(self, values: Mapping[str, object]) -> None:
        """Names and values for people."""
        shown = {cell(name): cell(value) for name, value in values.items()}
        width = max(map(len, shown))
        if not self.is_terminal:
            self.text("\n".join(f"{name:<{width}}  {value}" for name, value in shown.items()))
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in shown.items():
            table.add_row(name, Text(value))
        self._console.print(table)

    def text(self, text: str) -> None:
        """Lines for people."""
        if text and not self.is_json:
            sys.stdout.write(text + "\n")

    def json(self, *documents: object) -> None:
        """Each as JSON on a line of its own."""
        text = b"".join(msgspec.json.encode(each) + b"\n" for each in documents)
        sys.stdout.buffer.write(text)

    def rows(self, items: Iterable[T], show: Callable[[T], Struct], row: type[Struct]) -> None:
        """A table, or JSON lines, of what `show` makes of each item: values of the class `row`."""
        listing = Listing(self, row)
        for chunk in chunks(items, ROWS_AT_ONCE):
            listing.add([show(item) for item in chunk])
        listing.end()


class Listing:
    """Rows as they come, in columns as wide as the widest cell so far."""

    def __init__(self, output: Output, row: type[Struct]) -> None:
        self._output = output
        self._columns: Sequence[str] = row.__struct_fields__
        self._widths = [0] * len(self._columns)
        self._is_begun = False

    def add(self, rows: Sequence[Struct]) -> None:
        """Print some rows."""
        if self._output.is_json:
            self._output.json(*rows)
        else:
            names = self._columns
            self._print([[cell(getattr(row, name)) for name in names] for row in rows])

    def end(self) -> None:
        """Say that there was nothing, if so."""
        if not self._is_begun and not self._output.is_json:
            self._print([])

    def _print(self, cells: list[list[str]]) -> None:
        head = [] if self._is_begun else [list(self._columns)]
        self._is_begun = True
        for row in head + cells:
            self._widths = [max(*pair) for pair in zip(self._widths, map(len, row), strict=True)]
        if self._output.is_terminal:
            self._print_table(bool(head), cells)
            return
        # The last column is often long: it is not padded.
        widths = [*self._widths[:-1], 0]
        padded = (zip(row, widths, strict=True) for row in head + cells)
        lines = ["  ".join(text.ljust(width) for text, width in pairs) for pairs in padded]
        self._output.text("\n".join(line.rstrip() for line in lines))

    def _print_table(self, has_head: bool, cells: list[list[str]]) -> None:
        table = Table(box=None, show_header=has_head, pad_edge=False, header_style="bold")
        *names, last = self._columns
        for name, width in zip(names, self._widths, strict=False):
            if width <= WHOLE_CHARACTERS_MAX:
                table.add_column(name, min_width=width, no_wrap=True)
            else:
                table.add_column(name, overflow="fold")
        table.add_column(last, overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        self._output._console.print(table)


def as_json(value: Any) -> str:
    """A value as JSON on one line, or how Python shows it where JSON has no words for it."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return repr(value)
