"""Writing groups of appends: one transaction, each append judged on its own.

The writer remembers the head of the log, the versions of streams and the ids of names, and trusts
them only while SQLite's data version says that nobody else has committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw

from leftfold.errors import (
    AppendConditionFailed,
    DuplicateEvent,
    InvalidInput,
    LeftfoldError,
    OutcomeUnknown,
    ProjectionFailed,
    ProjectionRefused,
)
from leftfold.event import NO_METADATA, Appended, Event, RecordedEvent, pack_metadata, to_us
from leftfold.projection.keeping import Keeper
from leftfold.query import Condition, StreamVersion, category_of
from leftfold.stores.group import Append, Outcome
from leftfold.stores.sqlite.connection import translate
from leftfold.stores.sqlite.inlining import InlineTransaction, as_recorded
from leftfold.stores.sqlite.select import PositionSelect

NAMES_CACHED_MAX = 200_000
FULL_IS_CERTAIN = {"unix", "unix-excl", "unix-dotfile", "unix-none"}
"""SQLite's own file systems, where "full" means that a write was refused. Another may say so of a
sync as well, or have SQLite pad what it commits: then the commit record may be in the file.
"""

_INSERT_EVENT = f"INSERT INTO events VALUES ({','.join('?' * 14)})"
_INSERT_TAG = "INSERT INTO event_tags VALUES (?, ?, ?)"
_NO_PACKED_METADATA = pack_metadata(NO_METADATA)


class _Stream:
    """A stream as the writer knows it. `id` 0: it has no row yet."""

    __slots__ = ("category", "id", "version")

    def __init__(self, name: str, id: int, version: int) -> None:
        self.category = category_of(name)
        self.id = id
        self.version = version


class Writer:
    """Writes on one connection; one thread at a time."""

    def __init__(self, connection: apsw.Connection, path: str, clock: Callable[[], int]) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._path = path
        self._clock = clock
        self._kinds: dict[tuple[str, str, int], int] = {}
        self._tags: dict[str, int] = {}
        self._streams: dict[str, _Stream] = {}
        self._position = self._recorded_us = 0
        self._data_version = -1
        """-1: nothing that is remembered can be trusted."""
        self.keeper: Keeper | None = None
        """What else is to be written in the transactions that append."""

    @property
    def head(self) -> int:
        """The head of the log as of the last commit, or 0 where that cannot be trusted."""
        return 0 if self._data_version == -1 else self._position

    def commit(self, appends: Sequence[Append]) -> Sequence[Outcome]:
        """Record those whose conditions hold; one outcome each, in order. Durable when this
        returns.
        """
        try:
            return self._attempt(appends)
        except apsw.Error as error:
            return [self._refused(error) for _ in appends]
        except LeftfoldError as error:
            # What inline projections need is not there.
            return [error for _ in appends]

    def _attempt(self, appends: Sequence[Append]) -> Sequence[Outcome]:
        try:
            try:
                return self._transaction(appends, ids_first=False)
            except apsw.ConstraintError:
                # An event id is known already. That is rare, so ids are looked up only now.
                return self._transaction(appends, ids_first=True)
        finally:
            # Once more, for an interrupt (Ctrl-C) that came as the transaction was at its end.
            self._roll_back()

    def _transaction(self, appends: Sequence[Append], ids_first: bool) -> Sequence[Outcome]:
        # An interrupt may leave anywhere, so trust comes back at a regular end only.
        trusted, self._data_version = self._data_version, -1
        try:
            self._roll_back()
            self._cursor.execute("BEGIN IMMEDIATE")
            data_version = self._refresh(trusted)
            head = self._position
            outcomes = self._append_all(appends, ids_first)
            if self._position == head:
                self._cursor.execute("ROLLBACK")
                self._data_version = data_version
                return outcomes
            failure = self._commit()
            if failure is None:
                # Read after the commit, on this connection: only commits of others change it from
                # here on.
                self._data_version = self._connection.data_version()
                return outcomes
        finally:
            self._roll_back()
        return self._failed(appends, outcomes, failure)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def _refresh(self, trusted: int) -> int:
        data_version = self._connection.data_version()
        if trusted == -1:
            self._kinds.clear()
            self._tags.clear()
        if data_version != trusted:
            self._streams.clear()
            last = "SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1"
            row: Any = self._cursor.execute(last).get
            self._position, self._recorded_us = row or (0, 0)
        if len(self._streams) > NAMES_CACHED_MAX:
            self._streams.clear()
        if len(self._kinds) > NAMES_CACHED_MAX:
            self._kinds.clear()
        if len(self._tags) > NAMES_CACHED_MAX:
            self._tags.clear()
        return data_version

    def _commit(self) -> apsw.Error | None:
        try:
            self._cursor.execute("COMMIT")
        except apsw.Error as error:
            return error
        return None

    def _failed(
        self, appends: Sequence[Append], outcomes: Sequence[Outcome], failure: apsw.Error
    ) -> Sequence[Outcome]:
        # SQLite reports these before the commit record is whole. After any other failure, such as
        # that of a sync, the record may be in the file, and a crash now would bring it back.
        if isinstance(failure, apsw.BusyError) or (
            isinstance(failure, apsw.FullError) and self._connection.open_vfs in FULL_IS_CERTAIN
        ):
            return [self._refused(failure) for _ in appends]
        reason = f"{self._path}: {str(failure) or type(failure).__name__}"
        return [
            outcome
            if isinstance(outcome, Exception)  # refused, whatever becomes of the others
            else OutcomeUnknown(tuple(event.id for event in append.events), reason)
            for append, outcome in zip(appends, outcomes, strict=True)
        ]

    def _refused(self, error: apsw.Error) -> LeftfoldError:
        if getattr(error, "extendedresult", 0) == apsw.SQLITE_CONSTRAINT_TRIGGER:
            return ProjectionRefused(f"{self._path}: {error}; nothing was recorded")
        return translate(error, self._path, "; nothing was recorded")

    def _append_all(self, appends: Sequence[Append], ids_first: bool) -> Sequence[Outcome]:
        if self.keeper is None:
            return [self._append(append, ids_first) for append in appends]
        try:
            return self._keep(self.keeper, appends, ids_first)
        except ProjectionFailed as failed:
            if len(appends) == 1:
                return [failed]
        # Which of them it was: the others are recorded.
        middle = len(appends) // 2
        halves = appends[:middle], appends[middle:]
        return [outcome for half in halves for outcome in self._append_all(half, ids_first)]

    def _keep(
        self, keeper: Keeper, appends: Sequence[Append], ids_first: bool
    ) -> Sequence[Outcome]:
        """Append all, and do to the read models what they come to. Raises ProjectionFailed when
        everything is again as it was.
        """
        position = self._position
        outcomes: list[Outcome] = []
        recorded: list[RecordedEvent[bytes]] = []
        transaction = InlineTransaction(self._connection, self._path)
        self._cursor.execute("SAVEPOINT keep")
        keeper.claim(transaction, position + sum(len(append.events) for append in appends))
        for append in appends:
            outcome = self._append(append, ids_first)
            outcomes.append(outcome)
            if isinstance(outcome, Appended) and not outcome.is_repeat:
                recorded += as_recorded(append.events, outcome, self._recorded_us)
        try:
            if recorded:
                keeper.apply(transaction, recorded)
            else:
                self._cursor.execute("ROLLBACK TO keep")
        except ProjectionFailed:
            self._cursor.execute("ROLLBACK TO keep")
            self._cursor.execute("RELEASE keep")
            self._position = position
            for names in (self._streams, self._kinds, self._tags):
                names.clear()
            raise
        self._cursor.execute("RELEASE keep")
        return outcomes

    def _append(self, append: Append, ids_first: bool) -> Outcome:
        try:
            repeated = self._repeated(append) if ids_first else None
            if repeated is not None:
                return repeated
            for condition in append.conditions:
                violation = self._violation(condition)
                if violation is not None:
                    # Ids come before conditions (G5), and are looked up only where that makes a
                    # difference.
                    return self._repeated(append) or violation
            return self._record(append.events)
        except (DuplicateEvent, InvalidInput) as error:
            return error

    def _repeated(self, append: Append) -> Appended | None:
        """What the first append of the same events came to; None where all their ids are new."""
        sql = """SELECT position, name, version FROM events JOIN streams ON streams.id = stream_id
 WHERE events.id = ?"""
        ids = [event.id for event in append.events]
        if len(set(ids)) < len(ids):
            raise InvalidInput("the event ids of an append differ, found one twice")
        found = {id: row for id in ids for row in self._cursor.execute(sql, (id.bytes,))}
        if not found:
            return None
        if len(found) < len(ids):
            raise DuplicateEvent(tuple(found), tuple(id for id in ids if id not in found))
        rows = sorted(found.values())
        versions = {name: version for _, name, version in rows}
        return Appended(rows[0][0], rows[-1][0], versions, is_repeat=True)

    def _violation(self, condition: Condition) -> LeftfoldError | None:
        """What is wrong with the condition, or None where it holds."""
        found: int | None
        if isinstance(condition, StreamVersion):
            found = self._stream(condition.stream).version
            return None if found == condition.version else AppendConditionFailed(condition, found)
        if condition.after >= self._position:
            beyond = condition.after > self._position
            return InvalidInput(condition.beyond(self._position)) if beyond else None
        select = PositionSelect(self._cursor, (condition.after, self._position), 1, backwards=False)
        found = self._cursor.execute(*select.matching(condition.query.items)).get
        return None if found is None else AppendConditionFailed(condition, found)

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            sql = """SELECT id, (SELECT max(version) FROM events WHERE stream_id = streams.id)
 FROM streams WHERE name = ?"""
            id, version = self._cursor.execute(sql, (name,)).get or (0, 0)
            stream = self._streams[name] = _Stream(name, id, version or 0)
        return stream

    def _record(self, events: Sequence[Event[bytes]]) -> Appended:
        position = first = self._position
        self._recorded_us = recorded_us = max(self._clock(), self._recorded_us)
        rows: list[tuple[Any, ...]] = []
        tag_rows: list[tuple[int, int, int]] = []
        versions: dict[str, int] = {}
        metadata, packed = NO_METADATA, _NO_PACKED_METADATA
        for event in events:
            stream = self._streams.get(event.stream) or self._stream(event.stream)
            if not stream.id:
                stream.id = self._insert("INSERT INTO streams (name) VALUES (?)", (event.stream,))
            key = (stream.category, event.type, event.schema_version)
            kind = self._kinds.get(key) or self._kind(key)
            position += 1
            versions[event.stream] = stream.version = stream.version + 1
            if event.metadata is not metadata:
                metadata, packed = event.metadata, pack_metadata(event.metadata)
            tag_ids = None
            if event.tags:
                tag_ids, more = self._tag_rows(event.tags, position, kind)
                tag_rows += more
            rows.append(
                (
                    position,
                    stream.id,
                    stream.version,
                    kind,
                    event.id.int.to_bytes(16),
                    recorded_us,
                    None if event.occurred_at is None else to_us(event.occurred_at),
                    *packed,
                    tag_ids,
                    _text_or_bytes(event.data),
                )
            )
        self._cursor.executemany(_INSERT_EVENT, rows)
        if tag_rows:
            self._cursor.executemany(_INSERT_TAG, tag_rows)
        self._position = position
        return Appended(first + 1, position, versions)

    def _tag_rows(
        self, tags: Sequence[str], position: int, kind: int
    ) -> tuple[str, list[tuple[int, int, int]]]:
        ids = [self._tags.get(tag) or self._tag(tag) for tag in tags]
        return f"[{','.join(map(str, ids))}]", [(id, position, kind) for id in ids]

    def _kind(self, key: tuple[str, str, int]) -> int:
        find = "SELECT id FROM kinds WHERE category = ? AND type = ? AND schema_version = ?"
        insert = "INSERT INTO kinds (category, type, schema_version) VALUES (?, ?, ?)"
        self._kinds[key] = id = self._cursor.execute(find, key).get or self._insert(insert, key)
        return id

    def _tag(self, name: str) -> int:
        find = "SELECT id FROM tags WHERE name = ?"
        insert = "INSERT INTO tags (name) VALUES (?)"
        self._tags[name] = id = self._cursor.execute(find, (name,)).get or self._insert(
            insert, (name,)
        )
        return id

    def _insert(self, sql: str, parameters: tuple[Any, ...]) -> int:
        self._cursor.execute(sql, parameters)
        return self._connection.last_insert_rowid()


def _text_or_bytes(data: bytes) -> str | bytes:
    """Text where it is text, so that a person can read it in any SQLite shell."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    return data if "\0" in text else text
