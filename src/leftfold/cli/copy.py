"""The command `copy`: moves a whole log into another store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.interrupt import Interrupts
from leftfold.cli.output import complain
from leftfold.cli.progress import Timer, bar
from leftfold.cli.session import PROBLEMS, Session, open_at, path_of
from leftfold.errors import (
    AppendConditionFailed,
    DuplicateEvent,
    InvalidInput,
    LeftfoldError,
    OutcomeUnknown,
    StoreUnavailable,
)
from leftfold.event import Event, RecordedEvent
from leftfold.facade import EventStore
from leftfold.limits import CONDITIONS_MAX
from leftfold.query import ALL, Condition, NoneMatch, StreamVersion, Version, select

BATCH_EVENTS_MAX = CONDITIONS_MAX - 1
"""Each event may be of another stream. One more condition is about the whole log."""
BATCH_BYTES_MAX = 8 * 1024 * 1024
SHOWN_CHARACTERS_MAX = 80

_IDENTITY = attrgetter("id_bytes", "stream", "version")
_STORED = attrgetter("id_bytes", "stream", "version", "type", "schema_version", "data", "tags")
_NAMES = (
    *("id", "stream", "version", "type", "schema_version"),
    *("data", "tags", "occurred_at", "metadata"),
)

Recorded = RecordedEvent[Any]


class CopyOptions(Struct, frozen=True, kw_only=True):
    """From where, and where to."""

    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The store to copy, such as sqlite:///bank.db.")
    ]
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The store to copy to. Created where needed.")
    ]
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not compare all events at the end.")
    ] = False


class Copied(Struct, frozen=True):
    """What `copy` came to."""

    copied: int
    already_there: int
    head: int
    """The source's, when the copy began: what came later is not copied."""
    positions_same: bool
    seconds: float
    events_per_second: int
    """Of copying alone."""
    verified: bool


class TargetDiffers(LeftfoldError):
    """The target has events that this copy would not have written."""


class Copying:
    """One run: finds out how far earlier ones came, goes on from there, and compares at the end."""

    def __init__(self, source: EventStore, target: EventStore, interrupts: Interrupts) -> None:
        self._source = source
        self._target = target
        self._interrupts = interrupts
        self._source_at = self._target_at = 0
        """The positions, here and there, of the last event that both have."""
        self.head = self.copied = self.already_there = 0
        self.positions_same = True

    def find_place(self) -> None:
        """Find the last event of the target in the source. Raises TargetDiffers.

        What is before it is not compared here, unless positions differ, so that going on is quick.
        """
        last = next(self._target.read(limit=1, backwards=True), None)
        # Not earlier: another copy may have brought the target to a head that is newer.
        self.head = self._source.head()
        if last is None:
            return
        before = Version(last.version - 1)
        found = next(self._source.read(select(last.stream), after=before, limit=1), None)
        is_there = found is not None and _IDENTITY(found) == _IDENTITY(last)
        if found is not None and is_there and found.position == last.position:
            self.already_there = self._source_at = self._target_at = last.position
        else:
            self._compare_up_to(last)

    def _compare_up_to(self, last: Recorded) -> None:
        """Look at every event of the target: each has to be the source's next one."""
        expected = self._source.read(until=self.head)
        with bar("compare", last.position) as shown:
            for found in shown.along(self._target.read(until=last.position)):
                other = next(expected, None)
                if other is None or _IDENTITY(other) != _IDENTITY(found):
                    ends = "the source ends" if other is None else f"the source has {_place(other)}"
                    raise TargetDiffers(
                        f"the target is no copy of the source: where {ends}, "
                        f"it has {_place(found)}; copy into another store"
                    )
                self._at(other.position, found.position)
                self.already_there += 1

    def _at(self, source_at: int, target_at: int) -> None:
        self._source_at, self._target_at = source_at, target_at
        self.positions_same &= source_at == target_at

    def run(self) -> None:
        """Record what the target lacks, up to the head. Raises TargetDiffers where others write to
        it.
        """
        begin = self._source_at
        events = self._source.read(after=begin, until=self.head)
        with bar("copy", self.head - begin) as shown:
            for batch in _batches(events):
                with self._interrupts.shield():
                    self._append(batch)
                shown.to(self._source_at - begin, self.copied)

    def _append(self, batch: list[Recorded]) -> None:
        streams: dict[str, int] = {}
        for event in batch:
            streams.setdefault(event.stream, event.version - 1)
        # The first lets nothing slip in between two batches, whatever its stream.
        conditions: list[Condition] = [
            NoneMatch(ALL, after=self._target_at),
            *(StreamVersion(stream, version) for stream, version in streams.items()),
        ]
        try:
            done = self._target.append(map(_again, batch), conditions=conditions)
        except (AppendConditionFailed, DuplicateEvent) as error:
            raise self._foreign(error) from error
        # An append is recorded adjacent, so its ends say where all of it is.
        self._at(batch[0].position, done.first_position)
        self._at(batch[-1].position, done.position)
        self.copied += len(batch)

    def _foreign(self, error: LeftfoldError) -> TargetDiffers:
        found = next(self._target.read(after=self._target_at, limit=1), None)
        what = str(error) if found is None else f"it has {_place(found)}"
        return TargetDiffers(
            f"the target has events that this copy did not write: {what}; "
            "stop what else writes to it, and run the same copy again"
        )

    def first_difference(self) -> str | None:
        """Read both logs again, and compare what was copied, now or before, event by event."""
        copy = self._target.read(until=self._target_at)
        compared = 0
        with bar("verify", self.head) as shown:
            events = shown.along(self._source.read(until=self.head))
            for expected, found in zip_longest(events, copy):
                difference = _difference(expected, found)
                if difference is not None:
                    return difference
                compared += 1
                self.positions_same &= expected.position == found.position
        self.already_there = compared - self.copied
        return None


