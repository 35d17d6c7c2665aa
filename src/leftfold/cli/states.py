"""Commands about the state of one stream: state, history. They fold with the decider of the app."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.output import as_json, complain
from leftfold.cli.session import PROBLEMS, Session, check_stream_exists
from leftfold.cli.times import iso, moment, number_or_moment
from leftfold.decider import Decider
from leftfold.errors import InvalidInput
from leftfold.loading import Step

SHOWN_CHARACTERS_MAX = 60
"""Of a value in a change, for people."""
_STREAM_HELP = "Such as account-123; its category names the decider."


class StateOptions(Struct, frozen=True, kw_only=True):
    """Whose state, and when."""

    stream: Annotated[str, typer.Argument(metavar="STREAM", help=_STREAM_HELP)]
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="VERSION|TIME",
            help="After so many events, or as it was recorded at that moment.",
        ),
    ] = None
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="Of what had happened (occurred) by then."),
    ] = None


class StateShown(Struct, frozen=True):
    """A state, and how far it goes."""

    stream: str
    version: int
    position: int
    state: Any


def state(session: Session, options: StateOptions) -> int | None:
    """Fold the state of a stream, now or at an earlier time."""
    decider, id = _decider(session, options.stream)
    at = None if options.at is None else number_or_moment("--at", options.at)
    as_of = None if options.as_of is None else moment("--as-of", options.as_of)
    with session.open(session.app) as store:
        check_stream_exists(store, options.stream)
        loaded = store.load(decider, id, at=at, as_of=as_of)
    if loaded.version == 0 and at != 0:
        complain(f"stream {options.stream!r} had no events by then")
        return PROBLEMS
    shown = StateShown(options.stream, loaded.version, loaded.position, plain(loaded.state))
    if session.output.is_json:
        session.output.document(shown)
        return None
    session.output.text(f"{shown.stream} at version {shown.version}, position {shown.position}")
    session.output.values(leaves(shown.state))
    return None


class HistoryOptions(Struct, frozen=True, kw_only=True):
    """Whose history, from where to where."""

    stream: Annotated[str, typer.Argument(metavar="STREAM", help=_STREAM_HELP)]
    after: Annotated[
        str,
        typer.Option("--after", metavar="VERSION|TIME", help="Only events after this."),
    ] = "0"
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="VERSION|TIME", help="Only events up to and with this."),
    ] = None
    last: Annotated[
        int | None, typer.Option("--last", min=1, metavar="N", help="Only the last so many.")
    ] = None


class Change(Struct, frozen=True):
    """A field of the state that an event changed. `field` has dots where states are nested."""

    field: str
    before: Any
    after: Any


class StepLine(Struct, frozen=True):
    """A step of a history, as JSON."""

    version: int
    position: int
    recorded_at: str
    occurred_at: str
    type: str
    data: Any
    changes: list[Change]


class StepRow(Struct, frozen=True):
    """A step of a history in a table."""

    version: int
    occurred_at: str
    type: str
    data: str
    changes: str


def history(session: Session, options: HistoryOptions) -> None:
    """Print the events of a stream, and what each changed in the state."""
    decider, id = _decider(session, options.stream)
    after = number_or_moment("--after", options.after)
    until = None if options.until is None else number_or_moment("--until", options.until)
    output = session.output
    with session.open(session.app) as store:
        check_stream_exists(store, options.stream)
        found: Iterator[Step[Any]] = store.history(decider, id, after=after, until=until)
        steps = found if options.last is None else iter(deque(found, maxlen=options.last))
        if output.is_json:
            output.rows(steps, _line, StepLine)
        else:
            output.rows(steps, _row, StepRow)


def _decider(session: Session, stream: str) -> tuple[Decider[Any, Any, Any], str]:
    """The decider of a stream, and the id in its name. Raises InvalidInput."""
    category, dash, id = stream.partition("-")
    if not dash or not id:
        raise InvalidInput(f"the stream of a decider looks like category-id, found {stream!r}")
    return session.app.decider(category), id


def _line(step: Step[Any]) -> StepLine:
    event = step.event
    occurred_us = event.recorded_us if event.occurred_us is None else event.occurred_us
    return StepLine(
        event.version,
        event.position,
        iso(event.recorded_us),
        iso(occurred_us),
        event.type,
        plain(event.data),
        list(changes(plain(step.before), plain(step.after))),
    )


def _row(step: Step[Any]) -> StepRow:
    line = _line(step)
    told = (f"{each.field}: {_short(each.before)} -> {_short(each.after)}" for each in line.changes)
    return StepRow(
        line.version, line.occurred_at, line.type, as_json(line.data), "; ".join(told) or "-"
    )


def plain(value: Any) -> Any:
    """The value as JSON has it: dicts, lists, text, numbers; as Python shows it where it cannot. Of
    a Struct, that is field by field.
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except TypeError:
        if isinstance(value, Struct):
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return repr(value)
    except (ValueError, RecursionError):
        return repr(value)


def changes(before: Any, after: Any, place: str = "") -> Iterator[Change]:
    """The fields that differ, by name; below them where both are objects."""
    if before == after:
        return
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        yield Change(place or "state", before, after)
        return
    for name in dict.fromkeys((*before, *after)):
        below = f"{place}.{name}" if place else str(name)
        yield from changes(before.get(name), after.get(name), below)


def leaves(value: Any, place: str = "") -> dict[str, str]:
    """The fields of a state, each with its value as text, and with dots where it is nested."""
    if not isinstance(value, Mapping) or not value:
        return {place or "state": value if isinstance(value, str) else as_json(value)}
    found: dict[str, str] = {}
    for name, each in value.items():
        found.update(leaves(each, f"{place}.{name}" if place else str(name)))
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else as_json(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}..."
