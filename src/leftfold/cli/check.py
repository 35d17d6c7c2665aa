"""The command `check`: reads the whole log, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import apsw
import typer
from msgspec import Struct

from leftfold.app import App
from leftfold.cli.doctor import without_password
from leftfold.cli.progress import STEP_EVENTS, Timer, bar
from leftfold.cli.scan import Problem, Scan, problem, problem_of
from leftfold.cli.session import PROBLEMS, Session
from leftfold.cli.sqlite_file import (
    index_differences,
    indexed_tags,
    integrity,
    schema_differences,
)
from leftfold.codec import EventCodec
from leftfold.errors import EvolveFailed, StoreUnavailable, UndecodableEvent
from leftfold.event import RecordedEvent
from leftfold.facade import EventStore
from leftfold.process.wire import ProcessCodec
from leftfold.query import ALL
from leftfold.stores.sqlite import SqliteStore
from leftfold.stores.sqlite.connection import SqliteOptions, connect

# What SQLite says of a damaged file. Others, such as a lock, say nothing about the log.
_DAMAGE = (apsw.CorruptError, apsw.SQLError, apsw.MismatchError)


class CheckOptions(Struct, frozen=True, kw_only=True):
    """How much to say."""

    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="N", help="Print at most so many problems.")
    ] = 100


class Checked(Struct, frozen=True):
    """What `check` has found."""

    store: str
    head: int
    events: int
    streams: int
    decoded: bool
    """Whether events were decoded: with --app only."""
    folded_streams: int
    problem_count: int
    problems: list[Problem]
    """The first of them."""
    seconds: float
    events_per_second: int


class Check:
    """One run of all checks. Each yields the problems that it finds."""

    def __init__(self, session: Session, store: EventStore) -> None:
        self._session = session
        self._store = store
        self.head = 0
        self.scan = Scan()
        self.folded = 0

    def problems(self) -> Iterator[Problem]:
        """Every problem, check by check."""
        store = self._store.store
        if not isinstance(store, SqliteStore):
            yield from self._log(None)
            return
        connection = connect(store.path, SqliteOptions())
        try:
            yield from _of_file(connection)
            yield from self._log(connection)
        finally:
            connection.close()

    def _log(self, connection: apsw.Connection | None) -> Iterator[Problem]:
        yield from _unless_damaged(
            self._events(), "the events that follow cannot be read, and were not checked"
        )
        yield from self.scan.repeated_ids()
        more: Iterator[str] = iter(()) if connection is None else indexed_tags(connection)
        yield from _unless_damaged(self._tags(more), "the index by tag cannot be read")
        target = self._session.target
        if target is not None and target.app is not None:
            yield from self._folds(target.app)

    def _tags(self, more: Iterator[str]) -> Iterator[Problem]:
        count, tags = self.scan.all_tags(more)
        with bar("check tags", count) as shown:
            for done, tag in enumerate(tags, 1):
                yield from self.scan.tag_difference(self._store, tag)
                if done % STEP_EVENTS == 0:
                    shown.to(done, done, "tags")

    def _events(self) -> Iterator[Problem]:
        codec: EventCodec | None = self._session.codec
        if codec is not None and self._session.has_processes:
            codec = ProcessCodec(codec)
        self.head = self._store.head()
        with bar("check", self.head) as shown:
            for event in shown.along(self._store.read(ALL, until=self.head)):
                yield from self.scan.look(event)
                yield from _own(event)
                if codec is not None:
                    yield from _undecodable(event, codec)

    def _folds(self, app: App) -> Iterator[Problem]:
        deciders = {each.category: each for each in app.deciders}
        with (
            self._session.open(app) as store,
            bar("check folds", len(self.scan.versions)) as shown,
        ):
            for count, stream in enumerate(self.scan.versions, 1):
                category, _, id = stream.partition("-")
                # A stream without an id is nothing that the decider has written, or can load.
                if id and category in deciders:
                    self.folded += 1
                    yield from _fold(store, deciders[category], id)
                    shown.to(count, count, "streams")


def _of_file(connection: apsw.Connection) -> Iterator[Problem]:
    """What is wrong with the file, before anybody asks for an event."""
    for checks in (integrity, schema_differences, index_differences):
        yield from _unless_damaged(checks(connection), "the file cannot be checked further")


def _unless_damaged(problems: Iterator[Problem], otherwise: str) -> Iterator[Problem]:
    """The problems; and one more where the file is too damaged to go on."""
    try:
        yield from problems
    except StoreUnavailable as error:
        if not isinstance(error.__cause__, _DAMAGE):
            raise
        yield problem("unreadable", f"{otherwise}: {error.__cause__}")
    except _DAMAGE as error:
        yield problem("unreadable", f"{otherwise}: {error}")


def _own(event: RecordedEvent[bytes]) -> Iterator[Problem]:
    """What is wrong with an event on its own."""
    if len(event.id_bytes) != 16:
        yield problem_of(event, "id", f"its id has {len(event.id_bytes)} bytes, expected 16")
    try:
        _ = event.metadata, event.recorded_at, event.occurred_at
    except (ValueError, TypeError, OverflowError) as error:
        yield problem_of(event, "metadata", f"its metadata or times cannot be read: {error}")


def _undecodable(event: RecordedEvent[bytes], codec: EventCodec) -> Iterator[Problem]:
    try:
        codec.decode_page([event])
    except UndecodableEvent as error:
        yield problem_of(event, "decode", f"{event.type}: {error.reason}")


def _fold(store: EventStore, decider: Any, id: str) -> Iterator[Problem]:
    try:
        # Step by step: a load may begin at a snapshot.
        for _ in store.history(decider, id):
            pass
    except EvolveFailed as error:
        yield Problem("evolve", error.position, error.stream, error.version, str(error))
    except UndecodableEvent:
        # Reported by position already.
        return


def check(session: Session, options: CheckOptions) -> int:
    """Verify the whole log. The exit code is 1 if there is any problem."""
    timer, count = Timer(), 0
    problems: list[Problem] = []
    with session.open() as store:
        run = Check(session, store)
        for problem in run.problems():
            count += 1
            if len(problems) < options.limit:
                problems.append(problem)
        run.scan.close()
    checked = Checked(
        without_password(session.url),
        run.head,
        run.scan.events,
        len(run.scan.versions),
        session.target is not None,
        run.folded,
        count,
        problems,
        timer.seconds,
        timer.rate(run.scan.events),
    )
    _report(session, checked)
    return PROBLEMS if count else 0


def _report(session: Session, checked: Checked) -> None:
    output = session.output
    if output.is_json:
        output.document(checked)
        return
    if checked.problems:
        output.rows(checked.problems, lambda each: each, Problem)
    if checked.problem_count > len(checked.problems):
        output.text(f"... and {checked.problem_count - len(checked.problems)} more; see --limit")
    numbers = f"{checked.events:,} events in {checked.streams:,} streams"
    speed = f"{checked.seconds} s, {checked.events_per_second:,} events/s"
    output.text(f"{checked.problem_count:,} problems in {numbers} ({speed})")
    if not checked.decoded:
        output.text("events were not decoded: that needs --app")
    else:
        output.text(f"all events were decoded, and {checked.folded_streams:,} streams folded")
