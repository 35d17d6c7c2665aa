"""Moments as text: ISO 8601 in UTC on the way out, any ISO 8601 with a time zone on the way in."""

from __future__ import annotations

from datetime import datetime

from leftfold.errors import InvalidInput
from leftfold.event import from_us


def iso(us: int) -> str:
    """Microseconds since 1970 as ISO 8601 in UTC, always of the same length."""
    try:
        return from_us(us).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    except OverflowError:
        # In a damaged file only, and that is worth seeing.
        return f"{us} us after 1970"


def moment(what: str, text: str) -> datetime:
    """The moment that `text` says in ISO 8601. Raises InvalidInput, also where no time zone is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{what} is a moment in ISO 8601 such as 2026-03-31T18:00:00Z, found {text!r}"
        ) from None
    if found.utcoffset() is None:
        raise InvalidInput(f"{what} has a time zone, found {text!r}; add Z for UTC, or +01:00")
    return found


def number_or_moment(what: str, text: str) -> int | datetime:
    """A position or version, where `text` is digits; else a moment. Raises InvalidInput."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return moment(what, text)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; or it is a number") from None
