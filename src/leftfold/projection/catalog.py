"""What a database of read models knows of them: builds, checkpoints, leases, failures. Functions of
a transaction; nothing here waits.

A *build* is one making of a projection from the log, with a table of its own. It is folded by one
consumer for each of its partitions, and each of these has a checkpoint and one owner. An owner
holds a lease, which may run out while it is paused; so each claim raises the *fence*, and nobody
writes whose fence is not the last. A log without the event that a checkpoint is at is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from leftfold.projection.database import Database, Transaction

LEASE_S = 30.0
"""How long an owner may be silent before another may take over, in seconds."""
CLOCK_LEASES_MAX = 2
"""A lease that lasts for longer than so many from now on is none: the clock was set back."""
HOLD_S_MAX = 3600.0
"""How long builds are held at most. What lasts longer is none, for the same reason."""

State = Literal["building", "ready", "serving", "retired"]
"""`building`: not yet as far as the log; `ready`: waits to be swapped in; `serving`: what is read;
`retired`: served before, kept for a rollback.
"""


class Build(Struct, frozen=True):
    """One making of a projection."""

    id: int
    name: str
    version: int
    fingerprint: str
    shape: str
    """Of its rows: code with rows of another shape cannot read it."""
    state: State
    partitions: int
    rate_max: int
    """Events a second at most while it is built, 0: as many as it can."""
    created_us: int
    swapped_us: int
    """When it began to serve, or stopped to; 0: never yet."""
    log: str = ""
    """The log that it is folded from: the id of the first event there, which never changes. Empty
    until somebody has folded it.
    """

    @property
    def table(self) -> str:
        """The name of its table, or what the names of its tables begin with."""
        return f"{self.name}__{self.id}"


class Failure(Struct, frozen=True):
    """Why an event cannot be applied."""

    position: int
    stream: str
    version: int
    """0: it is not of an event."""
    type: str
    key: str
    """As JSON; empty where it is not known."""
    error: str
    attempts: int
    since_us: int

    def text(self) -> str:
        """For people."""
        if not self.version:
            return f"position {self.position}: {self.error}"
        at_key = f", key {self.key}" if self.key else ""
        return (
            f"{self.type!r} at position {self.position}, version {self.version} of stream "
            f"{self.stream!r}{at_key}: {self.error} ({self.attempts} attempts)"
        )


class Progress(Struct, frozen=True):
    """How far one partition of a build is."""

    build: int
    partition: int
    position: int
    """All matching events up to here are applied, or wait for their key."""
    event_position: int
    """Of the last event that was applied or passed over, whether it matches or not, and its id: a
    log without it is another one. 0: there was none.
    """
    event_id: bytes
    events: int
    """How many events were applied."""
    owner: str
    fence: int
    lease_until_us: int
    signal: int
    """Raised whenever somebody wants something of the owner: it looks then."""
    hold_position: int
    """Not to go beyond this position until `hold_until_us`; 0: no hold."""
    hold_until_us: int
    failure: str
    """A Failure as JSON: it is stopped; empty: it is not."""
    updated_us: int

    @property
    def stopped(self) -> Failure | None:
        """Why it is stopped, if it is."""
        return msgspec.json.decode(self.failure, type=Failure) if self.failure else None


class Quarantined(Struct, frozen=True):
    """A key whose events wait, from the one that failed on."""

    build: int
    key: str
    """As JSON."""
    position: int
    """Of the event that failed."""
    failure: str
    """A Failure as JSON."""
    waiting: int
    """Events that wait, that one included."""
    is_due: int
    """1: to be tried again."""


class LeaseLost(Exception):
    """Somebody else owns the consumer now: nothing was written."""


_TABLES = (
    """CREATE TABLE IF NOT EXISTS leftfold_builds (
  id {integer} PRIMARY KEY,
  name {text} NOT NULL,
  version {integer} NOT NULL,
  fingerprint {text} NOT NULL,
  shape {text} NOT NULL,
  state {text} NOT NULL,
  partitions {integer} NOT NULL,
  rate_max {integer} NOT NULL,
  created_us {integer} NOT NULL,
  swapped_us {integer} NOT NULL,
  log {text} NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS leftfold_consumers (
  build {integer} NOT NULL,
  partition {integer} NOT NULL,
  position {integer} NOT NULL,
  event_position {integer} NOT NULL,
  event_id {bytes} NOT NULL,
  events {integer} NOT NULL,
  owner {text} NOT NULL,
  fence {integer} NOT NULL,
  lease_until_us {integer} NOT NULL,
  signal {integer} NOT NULL,
  hold_position {integer} NOT NULL,
  hold_until_us {integer} NOT NULL,
  failure {text} NOT NULL,
  updated_us {integer} NOT NULL,
  PRIMARY KEY (build, partition)
)""",
    """CREATE TABLE IF NOT EXISTS leftfold_quarantine (
  build {integer} NOT NULL,
  key {text} NOT NULL,
  position {integer} NOT NULL,
  failure {text} NOT NULL,
  waiting {integer} NOT NULL,
  is_due {integer} NOT NULL,
  PRIMARY KEY (build, key)
)""",
    """CREATE TABLE IF NOT EXISTS leftfold_skips (
  name {text} NOT NULL,
  version {integer} NOT NULL,
  position {integer} NOT NULL,
  key {text} NOT NULL,
  reason {text} NOT NULL,
  skipped_us {integer} NOT NULL,
  PRIMARY KEY (name, version, position, key)
)""",
    """CREATE TABLE IF NOT EXISTS leftfold_replaced (
  name {text} NOT NULL,
  fingerprint {text} NOT NULL,
  PRIMARY KEY (name, fingerprint)
)""",
    # No id is given twice: an owner that slept must not take a new build for the one it had.
    "CREATE TABLE IF NOT EXISTS leftfold_ids (last {integer} PRIMARY KEY)",
)
_NAMES = {each.split()[5] for each in _TABLES}
_BUILD = (
    "id, name, version, fingerprint, shape, state, partitions, rate_max, created_us, swapped_us, "
    "log"
)
_PROGRESS = (
    "build, partition, position, event_position, event_id, events, owner, fence, lease_until_us, "
    "signal, hold_position, hold_until_us, failure, updated_us"
)
_MINE = "WHERE build = ? AND partition = ? AND fence = ?"


def prepare(database: Database) -> None:
    """Make the tables of the catalog where they are missing."""
    if not database.read(is_prepared):
        database.write(_make_tables, durable=True)


def is_prepared(tx: Transaction) -> bool:
    """Whether the tables of the catalog are there."""
    return _NAMES.issubset(tx.relations("leftfold_"))


def _make_tables(tx: Transaction) -> None:
    lock(tx)
    kinds = {each: tx.dialect.column(each) for each in ("integer", "text", "bytes")}
    for table in _TABLES:
        tx.execute(table.format(**kinds))
    if not tx.execute("SELECT 1 FROM leftfold_ids"):
        # Builds may be there already: of all tables it may be this one that was lost.
        tx.execute("INSERT INTO leftfold_ids SELECT coalesce(max(id), 0) FROM leftfold_builds")


def lock(tx: Transaction) -> None:
    """Be the only one that makes, swaps or drops builds, until the transaction ends."""
    if tx.dialect.name == "postgresql":
        tx.execute("SELECT pg_advisory_xact_lock(hashtext('leftfold ' || current_schema()))")


def builds(tx: Transaction, name: str | None = None) -> list[Build]:
    """All builds, or those of one name, oldest first."""
    where, values = ("WHERE name = ?", [name]) if name else ("", [])
    rows = tx.execute(f"SELECT {_BUILD} FROM leftfold_builds {where} ORDER BY id", values)
    return [Build(*row) for row in rows]


def progress(tx: Transaction, build: int, *, locked: bool = False) -> list[Progress]:
    """How far the partitions of a build are, in their order; with `locked`, and none of them moves
    until the transaction ends.
    """
    lock = tx.dialect.for_update if locked else ""
    sql = f"SELECT {_PROGRESS} FROM leftfold_consumers WHERE build = ? ORDER BY partition{lock}"
    return [Progress(*_with_bytes(row)) for row in tx.execute(sql, [build])]


def _with_bytes(row: tuple[Any, ...]) -> list[Any]:
    return [bytes(each) if isinstance(each, memoryview | bytearray) else each for each in row]


def add_build(tx: Transaction, build: Build, position: int = 0) -> Build:
    """Record a build, with an id of its own, whose consumers begin after `position`."""
    lock(tx)
    ((id,),) = tx.execute("UPDATE leftfold_ids SET last = last + 1 RETURNING last")
    made = msgspec.structs.replace(build, id=id, created_us=tx.now_us())
    marks = ", ".join("?" * 11)
    tx.execute(f"INSERT INTO leftfold_builds ({_BUILD}) VALUES ({marks})", _row(made))
    for partition in range(build.partitions):
        row = Progress(id, partition, position, 0, b"", 0, "", 0, 0, 0, 0, 0, "", tx.now_us())
        marks = ", ".join("?" * 14)
        tx.execute(f"INSERT INTO leftfold_consumers ({_PROGRESS}) VALUES ({marks})", _row(row))
    return made


def _row(struct: Struct) -> tuple[object, ...]:
    return msgspec.structs.astuple(struct)


def claim(tx: Transaction, build: int, partition: int, owner: str) -> Progress | None:
    """Become the owner, with a fence above all before; None where another one holds the lease, or
    the build was dropped. What it was stopped by is to be tried again: code may have been mended.
    """
    sql = f"""SELECT {_PROGRESS} FROM leftfold_consumers WHERE build = ? AND partition = ?
{_skip_locked(tx)}"""
    # A row that is locked has an owner at work.
    rows = tx.execute(sql, [build, partition])
    if not rows:
        return None
    found = Progress(*_with_bytes(rows[0]))
    now_us, lease_us = tx.now_us(), int(LEASE_S * 1_000_000)
    # What ends later than any lease can was written before the clock was set back.
    is_held = now_us < found.lease_until_us <= now_us + CLOCK_LEASES_MAX * lease_us
    if found.owner not in ("", owner) and is_held:
        return None
    until_us = now_us + lease_us
    tx.execute(
        "UPDATE leftfold_consumers SET owner = ?, fence = fence + 1, lease_until_us = ?, "
        "failure = '' WHERE build = ? AND partition = ?",
        [owner, until_us, build, partition],
    )
    return msgspec.structs.replace(
        found, owner=owner, fence=found.fence + 1, lease_until_us=until_us, failure=""
    )


def identify(tx: Transaction, build: int, log: str) -> str:
    """The log that a build is of: from now on this one, if it was not known before."""
    if log:
        tx.execute("UPDATE leftfold_builds SET log = ? WHERE id = ? AND log = ''", [log, build])
    rows = tx.execute("SELECT log FROM leftfold_builds WHERE id = ?", [build])
    return str(rows[0][0]) if rows else ""


def renew(tx: Transaction, owner: str) -> None:
    """Hold all leases of an owner for longer."""
    until_us = tx.now_us() + int(LEASE_S * 1_000_000)
    # One that is locked must not hold up the others.
    tx.execute(
        f"""UPDATE leftfold_consumers SET lease_until_us = ? WHERE owner = ? AND
 (build, partition) IN (SELECT build, partition FROM leftfold_consumers WHERE owner = ?
{_skip_locked(tx)})""",
        [until_us, owner, owner],
    )


def _skip_locked(tx: Transaction) -> str:
    return f"{tx.dialect.for_update} SKIP LOCKED" if tx.dialect.for_update else ""


def release(tx: Transaction, held: Progress) -> None:
    """Let another one claim it at once."""
    tx.execute(
        f"UPDATE leftfold_consumers SET owner = '', lease_until_us = 0 {_MINE}",
        [held.build, held.partition, held.fence],
    )


def advance(tx: Transaction, held: Progress, to: Progress) -> int:
    """Move a checkpoint from `held` to `to`, and say its signal. Raises LeaseLost unless the owner
    of `held` still has its fence and is where it was.
    """
    sql = f"""UPDATE leftfold_consumers SET position = ?, event_position = ?, event_id = ?,
 events = ?, failure = ?, updated_us = ? {_MINE} AND position = ? RETURNING signal"""
    new = [to.position, to.event_position, to.event_id, to.events, to.failure, tx.now_us()]
    rows = tx.execute(sql, [*new, held.build, held.partition, held.fence, held.position])
    if not rows:
        raise LeaseLost(f"build {held.build}, partition {held.partition}")
    signal: int = rows[0][0]
    return signal


def signal(tx: Transaction, build: int) -> None:
    """Make the owners of a build look for what has changed."""
    tx.execute("UPDATE leftfold_consumers SET signal = signal + 1 WHERE build = ?", [build])


def set_state(tx: Transaction, build: Build, state: State) -> None:
    """Change the state of a build, and let its owners know."""
    tx.execute(
        "UPDATE leftfold_builds SET state = ?, swapped_us = ? WHERE id = ?",
        [state, tx.now_us(), build.id],
    )
    signal(tx, build.id)


def set_hold(tx: Transaction, build: Build, position: int, seconds: float) -> None:
    """Let the owners of a build not go beyond a position for so long; 0 seconds: no more."""
    tx.execute(
        "UPDATE leftfold_consumers SET hold_position = ?, hold_until_us = ? WHERE build = ?",
        [position, tx.now_us() + int(seconds * 1_000_000), build.id],
    )
    signal(tx, build.id)


def quarantined(tx: Transaction, build: int) -> list[Quarantined]:
    """The keys of a build that wait, by the position of what failed."""
    sql = """SELECT build, key, position, failure, waiting, is_due FROM leftfold_quarantine
 WHERE build = ? ORDER BY position, key"""
    return [Quarantined(*row) for row in tx.execute(sql, [build])]


def put_in_quarantine(tx: Transaction, each: Quarantined) -> None:
    """Keep why a key waits, in place of what was kept of it before."""
    tx.execute(
        "DELETE FROM leftfold_quarantine WHERE build = ? AND key = ?", [each.build, each.key]
    )
    tx.execute("INSERT INTO leftfold_quarantine VALUES (?, ?, ?, ?, ?, ?)", _row(each))


def end_quarantine(tx: Transaction, build: int, key: str) -> None:
    """The events of a key wait no more."""
    tx.execute("DELETE FROM leftfold_quarantine WHERE build = ? AND key = ?", [build, key])


def add_waiting(tx: Transaction, build: int, counts: Mapping[str, int]) -> None:
    """Count more events that wait, by key."""
    if not counts:
        return
    tx.execute_many(
        "UPDATE leftfold_quarantine SET waiting = waiting + ? WHERE build = ? AND key = ?",
        [(count, build, key) for key, count in counts.items()],
    )


def skips(tx: Transaction, build: Build) -> set[tuple[int, str]]:
    """The positions to pass over, each for one key (as JSON), or for all (an empty text)."""
    sql = "SELECT position, key FROM leftfold_skips WHERE name = ? AND version = ?"
    return {(position, key) for position, key in tx.execute(sql, [build.name, build.version])}
