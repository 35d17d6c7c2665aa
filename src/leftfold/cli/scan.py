"""What `check` looks for in a log as a store shows it: order, versions, time, ids, tags.

Memory is bounded but for one number for each stream: ids and tags go into a temporary database,
which SQLite keeps in a file of its own and deletes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import apsw
from msgspec import Struct

from leftfold.cli.times import iso
from leftfold.event import RecordedEvent
from leftfold.facade import EventStore
from leftfold.query import select

BATCH_ROWS = 5000
"""Rows that are held before they go into the temporary database."""


class Problem(Struct, frozen=True):
    """Something in the log that no store may have recorded."""

    kind: str
    position: int | None
    stream: str | None
    version: int | None
    message: str


def problem(kind: str, message: str, position: int | None = None) -> Problem:
    """A problem that is not one event's, or with an event of which only the position is known."""
    return Problem(kind, position, None, None, message)


def problem_of(event: RecordedEvent[Any], kind: str, message: str) -> Problem:
    """A problem with one event."""
    return Problem(kind, event.position, event.stream, event.version, message)


class Scan:
    """Looks at each event in log order, and remembers what is to be compared at the end."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        """The last version of each stream."""
        self.events = 0
        self._position = 0
        self._recorded_us = 0
        self._ids: list[tuple[bytes, int]] = []
        self._tags: list[tuple[str, int]] = []
        self._kept = apsw.Connection("")
        self._kept.execute(
            "CREATE TABLE ids (id BLOB, position INTEGER);"
            "CREATE TABLE tags (tag TEXT, position INTEGER)"
        )

    def look(self, event: RecordedEvent[bytes]) -> Iterator[Problem]:
        """What is wrong with this event after those before it."""
        self.events += 1
        if event.position <= self._position:
            yield problem_of(event, "position", f"it comes after position {self._position}")
        expected = self.versions.get(event.stream, 0) + 1
        if event.version != expected:
            yield problem_of(event, "version", f"version {event.version}, expected {expected}")
        if event.recorded_us < self._recorded_us:
            earlier = f"recorded at {iso(event.recorded_us)}, after {iso(self._recorded_us)}"
            yield problem_of(event, "recorded_at", earlier)
        self._position = max(event.position, self._position)
        self._recorded_us = max(event.recorded_us, self._recorded_us)
        self.versions[event.stream] = event.version
        self._ids.append((event.id_bytes, event.position))
        self._tags += [(tag, event.position) for tag in event.tags]
        if len(self._ids) >= BATCH_ROWS or len(self._tags) >= BATCH_ROWS:
            self._keep()

    def _keep(self) -> None:
        with self._kept:
            self._kept.executemany("INSERT INTO ids VALUES (?, ?)", self._ids)
            self._kept.executemany("INSERT INTO tags VALUES (?, ?)", self._tags)
        self._ids.clear()
        self._tags.clear()

    def repeated_ids(self) -> Iterator[Problem]:
        """Ids that more than one event has."""
        self._keep()
        sql = """SELECT id, min(position), max(position), count(*) FROM ids
 GROUP BY id HAVING count(*) > 1"""
        rows: Any = self._kept.execute(sql)
        for id, first, last, count in rows:
            message = f"{count} events have the id {id.hex()}: positions {first} to {last}"
            yield problem("id", message, first)

    def all_tags(self, more: Iterator[str]) -> tuple[int, Iterator[str]]:
        """Every tag of an event, and `more`, which the store knows besides; and how many."""
        self._keep()
        self._kept.execute("CREATE INDEX by_tag ON tags (tag, position)")
        named = "INSERT OR IGNORE INTO names VALUES (?)"
        self._kept.execute("CREATE TABLE names (tag TEXT PRIMARY KEY) WITHOUT ROWID")
        self._kept.execute("INSERT INTO names SELECT DISTINCT tag FROM tags")
        self._kept.executemany(named, ((tag,) for tag in more))
        count: Any = self._kept.execute("SELECT count(*) FROM names").get
        names: Any = self._kept.execute("SELECT tag FROM names")
        return count, (name for (name,) in names)

    def tag_difference(self, store: EventStore, tag: str) -> Iterator[Problem]:
        """Whether the store finds other events by a tag than those that have it."""
        sql = "SELECT position FROM tags WHERE tag = ? ORDER BY position"
        scanned: Any = self._kept.execute(sql, (tag,))
        found = store.read(select(tags=[tag]), until=self._position)
        positions = (event.position for event in found)
        for expected, position in zip_longest((row[0] for row in scanned), positions):
            if expected == position:
                continue
            # One difference shifts all that follow, so the first says enough.
            missing = position is None or (expected is not None and expected < position)
            which = f"position {expected} has it, but is not found by it"
            if not missing:
                which = f"position {position} is found by it, but does not have it"
            yield problem("tag", f"tag {tag!r}: {which}", expected if missing else position)
            return

    def close(self) -> None:
        """Let the temporary database go."""
        self._kept.close()
