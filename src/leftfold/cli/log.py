"""Commands about the log itself: init, append, read, tail."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.doctor import without_password
from leftfold.cli.interrupt import on_interrupt
from leftfold.cli.options import Selection, Span
from leftfold.cli.output import Listing
from leftfold.cli.session import INTERRUPTED, Session, check_stream_exists
from leftfold.cli.times import iso, moment
from leftfold.cli.typed import Typed
from leftfold.cli.wire import Line, data_text, to_line
from leftfold.errors import InvalidInput
from leftfold.event import Event, Metadata, RecordedEvent, new_id
from leftfold.facade import EventStore
from leftfold.limits import PAGE_EVENTS_MAX
from leftfold.query import StreamVersion


class Opened(Struct, frozen=True):
    """What `init` found."""

    store: str
    path: str | None
    head: int


def init(session: Session) -> None:
    """Create the store. Where it is already, nothing changes."""
    with session.open(may_create=True) as store:
        path = getattr(store.store, "path", None)
        result = Opened(without_password(session.url), path, store.head())
    is_new = "a new store" if result.head == 0 else "the store is there already"
    session.output.document(result, is_new)


class AppendOptions(Struct, frozen=True, kw_only=True):
    """What to append."""

    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Such as account-123.")]
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Such as MoneyDeposited.")]
    data: Annotated[str, typer.Argument(metavar="JSON", help="The data; - reads it from stdin.")]
    tag: Annotated[list[str], typer.Option("--tag", metavar="TAG", help="A tag. Repeatable.")] = []
    expected_version: Annotated[
        int | None,
        typer.Option(
            "--expected-version",
            min=0,
            metavar="N",
            help="Only if the stream is at this version; 0: only if it is new.",
        ),
    ] = None
    id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="UUID", help="The id of the event: the same id is recorded once."
        ),
    ] = None
    occurred_at: Annotated[
        str | None,
        typer.Option(
            "--occurred-at", metavar="TIME", help="When it happened: ISO 8601 with a time zone."
        ),
    ] = None
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="TEXT", help="Who asked for it.")
    ] = None
    correlation_id: Annotated[
        str | None,
        typer.Option("--correlation-id", metavar="ID", help="The conversation it belongs to."),
    ] = None
    causation_id: Annotated[
        str | None,
        typer.Option("--causation-id", metavar="ID", help="The command or event that caused it."),
    ] = None
    command_id: Annotated[
        str | None, typer.Option("--command-id", metavar="ID", help="The command that was handled.")
    ] = None

    def event(self) -> Event[bytes]:
        """The event to append, with its data as it was given. Raises InvalidInput."""
        text = sys.stdin.read() if self.data == "-" else self.data
        try:
            # The log keeps data on one line: blanks say nothing in JSON.
            data = msgspec.json.format(text, indent=-1).encode()
            msgspec.json.decode(data)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"the data is no JSON: {error}") from None
        return Event(
            self.stream,
            data,
            type=self.type,
            tags=tuple(self.tag),
            id=_uuid(self.id) if self.id else new_id(),
            metadata=Metadata(self.correlation_id, self.causation_id, self.command_id, self.actor),
            occurred_at=moment("--occurred-at", self.occurred_at) if self.occurred_at else None,
        )


class Recorded(Struct, frozen=True):
    """What `append` came to."""

    position: int
    stream: str
    version: int
    id: str


def append(session: Session, options: AppendOptions) -> None:
    """Append one event. With --app its data is checked against its class."""
    event = options.event()
    if session.codec is not None:
        event = Typed(session.codec).encode(event)
    expected = options.expected_version
    conditions = () if expected is None else (StreamVersion(event.stream, expected),)
    with session.appending() as store:
        appended = store.append([event], conditions=conditions)
    version = appended.versions[event.stream]
    session.output.document(Recorded(appended.position, event.stream, version, str(event.id)))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(f"--id is a UUID, found {text!r}") from None


class EventRow(Struct, frozen=True):
    """An event in a table."""

    position: int
    recorded_at: str
    stream: str
    version: int
    type: str
    data: str


def _row(event: RecordedEvent[bytes]) -> EventRow:
    return EventRow(
        event.position,
        iso(event.recorded_us),
        event.stream,
        event.version,
        event.type,
        data_text(event.data),
    )


def read(session: Session, options: Span) -> None:
    """Print the events of the log, as they are stored."""
    output = session.output
    show, row = (to_line, Line) if output.is_json else (_row, EventRow)
    with session.open() as store:
        events = options.read(store)
        check_stream_exists(store, options.stream)
        output.rows(events, show, row)


class TailOptions(Selection, frozen=True, kw_only=True):
    """Which end of the log."""

    number: Annotated[
        int,
        typer.Option(
            "--number", "-n", min=0, max=PAGE_EVENTS_MAX, metavar="N", help="How many events."
        ),
    ] = 10
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on with new events, until Ctrl-C."),
    ] = False


def tail(session: Session, options: TailOptions) -> int | None:
    """Print the last events of the log, and with -f new ones as they come."""
    output = session.output
    show, row = (to_line, Line) if output.is_json else (_row, EventRow)
    listing = Listing(output, row)

    def print_now(events: Sequence[RecordedEvent[bytes]]) -> None:
        listing.add([show(event) for event in events])
        sys.stdout.flush()

    query = options.query
    with session.open() as store:
        if not options.follow:
            check_stream_exists(store, options.stream)
        # Taken before reading: what comes in between is read, and then not followed again.
        head = store.head()
        events = _last(store, options, head)
        print_now(events)
        if not options.follow:
            return None
        following = store.subscribe(query, after=head)
        with on_interrupt(following.close):
            for event in following:
                print_now([event])
    return INTERRUPTED


def _last(store: EventStore, options: TailOptions, head: int) -> list[RecordedEvent[bytes]]:
    if options.number == 0:
        return []
    last = store.read(options.query, until=head, limit=options.number, backwards=True)
    return list(last)[::-1]
