"""The tables of the SQLite store, as numbered migrations, and the check that a file is one of ours.

`PRAGMA application_id` says that a file is a leftfold log, `PRAGMA user_version` how many
migrations it has.
"""

from __future__ import annotations

import apsw

from leftfold.errors import IncompatibleStore

APPLICATION_ID = 0x1EF7F01D

# Integer ids for streams, kinds and tags, and a rowid table in log order: text keys or a table
# clustered by stream cost a third to a half of the write speed. A kind is a (category, type, schema
# version): one small index then answers queries by category and by type. The tag index carries the
# kind, so that conditions over tags and types read it alone. Data is text where it can be, for
# people; ids in UUID form are 16-byte blobs.
_TABLES = """
CREATE TABLE streams (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE kinds (
  id INTEGER PRIMARY KEY,
  category TEXT NOT NULL,
  type TEXT NOT NULL,
  schema_version INTEGER NOT NULL,
  UNIQUE (type, category, schema_version)
) STRICT;
CREATE TABLE tags (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE events (
  position INTEGER PRIMARY KEY,
  stream_id INTEGER NOT NULL REFERENCES streams,
  version INTEGER NOT NULL,
  kind_id INTEGER NOT NULL REFERENCES kinds,
  id BLOB NOT NULL,
  recorded_at INTEGER NOT NULL, -- microseconds since 1970
  occurred_at INTEGER, -- NULL: when it was recorded
  correlation_id ANY,
  causation_id ANY,
  command_id ANY,
  actor TEXT,
  metadata TEXT, -- the user's own keys, JSON
  tag_ids TEXT, -- JSON array, in the order given
  data ANY NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_by_stream ON events (stream_id, version);
CREATE UNIQUE INDEX events_by_id ON events (id);
CREATE INDEX events_by_kind ON events (kind_id);
CREATE TABLE event_tags (
  tag_id INTEGER NOT NULL REFERENCES tags,
  position INTEGER NOT NULL REFERENCES events,
  kind_id INTEGER NOT NULL REFERENCES kinds,
  PRIMARY KEY (tag_id, position)
) STRICT, WITHOUT ROWID;
"""

_UUID_TEXT = """CASE typeof({0}) WHEN 'blob' THEN lower(
    substr(hex({0}), 1, 8) || '-' || substr(hex({0}), 9, 4) || '-' || substr(hex({0}), 13, 4)
    || '-' || substr(hex({0}), 17, 4) || '-' || substr(hex({0}), 21)) ELSE {0} END"""
_ISO_TEXT = "strftime('%Y-%m-%dT%H:%M:%fZ', {0} / 1e6, 'unixepoch')"

# An event is immutable for everybody who has the file, not only for those who go through this
# library. SQLite does not ask them about REPLACE; a trigger that would stop it made large appends
# take a quarter longer.
_VIEW_AND_TRIGGERS = f"""
CREATE VIEW log AS SELECT
  position,
  streams.name AS stream,
  version,
  type,
  schema_version,
  data,
  (SELECT json_group_array(tags.name)
    FROM json_each(tag_ids) JOIN tags ON tags.id = json_each.value) AS tags,
  {_UUID_TEXT.format("events.id")} AS id,
  {_ISO_TEXT.format("recorded_at")} AS recorded_at,
  {_ISO_TEXT.format("coalesce(occurred_at, recorded_at)")} AS occurred_at,
  {_UUID_TEXT.format("correlation_id")} AS correlation_id,
  {_UUID_TEXT.format("causation_id")} AS causation_id,
  {_UUID_TEXT.format("command_id")} AS command_id,
  actor,
  metadata
FROM events JOIN streams ON streams.id = stream_id JOIN kinds ON kinds.id = kind_id;
CREATE TRIGGER events_are_not_updated BEFORE UPDATE ON events
BEGIN SELECT raise(ABORT, 'events are immutable: append a correcting event instead'); END;
CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
BEGIN SELECT raise(ABORT, 'events are immutable: append a correcting event instead'); END;
"""

MIGRATIONS = (_TABLES, _VIEW_AND_TRIGGERS)
"""Number n brings a file from schema version n to n + 1. Released ones never change."""


def migrate(connection: apsw.Connection, path: str) -> None:
    """Bring the file to the newest schema version in one transaction. Raises IncompatibleStore and
    changes nothing.
    """
    if check_identity(connection, path) == len(MIGRATIONS):
        return
    try:
        connection.execute("BEGIN IMMEDIATE")
        # Looked at again: another process may have migrated while this one waited for the lock.
        for script in MIGRATIONS[check_identity(connection, path) :]:
            connection.execute(script)
        connection.execute(
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {len(MIGRATIONS)}"
        )
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back already where the disk is full.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_identity(connection: apsw.Connection, path: str) -> int:
    """The schema version of the file, 0 for an empty one. Raises IncompatibleStore for what is not
    ours or newer.
    """
    # One statement sees one moment: another process may be migrating.
    sql = """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
 FROM pragma_application_id, pragma_user_version"""
    application_id, version, tables = connection.execute(sql).get
    if application_id != APPLICATION_ID and (application_id, version, tables) != (0, 0, 0):
        raise IncompatibleStore(
            f"{path} is an SQLite database of another program; choose another file"
        )
    if version > len(MIGRATIONS):
        raise IncompatibleStore(
            f"{path} has schema version {version}, this release of leftfold knows up to "
            f"{len(MIGRATIONS)}; upgrade leftfold"
        )
    return int(version)
