"""Recording rows once each: batches, repeats, and what to do when it stops in the middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

from leftfold.cli.interrupt import Interrupts
from leftfold.cli.rows import BadLine, Given
from leftfold.errors import DuplicateEvent
from leftfold.event import Appended, Event, RecordedEvent
from leftfold.facade import EventStore
from leftfold.formats import decode_plain

BATCH_EVENTS_MAX = 1000
BATCH_BYTES_MAX = 8 * 1024 * 1024
SPAN_PER_EVENT_MAX = 4
"""Positions that are read for each event that is recorded already. If it lies in more, it is looked
up by itself.
"""


class Importer:
    """Appends rows in batches. An event whose id is recorded already has to be the same event."""

    def __init__(self, store: EventStore, interrupts: Interrupts, source: str) -> None:
        self._store = store
        self._interrupts = interrupts
        self.source = source
        self._batch: dict[UUID, Given] = {}
        self._bytes = 0
        self.read = self.appended = self.known = 0

    def add_all(self, rows: Iterable[Given]) -> None:
        """Record all rows. What comes before a bad line is recorded. Raises BadLine."""
        try:
            for row in rows:
                self._add(row)
        except BadLine:
            self._flush()
            raise
        self._flush()

    def _add(self, row: Given) -> None:
        self.read += 1
        same = self._batch.get(row.event.id)
        if same is not None:
            if row.event != same.event:
                raise self._other(row, f"line {same.line}")
            self.known += 1
            return
        size = len(row.event.data)
        if len(self._batch) >= BATCH_EVENTS_MAX or self._bytes + size > BATCH_BYTES_MAX:
            self._flush()
        self._batch[row.event.id] = row
        self._bytes += size

    def _flush(self) -> None:
        rows = list(self._batch.values())
        self._batch.clear()
        self._bytes = 0
        if rows:
            with self._interrupts.shield():
                self._record(rows)

    def _record(self, rows: Sequence[Given]) -> None:
        head = self._store.head()
        try:
            appended = self._append(rows)
        except DuplicateEvent as error:
            known = set(error.known)
            repeated = [each for each in rows if each.event.id in known]
            # All of their ids are recorded, so this writes nothing: it says where they are (G5).
            self._record_rest(repeated, rows, self._append(repeated))
            return
        # By G4 nothing new is recorded at or below a position that was there before.
        if appended.first_position > head:
            self.appended += len(rows)
        else:
            self._record_rest(rows, rows, appended)

    def _record_rest(self, known: Sequence[Given], rows: Sequence[Given], place: Appended) -> None:
        """Check the rows that are recorded already, and record those of the batch that are not."""
        ids = {each.event.id for each in known}
        rest = [each for each in rows if each.event.id not in ids]
        wrong = next(self._wrong(known, place), None)
        if wrong is not None:
            rest = [each for each in rest if each.line < wrong.line]
        if rest:
            self._append(rest)
            self.appended += len(rest)
        if wrong is not None:
            raise wrong
        self.known += len(known)

    def _append(self, rows: Sequence[Given]) -> Appended:
        return self._store.append([each.event for each in rows])

    def _wrong(self, known: Sequence[Given], place: Appended) -> Iterator[BadLine]:
        """The rows whose ids other events have."""
        found = self._recorded(known, place)
        for row in known:
            recorded = found[row.event.id.bytes]
            if not _is_recorded(row.event, recorded):
                yield self._other(row, f"position {recorded.position}")

    def _other(self, row: Given, where: str) -> BadLine:
        reason = f"{where} has the same event id {row.event.id}, but other content"
        return BadLine(self.source, row.line, reason)

    def _recorded(
        self, known: Sequence[Given], place: Appended
    ) -> Mapping[bytes, RecordedEvent[bytes]]:
        span = place.position - place.first_position + 1
        if span > len(known) * SPAN_PER_EVENT_MAX and len(known) > 1:
            middle = len(known) // 2
            halves = known[:middle], known[middle:]
            first, second = (self._recorded(each, self._append(each)) for each in halves)
            return {**first, **second}
        events = self._store.read(after=place.first_position - 1, until=place.position)
        return {event.id_bytes: event for event in events}


def _is_recorded(event: Event[bytes], recorded: RecordedEvent[bytes]) -> bool:
    """Whether a recorded event is what an import of `event` would make."""
    return (
        recorded.stream == event.stream
        and recorded.type == event.type
        and recorded.schema_version == event.schema_version
        and sorted(recorded.tags) == sorted(event.tags)
        and recorded.metadata == event.metadata
        and _has_time(event, recorded)
        and _is_same_data(recorded.data, event.data)
    )


def _has_time(event: Event[bytes], recorded: RecordedEvent[bytes]) -> bool:
    if event.occurred_at is None:
        return recorded.occurred_us is None
    # An export says when an event occurred also where that is when it was recorded.
    return recorded.occurred_at == event.occurred_at


def _is_same_data(data: bytes, other: bytes) -> bool:
    try:
        # The order of fields says nothing.
        return data == other or decode_plain(data) == decode_plain(other)
    except (ValueError, RecursionError):
        return False
