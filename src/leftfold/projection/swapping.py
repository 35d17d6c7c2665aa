"""Builds as a whole: made, swapped in, dropped. Functions of a transaction, each all or nothing,
for what runs builds and for what manages them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from leftfold.errors import InvalidInput, LeftfoldError, ProjectionRefused
from leftfold.projection.applying import make_tables
from leftfold.projection.catalog import (
    Build,
    State,
    add_build,
    builds,
    lock,
    progress,
    set_state,
)
from leftfold.projection.database import Transaction
from leftfold.projection.definition import Projection, SqlProjection, Subscriber
from leftfold.projection.folding import NOT_OF_EVENTS
from leftfold.projection.replacing import remember
from leftfold.projection.tables import drop_tables, make_views


@contextmanager
def naming(subscriber: Subscriber) -> Iterator[None]:
    """Say whose `create` it was, where making a build raises what `create` or its SQL has raised:
    as InvalidInput, as it is the definition that has to be mended.
    """
    try:
        yield
    except InvalidInput as error:
        if not isinstance(subscriber, SqlProjection):
            raise
        raise InvalidInput(f"create of {subscriber.name!r}: {error}") from error
    except (LeftfoldError, *NOT_OF_EVENTS):
        raise
    except Exception as error:
        # It may be anything: the function is the user's.
        if not isinstance(subscriber, SqlProjection):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"create of {subscriber.name!r}: {reason}") from error


def position_of(tx: Transaction, build: Build) -> int:
    """How far a build is: all of its partitions are at least here."""
    return min((each.position for each in progress(tx, build.id)), default=0)


def unmade(subscriber: Subscriber, codec_fingerprint: str) -> Build:
    """What a new build of the present code is like; `make_build` makes it."""
    return Build(
        0,
        subscriber.name,
        subscriber.version,
        subscriber.fingerprint(codec_fingerprint),
        subscriber.columns.shape if isinstance(subscriber, Projection) else "",
        "building",
        partitions=1,
        rate_max=0,
        created_us=0,
        swapped_us=0,
    )


def make_build(tx: Transaction, subscriber: Subscriber, build: Build, position: int = 0) -> Build:
    """Make a build with its tables, empty, to be folded from after `position`. The first of a name
    serves from the start.

    Raises ProjectionRefused where the name of an SQL view is taken.
    """
    lock(tx)
    is_first = all(each.state != "serving" for each in builds(tx, build.name))
    state: State = "serving" if is_first else "building"
    made = add_build(tx, replace(build, state=state), position)
    make_tables(tx, made, subscriber)
    if is_first:
        make_views(tx, made)
    return made


def swap_in(tx: Transaction, build: Build) -> None:
    """Let a build serve. The one that served is kept for a rollback, and those before it are
    dropped. Nothing changes where it serves already.

    Raises ProjectionRefused where it is gone, or the name of an SQL view is taken.
    """
    lock(tx)
    of_name = {each.id: each for each in builds(tx, build.name)}
    if build.id not in of_name:
        raise ProjectionRefused(f"build {build.id} of {build.name!r} was dropped")
    serving = next((each for each in of_name.values() if each.state == "serving"), None)
    if serving is not None and serving.id == build.id:
        return
    make_views(tx, build, serving)
    for each in of_name.values():
        if each.state == "retired" and each.id != build.id:
            remember(tx, each)
            drop_build(tx, each)
    if serving is not None:
        set_state(tx, serving, "retired")
    set_state(tx, build, "serving")


def drop_build(tx: Transaction, build: Build) -> None:
    """Forget a build: its tables, checkpoints and failures. Its owners lose their leases."""
    lock(tx)
    for table in ("leftfold_quarantine", "leftfold_consumers"):
        tx.execute(f"DELETE FROM {table} WHERE build = ?", [build.id])
    tx.execute("DELETE FROM leftfold_builds WHERE id = ?", [build.id])
    drop_tables(tx, build)
