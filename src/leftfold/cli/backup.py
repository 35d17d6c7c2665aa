"""The command `backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct

from leftfold.cli.progress import Timer, bar
from leftfold.cli.session import Session
from leftfold.cli.sqlite_file import check_target, copy_file
from leftfold.errors import InvalidInput
from leftfold.stores.sqlite import SqliteStore


class BackupOptions(Struct, frozen=True, kw_only=True):
    """Where to."""

    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="The file to make. It must not be there yet.")
    ]
    force: Annotated[bool, typer.Option("--force", help="Replace DEST if it is there.")] = False


class BackupMade(Struct, frozen=True):
    """What `backup` has made."""

    path: str
    head: int
    bytes: int
    seconds: float


def backup(session: Session, options: BackupOptions) -> None:
    """Copy the log while others write, and read the copy before it gets its name."""
    timer, target = Timer(), options.destination.absolute()
    with session.open() as store:
        if not isinstance(store.store, SqliteStore):
            raise InvalidInput(
                "`backup` copies SQLite files; for a log on PostgreSQL use its own pg_dump"
            )
        check_target(store.store.path, target, options.force)
        with bar("backup", 1) as shown:
            head = copy_file(store.store.path, target, shown.pages)
    made = BackupMade(str(target), head, target.stat().st_size, timer.seconds)
    session.output.document(made, "the copy was checked")
