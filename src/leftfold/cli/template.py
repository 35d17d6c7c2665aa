"""Text made from the columns of a row: `account-{account_id}`."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

from leftfold.errors import InvalidInput

Row = Sequence[str]


def column_of(what: str, name: str, columns: Sequence[str]) -> int:
    """Which column has this name. Raises InvalidInput, which names those there are."""
    if name not in columns:
        there = ", ".join(columns)
        raise InvalidInput(f"{what} wants a column {name!r}; the file has {there}")
    return columns.index(name)


class Template:
    """`{name}` stands for a column, `{{` and `}}` for braces; all else is as it is.

    Raises InvalidInput for a column that is not there.
    """

    def __init__(self, what: str, text: str, columns: Sequence[str]) -> None:
        self._parts: list[tuple[str, int | None]] = []
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise _unusable(what, text, str(error)) from None
        for literal, name, format, conversion in parsed:
            if format or conversion:
                raise _unusable(what, text, "only the name of a column stands in braces")
            place = None if name is None else column_of(what, name, columns)
            self._parts.append((literal, place))

    def fill(self, row: Row) -> str | None:
        """The text for a row; None where a column that it names is empty."""
        text = ""
        for literal, place in self._parts:
            text += literal
            if place is not None:
                if not row[place]:
                    return None
                text += row[place]
        return text


def _unusable(what: str, text: str, reason: str) -> InvalidInput:
    return InvalidInput(f"{what} is text with {{column}} in it, found {text!r}: {reason}")
