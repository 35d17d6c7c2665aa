"""What to do about events that cannot be applied: try them again, or pass over them. Functions of
a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from leftfold.errors import ProjectionRefused
from leftfold.projection.catalog import Build, Failure, builds, progress, quarantined, signal
from leftfold.projection.database import Transaction


class _Failed(Struct, frozen=True):
    """What a partition is stopped by, or what a key waits for."""

    build: Build
    failure: Failure
    key: str
    """As JSON; empty where it is not known."""
    partition: int | None
    """None: it is in quarantine."""


def retry(tx: Transaction, name: str, *, key: str | None) -> int:
    """Let all that is stopped or in quarantine go on, or what is for one key, as JSON. Returns how
    many there were. Raises ProjectionRefused where there is none.
    """
    failed = _chosen(tx, name, lambda each: key in (None, each.key))
    _go_on(tx, failed)
    return len(failed)


def skip(tx: Transaction, name: str, position: int, *, key: str | None, reason: str) -> int:
    """Pass over a failed event for the keys that it failed for, or for one of them, and record the
    reason. Returns how many go on. Raises ProjectionRefused where no such event failed.
    """
    failed = _chosen(
        tx, name, lambda each: each.failure.position == position and key in (None, each.key)
    )
    for each in failed:
        row = [name, each.build.version, position, each.key]
        same = "name = ? AND version = ? AND position = ? AND key = ?"
        tx.execute(f"DELETE FROM leftfold_skips WHERE {same}", row)
        tx.execute(
            "INSERT INTO leftfold_skips (name, version, position, key, reason, skipped_us) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [*row, reason, tx.now_us()],
        )
    _go_on(tx, failed)
    return len(failed)


def _chosen(tx: Transaction, name: str, is_meant: Callable[[_Failed], bool]) -> list[_Failed]:
    failed = list(_failed(tx, name))
    chosen = [each for each in failed if is_meant(each)]
    if not chosen:
        known = "; ".join(each.failure.text() for each in failed) or "nothing of it has failed"
        raise ProjectionRefused(f"no such failure of {name!r}: {known}")
    for each in chosen:
        # It is about the log as a whole, and going on would mix two of them.
        if not each.failure.version:
            raise ProjectionRefused(f"build {each.build.id} of {name!r}: {each.failure.error}")
    return chosen


def _failed(tx: Transaction, name: str) -> Iterator[_Failed]:
    for build in builds(tx, name):
        for consumer in progress(tx, build.id):
            if consumer.stopped:
                yield _Failed(build, consumer.stopped, consumer.stopped.key, consumer.partition)
        for each in quarantined(tx, build.id):
            failure = msgspec.json.decode(each.failure, type=Failure)
            yield _Failed(build, failure, each.key, None)


def _go_on(tx: Transaction, failed: list[_Failed]) -> None:
    for each in failed:
        if each.partition is None:
            tx.execute(
                "UPDATE leftfold_quarantine SET is_due = 1 WHERE build = ? AND key = ?",
                [each.build.id, each.key],
            )
        else:
            tx.execute(
                "UPDATE leftfold_consumers SET failure = '' WHERE build = ? AND partition = ?",
                [each.build.id, each.partition],
            )
    for build in {each.build.id for each in failed}:
        signal(tx, build)