def _batches(events: Iterable[Recorded]) -> Iterator[list[Recorded]]:
    batch: list[Recorded] = []
    size = 0
    for event in events:
        if len(batch) == BATCH_EVENTS_MAX or (batch and size + len(event.data) > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event.data)
    if batch:
        yield batch


def _again(event: Recorded) -> Event[bytes]:
    """The event to append. The target records it at another time, so it says when it occurred."""
    return Event(
        event.stream,
        event.data,
        type=event.type,
        tags=event.tags,
        id=event.id,
        metadata=event.metadata,
        schema_version=event.schema_version,
        occurred_at=event.occurred_at,
    )


def _difference(expected: Recorded | None, found: Recorded | None) -> str | None:
    """What a copy has other than the event, None where it is equal."""
    if found is None:
        return None if expected is None else f"only the source has {_place(expected)}"
    if expected is None:
        return f"only the target has {_place(found)}"
    if (
        _STORED(expected) == _STORED(found)
        and expected.packed_metadata == found.packed_metadata
        and expected.occurred_at == found.occurred_at
    ):
        return None
    for name in _NAMES:
        here, there = _comparable(expected, name), _comparable(found, name)
        if here != there:
            other = f"{name} is {_short(here)} in the source, {_short(there)} in the target"
            return f"{_place(expected)}: {other}"
    return None


def _comparable(event: Recorded, name: str) -> Any:
    value = getattr(event, name)
    # As JSON: in Python, True and 1 and 1.0 are equal.
    return msgspec.json.encode(value, order="deterministic") if name == "metadata" else value


def _place(event: Recorded) -> str:
    at = f"position {event.position}, version {event.version} of stream {event.stream!r}"
    return f"event {event.id} at {at}"


def _short(value: object) -> str:
    text = repr(value)
    shown = text[:SHOWN_CHARACTERS_MAX]
    return text if shown == text else f"{shown}... ({len(text)} characters)"


def copy(session: Session, options: CopyOptions) -> int:
    """Copy a whole log into another store. Run again, it goes on where it stopped."""
    _refuse_same(options.source, options.target)
    timer, interrupts = Timer(), Interrupts()
    with (
        interrupts.handled(),
        open_at(options.source) as source,
        open_at(options.target, may_create=True) as target,
    ):
        copying = Copying(source, target, interrupts)
        with _can_go_on():
            copying.find_place()
            copy_timer = Timer()
            copying.run()
            speed = copy_timer.rate(copying.copied)
            difference = None if options.no_verify else copying.first_difference()
    result = Copied(
        copying.copied,
        copying.already_there,
        copying.head,
        copying.positions_same,
        timer.seconds,
        speed,
        verified=not options.no_verify and difference is None,
    )
    session.output.document(result)
    if difference is None:
        return 0
    complain(f"the copy is not equal: {difference}")
    return PROBLEMS


def _refuse_same(source: str, target: str) -> None:
    """Refuse to copy a log into itself, by whichever name."""
    paths = [path_of(each) for each in (source, target)]
    there = [path for path in paths if path and os.path.exists(path)]
    if source == target or (len(there) == 2 and os.path.samefile(*there)):
        raise InvalidInput("SOURCE and TARGET are the same store")


@contextmanager
def _can_go_on() -> Iterator[None]:
    """Say, however the copy is stopped, that it is not lost."""
    try:
        yield
    except (KeyboardInterrupt, StoreUnavailable, OutcomeUnknown):
        complain("the copy was stopped; run it again, and it goes on where it stopped")
        raise
