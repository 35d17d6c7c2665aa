"""Commands that look after projections: how they are, and what to do about them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct
from rich.live import Live
from rich.table import Table
from rich.text import Text

from leftfold.cli.output import Output, as_json, cell, complain
from leftfold.cli.progress import Timer
from leftfold.cli.session import PROBLEMS, Session
from leftfold.errors import InvalidInput
from leftfold.facade import EventStore
from leftfold.projection.catalog import Build
from leftfold.projection.comparing import Comparison
from leftfold.projection.managing import COMPARE_S
from leftfold.projection.status import ProjectionStatus

WATCH_S = 1.0
"""Between two looks of `status --watch`, in seconds."""
ERROR_CHARACTERS_MAX = 100
"""Of a failure in a table."""


class Kept(Struct, frozen=True, kw_only=True):
    """Where the read models are."""

    views: Annotated[
        str | None,
        typer.Option(
            "--views",
            metavar="URL",
            envvar="LEFTFOLD_VIEWS",
            help="Where the read models are, if not beside the log.",
        ),
    ] = None


class Named(Kept, frozen=True, kw_only=True):
    """Which projection."""

    name: Annotated[str, typer.Argument(metavar="NAME", help="The projection or consumer.")]


class ListRow(Struct, frozen=True):
    """A build, for `list`."""

    name: str
    kind: str
    mode: str | None
    build: int | None
    version: int
    state: str
    is_current: bool


def list_(session: Session, options: Kept) -> None:
    """List projections and consumers, and what is kept of them."""
    with session.open_app(options.views) as store:
        found = store.projections.status()

    def show(each: ProjectionStatus) -> ListRow:
        return ListRow(*(getattr(each, name) for name in ListRow.__struct_fields__))

    session.output.rows(found, show, ListRow)


class StatusOptions(Kept, frozen=True, kw_only=True):
    """Whose status, and for how long."""

    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this projection or consumer.")
    ] = None
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")
    ] = False
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if one is stopped, or a key waits.")
    ] = False


class StatusRow(Struct, frozen=True):
    """A build, for `status`."""

    name: str
    build: int | None
    state: str
    position: int
    events_behind: int
    seconds_behind: float
    owners: list[str]
    note: str


def status(session: Session, options: StatusOptions) -> int:
    """Say how far each projection is, and what is in its way."""
    if options.watch and options.check:
        raise InvalidInput("--watch ends with Ctrl-C, so it has no result to --check; give one")
    with session.open_app(options.views) as store:
        if options.watch:
            _watch(session.output, store, options.name)
        found = store.projections.status(options.name)
    if session.output.is_json:
        session.output.json(*found)
    else:
        session.output.rows(found, _row, StatusRow)
    has_failed = any(each.failure or each.quarantined for each in found)
    return PROBLEMS if options.check and has_failed else 0


def _watch(output: Output, store: EventStore, name: str | None) -> None:
    """Show it again and again. Ctrl-C ends it."""
    before, timer = dict[int | None, int](), Timer()
    with _screen(output) as show:
        while True:
            found = store.projections.status(name)
            show(found, {each.build: timer.rate(_new_events(each, before)) for each in found})
            before, timer = {each.build: each.events for each in found}, Timer()
            time.sleep(WATCH_S)


def _new_events(found: ProjectionStatus, before: dict[int | None, int]) -> int:
    return found.events - before.get(found.build, found.events)


@contextmanager
def _screen(output: Output) -> Iterator[Any]:
    """What shows the status each time: in one place on a terminal, otherwise below the last one."""

    def print_rows(found: list[ProjectionStatus], rates: dict[int | None, int]) -> None:
        if output.is_json:
            output.json(*found)
        else:
            output.rows(found, lambda each: _row(each, rates[each.build]), StatusRow)
        sys.stdout.flush()

    if output.is_json or not output.is_terminal:
        yield print_rows
        return
    with Live(auto_refresh=False) as live:
        yield lambda found, rates: live.update(
            _table(_row(each, rates[each.build]) for each in found), refresh=True
        )


def _table(rows: Iterable[StatusRow]) -> Table:
    table = Table(*StatusRow.__struct_fields__, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell(each)) for each in msgspec.structs.astuple(row)))
    return table


def _row(found: ProjectionStatus, events_per_s: int | None = None) -> StatusRow:
    notes = [] if events_per_s is None else [f"{events_per_s:,}/s"]
    if found.stands_by:
        notes.append("made by newer code, and that of the app stands by")
    elif not found.is_current:
        notes.append("made by other code")
    if found.failure:
        notes.append(f"stopped: {_short(found.failure)}")
    if found.quarantined:
        notes.append(f"{found.quarantined} keys in quarantine, {found.waiting} events wait")
    return StatusRow(
        found.name,
        found.build,
        found.state,
        found.position,
        found.events_behind,
        round(found.seconds_behind, 1),
        found.owners,
        "; ".join(notes),
    )


def _short(text: str) -> str:
    return text if len(text) <= ERROR_CHARACTERS_MAX else f"{text[:ERROR_CHARACTERS_MAX]}..."


class QuarantineRow(Struct, frozen=True):
    """A key that waits, for `quarantine`."""

    build: int
    key: str
    position: int
    stream: str
    version: int
    type: str
    attempts: int
    waiting: int
    is_due: bool
    error: str


def quarantine(session: Session, options: Named) -> None:
    """List the keys whose events wait, and the event that each failed on."""
    with session.open_app(options.views) as store:
        found = store.projections.quarantine(options.name)
    rows = []
    for each in found:
        failure = each.failure
        rows.append(
            QuarantineRow(
                each.build,
                each.key,
                failure.position,
                failure.stream,
                failure.version,
                failure.type,
                failure.attempts,
                each.waiting,
                each.is_due,
                failure.error,
            )
        )
    session.output.rows(rows, lambda row: row, QuarantineRow)


class CompareOptions(Named, frozen=True, kw_only=True):
    """What to compare, and how long to wait for both to be at one position."""

    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s", metavar="S", help="How long to wait for both to be at one position."
        ),
    ] = COMPARE_S


class DifferenceRow(Struct, frozen=True):
    """A row that differs, for `compare`."""

    table: str
    serving: str
    candidate: str


def compare(session: Session, options: CompareOptions) -> None:
    """Compare what serves with the build that is to be swapped in, or else with the one before."""
    with session.open_app(options.views) as store:
        found = store.projections.compare(options.name, timeout_s=options.timeout_s)
    if session.output.is_json:
        session.output.json(found)
    else:
        show_comparison(session.output, found)


def show_comparison(output: Output, found: Comparison) -> None:
    """Print for people what differs."""
    old, new = found.serving, found.candidate
    output.text(
        f"build {old}, which serves, at position {found.serving_position}; "
        f"build {new} at position {found.candidate_position}"
    )
    if not found.is_aligned:
        complain("the builds are not at one position, so some differences are only natural")
    for table in found.tables:
        numbers = msgspec.structs.asdict(table)
        del numbers["samples"]
        output.values(numbers)
    for what, names in (("only", found.tables_removed), ("new", found.tables_added)):
        for name in names:
            output.text(f"table {name} is in build {old if what == 'only' else new} only")
    rows = [
        DifferenceRow(
            table.name,
            "" if each.serving is None else as_json(each.serving),
            "" if each.candidate is None else as_json(each.candidate),
        )
        for table in found.tables
        for each in table.samples
    ]
    if rows:
        output.rows(rows, lambda row: row, DifferenceRow)


class BuildRow(Struct, frozen=True):
    """A build that was changed."""

    name: str
    build: int
    version: int
    state: str


def _build(build: Build) -> BuildRow:
    return BuildRow(build.name, build.id, build.version, build.state)


def swap(session: Session, options: Named) -> None:
    """Let the build that is complete serve; the one that served is kept for a rollback."""
    with session.open_app(options.views) as store:
        session.output.document(_build(store.projections.swap(options.name)))


def rollback(session: Session, options: Named) -> None:
    """Let the build serve again that did before the last swap."""
    with session.open_app(options.views) as store:
        session.output.document(_build(store.projections.rollback(options.name)))


class DropOptions(Named, frozen=True, kw_only=True):
    """What to drop."""

    build: Annotated[
        int | None,
        typer.Option("--build", min=1, metavar="N", help="Only this build, which does not serve."),
    ] = None
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False


def drop(session: Session, options: DropOptions) -> int | None:
    """Delete a build; or all read models and checkpoints of a name. The log stays as it is."""
    what = f"build {options.build}" if options.build else "everything that is kept"
    with session.open_app(options.views) as store:
        _check_is_kept(store, options)
        if not options.yes and not _agrees(f"{what} of {options.name!r}"):
            complain("nothing was dropped")
            return PROBLEMS
        dropped = store.projections.drop(options.name, build=options.build)
    session.output.rows(dropped, _build, BuildRow)
    return None


def _check_is_kept(store: EventStore, options: DropOptions) -> None:
    """Refuse, with InvalidInput, to ask whether to drop what is not there."""
    builds = [each.build for each in store.projections.status() if each.name == options.name]
    kept = [each for each in builds if each is not None]
    if not kept:
        raise InvalidInput(f"nothing is kept of {options.name!r}")
    if options.build is not None and options.build not in kept:
        raise InvalidInput(
            f"{options.name!r} has no build {options.build}; it has {', '.join(map(str, kept))}"
        )


def _agrees(what: str) -> bool:
    try:
        return typer.confirm(f"Drop {what}?", err=True)
    except typer.Abort:
        raise InvalidInput(f"nobody is there to ask; to drop {what}, add --yes") from None
