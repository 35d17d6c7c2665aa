"""Inline projections: folded in the transaction of each append. Blocking; the store calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from leftfold.errors import (
    InvalidInput,
    ProjectionFailed,
    ProjectionRefused,
    UndecodableEvent,
    Unsupported,
)
from leftfold.event import RecordedEvent
from leftfold.projection.applying import BuildSql
from leftfold.projection.catalog import Build, builds
from leftfold.projection.database import Database, Transaction
from leftfold.projection.definition import Projection, SqlProjection
from leftfold.projection.folding import (
    ERROR_CHARACTERS_MAX,
    NOT_OF_EVENTS,
    WHOLE,
    Control,
    Events,
    Fold,
    reason_of,
)
from leftfold.projection.keeping import InlineLog
from leftfold.projection.parts import ProjectionParts
from leftfold.projection.touching import RowTable
from leftfold.reading import Decoding

Inline = Projection[Any] | SqlProjection
"""What can be kept inline."""

_NOTHING_LEFT_OUT = Control()


def inline_of(parts: ProjectionParts) -> list[Inline]:
    """The inline projections of the App."""
    found = [each for each in parts.subscribers if isinstance(each, Projection | SqlProjection)]
    return [each for each in found if each.mode == "inline"]


def inline_log(parts: ProjectionParts, projection: Inline) -> InlineLog:
    """The log that an inline projection is kept with. Raises Unsupported where it cannot be."""
    parts.database_of(projection)
    if parts.inline_log is None:
        raise Unsupported(
            f"{type(parts.store).__name__} cannot keep the inline {projection.name!r}"
        )
    return parts.inline_log


class Keeping:
    """One projection, and the build of it that the appends keep."""

    def __init__(
        self, projection: Inline, build: Build, decoding: Decoding, database: Database
    ) -> None:
        self.build = build
        self._decoding = decoding
        self._rows: _Keyed | _Sql = (
            _Keyed(projection, build, database)
            if isinstance(projection, Projection)
            else _Sql(projection, build)
        )

    def apply(
        self,
        tx: Transaction,
        recorded: Sequence[RecordedEvent[bytes]],
        control: Control = _NOTHING_LEFT_OUT,
    ) -> None:
        """Write what the events come to, and that the build is as far as the last of them. Raises
        ProjectionFailed.
        """
        matches, skips = self._decoding.query.matches, control.skips
        page = [each for each in recorded if matches(each) and (each.position, "") not in skips]
        events = self._decoded(page) if page else []
        if events:
            self._rows.apply(tx, events, control)
        # Matching or not: it tells logs apart.
        last = recorded[-1]
        moved = tx.execute(
            """UPDATE leftfold_consumers SET position = ?, updated_us = ?, events = events + ?,
 event_position = ?, event_id = ? WHERE build = ? AND partition = 0 RETURNING build""",
            [
                last.position,
                last.recorded_us,
                len(events),
                last.position,
                last.id_bytes,
                self.build.id,
            ],
        )
        if not moved:
            raise _gone(self.build.name, "was dropped")

    def _decoded(self, page: list[RecordedEvent[bytes]]) -> Events:
        try:
            return self._decoding.page(page)
        except UndecodableEvent as error:
            bad = next(each for each in page if each.position == error.position)
            raise _failed(self.build.name, bad, error) from error


class _Keyed:
    """The rows of a Projection."""

    def __init__(self, projection: Projection[Any], build: Build, database: Database) -> None:
        self._projection = projection
        self._table = RowTable(projection.columns, build.table, database)

    def apply(self, tx: Transaction, events: Events, control: Control) -> None:
        table = self._table.within(tx)
        changes = Fold(self._projection, table).batch(events, control, WHOLE)
        failure = changes.failure
        if failure is not None:
            event = next(each for each in events if each.position == failure.position)
            error = changes.error or ValueError(failure.error)
            raise _failed(self._projection.name, event, error, failure.key) from error
        table.write(tx, changes)


class _Sql:
    """The tables of an SqlProjection."""

    def __init__(self, projection: SqlProjection, build: Build) -> None:
        self._projection = projection
        self._build = build

    def apply(self, tx: Transaction, events: Events, control: Control) -> None:
        sql = BuildSql(tx, self._build.table)
        try:
            self._projection.apply(sql, events)
        except Exception as error:
            # It may be anything: the function is the user's.
            if error is sql.error and isinstance(error, NOT_OF_EVENTS):
                raise
            raise _failed(self._build.name, events[0], error, of=len(events)) from error


def _failed(
    name: str, event: RecordedEvent[Any], error: Exception, key: str = "", *, of: int = 1
) -> ProjectionFailed:
    recorded = (event.position, event.stream, event.version, event.type)
    among = f"this or one of the {of - 1} after it: " if of > 1 else ""
    reason = f"{among}{reason_of(error)}"[:ERROR_CHARACTERS_MAX]
    return ProjectionFailed(name, recorded, f"{reason}; nothing was recorded", key=key)


def _gone(name: str, found: str) -> ProjectionRefused:
    return ProjectionRefused(
        f"the inline projection {name!r} {found} since this store was opened; nothing was "
        "recorded; open it again to have it built by this code"
    )


class InlineKeeper:
    """See Keeper. Safe to share between the writers of a store."""

    def __init__(self, parts: ProjectionParts, projections: Sequence[Inline]) -> None:
        self._codec = parts.codec
        self._projections = projections
        self._databases = [parts.database_of(each) for each in projections]
        self._decodings = [Decoding(parts.codec, each.events) for each in projections]
        fingerprint = parts.codec.fingerprint
        self._fingerprints = [each.fingerprint(fingerprint) for each in projections]
        self._kept: tuple[Keeping, ...] = ()
        """Replaced as a whole: other threads may be using it."""

    def builds(self, tx: Transaction) -> dict[str, int]:
        """See Keeper."""
        self._kept = tuple(self._find(tx))
        return {each.build.name: each.build.id for each in self._kept}

    def claim(self, tx: Transaction, until: int) -> None:
        """See Keeper."""
        # Another process may have built one again since.
        if not self._claimed(tx, until):
            self.builds(tx)
            self._claimed(tx, until)

    def apply(self, tx: Transaction, events: Sequence[RecordedEvent[bytes]]) -> None:
        """See Keeper."""
        for each in self._kept:
            try:
                each.apply(tx, events)
            except InvalidInput as error:
                # The database refuses what one of them comes to, perhaps at the end only.
                raise _failed(each.build.name, events[0], error, of=len(events)) from error

    def _claimed(self, tx: Transaction, until: int) -> bool:
        kept = self._kept
        marks = ", ".join("?" * len(kept))
        return bool(kept) and len(kept) == len(
            tx.execute(
                f"""UPDATE leftfold_consumers SET position = ?
 WHERE partition = 0 AND build IN ({marks}) RETURNING build""",
                [until, *(each.build.id for each in kept)],
            )
        )

    def _find(self, tx: Transaction) -> Iterator[Keeping]:
        known = {each.build.id: each for each in self._kept}
        serving = {each.name: each for each in builds(tx) if each.state == "serving"}
        every = zip(
            self._projections, self._fingerprints, self._decodings, self._databases, strict=True
        )
        for projection, fingerprint, decoding, database in every:
            build = serving.get(projection.name)
            if build is None or build.fingerprint != fingerprint:
                found = "was dropped" if build is None else "was built by other code"
                raise _gone(projection.name, found)
            yield known.get(build.id) or Keeping(projection, build, decoding, database)
