"""Which code was replaced: what served once and is gone. It must not come back by itself, or
workers with old and with new code would take turns. Functions of a transaction.
"""

from __future__ import annotations

from leftfold.projection.catalog import Build, builds
from leftfold.projection.database import Transaction


def remember(tx: Transaction, dropped: Build) -> None:
    """Note that the code of a build that has served and is dropped now was replaced, unless there
    is another build of it.
    """
    code = [dropped.name, dropped.fingerprint]
    others = [each for each in builds(tx, dropped.name) if each.id != dropped.id]
    if any(each.fingerprint == dropped.fingerprint for each in others):
        return
    forget(tx, *code)
    tx.execute("INSERT INTO leftfold_replaced (name, fingerprint) VALUES (?, ?)", code)


def forget(tx: Transaction, name: str, fingerprint: str | None = None) -> None:
    """Let code come back that was replaced; without a fingerprint all code of a name."""
    if fingerprint is None:
        tx.execute("DELETE FROM leftfold_replaced WHERE name = ?", [name])
        return
    tx.execute(
        "DELETE FROM leftfold_replaced WHERE name = ? AND fingerprint = ?", [name, fingerprint]
    )


def newer_than(tx: Transaction, name: str, version: int, fingerprint: str) -> Build | None:
    """The build that serves, where code makes none by itself, for that of the build is newer: its
    version is higher, or it has replaced this code. None where this code has a build, or makes one.
    """
    found = builds(tx, name)
    serving = next((each for each in found if each.state == "serving"), None)
    if serving is None or any(each.fingerprint == fingerprint for each in found):
        return None
    sql = "SELECT 1 FROM leftfold_replaced WHERE name = ? AND fingerprint = ?"
    is_replaced = bool(tx.execute(sql, [name, fingerprint]))
    return serving if is_replaced or serving.version > version else None
