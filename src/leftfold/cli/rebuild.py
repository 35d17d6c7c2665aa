"""The command that builds a projection again, beside the build that serves."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Annotated

import typer
from msgspec import Struct
from msgspec.structs import replace

from leftfold.cli.interrupt import on_interrupt
from leftfold.cli.output import complain
from leftfold.cli.progress import Timer, bar
from leftfold.cli.projections import Named, show_comparison
from leftfold.cli.session import INTERRUPTED, PROBLEMS, Globals, Session
from leftfold.errors import InvalidInput
from leftfold.facade import EventStore
from leftfold.projection.comparing import Comparison
from leftfold.projection.managing import PARTITIONS_MAX
from leftfold.projection.status import ProjectionStatus

LOOK_S = 0.25
"""Between two looks at how far the build is, in seconds."""
STOP_S = 10.0
"""How long another worker may take to stop, in seconds."""


class RebuildOptions(Named, frozen=True, kw_only=True):
    """What to build again, and how."""

    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=1, max=PARTITIONS_MAX, metavar="N", help="So many processes share it."
        ),
    ] = 1
    partitions: Annotated[
        int | None,
        typer.Option(
            "--partitions", min=1, metavar="N", help="Into how many keys are divided: as workers."
        ),
    ] = None
    events_per_s_max: Annotated[
        int,
        typer.Option(
            "--events-per-s-max", min=0, metavar="N", help="At most so many in each partition."
        ),
    ] = 0
    swap: Annotated[bool, typer.Option("--swap", help="Swap it in when it is complete.")] = False


class Rebuilt(Struct, frozen=True):
    """What `rebuild` came to."""

    name: str
    build: int
    state: str
    events: int
    seconds: float
    events_per_s: int
    comparison: Comparison | None
    """With what served before, if there was one."""


def rebuild(session: Session, options: RebuildOptions) -> int | None:
    """Build a projection again from the log, beside the build that serves, and compare them."""
    name, timer = options.name, Timer()
    interrupts: list[int] = []
    # Ctrl-C waits until the workers are there, who then leave their work in good order.
    with (
        session.open_app(options.views) as store,
        on_interrupt(lambda: interrupts.append(INTERRUPTED)),
    ):
        before = _begin(store, options)
        with (
            _helped(session, options) as helpers,
            # An inline one is complete by now.
            nullcontext()
            if before.mode == "inline"
            else store.running(only=[name], swap="manual", share=(0, options.workers)),
        ):
            found = _fold(store, before, helpers, interrupts)
            if found is None:
                return PROBLEMS
            others = [each.build for each in store.projections.status(name)]
            comparison = store.projections.compare(name) if len(others) > 1 else None
            if options.swap and found.state != "serving":
                store.projections.swap(name)
            found = _status(store, name, found.build)
    count = found.events - before.events
    rebuilt = Rebuilt(
        name, found.build or 0, found.state, count, timer.seconds, timer.rate(count), comparison
    )
    _show(session, rebuilt)
    return None


def _begin(store: EventStore, options: RebuildOptions) -> ProjectionStatus:
    """Begin a build, or go on with one."""
    name = options.name
    for each in store.projections.status(name):
        # What is left of an inline one is no runner's to finish.
        is_async = each.mode == "async"
        if is_async and each.is_current and each.state in ("building", "ready"):
            owners = f", which {', '.join(each.owners)} folds as well" if each.owners else ""
            complain(f"going on with build {each.build}{owners}")
            return each
    build = store.projections.rebuild(
        name,
        partitions=options.partitions or options.workers,
        events_per_s_max=options.events_per_s_max,
    )
    # An inline one is complete by now: what it has applied counts as well.
    return replace(_status(store, name, build.id), events=0)


def _status(store: EventStore, name: str, build: int | None) -> ProjectionStatus:
    for each in store.projections.status(name):
        if each.build == build:
            return each
    raise InvalidInput(f"build {build} of {name!r} was dropped meanwhile")


def _fold(
    store: EventStore,
    before: ProjectionStatus,
    helpers: list[BaseProcess],
    interrupts: list[int],
) -> ProjectionStatus | None:
    """Wait until the build is complete; None where that cannot be."""
    end = before.head
    with bar(before.name, end) as shown:
        while True:
            now = _status(store, before.name, before.build)
            shown.to(min(now.position, end), now.events - before.events)
            # The first build of a name serves from the start.
            if now.state != "building" and (now.position >= end or not now.events_behind):
                return now
            if now.failure:
                complain(f"build {now.build} is stopped: {now.failure}")
                return None
            if any(not each.is_alive() for each in helpers):
                complain(f"a worker has ended; the same command goes on with build {now.build}")
                return None
            if interrupts:
                complain(f"the same command goes on with build {now.build}")
                raise KeyboardInterrupt
            time.sleep(LOOK_S)


@contextmanager
def _helped(session: Session, options: RebuildOptions) -> Iterator[list[BaseProcess]]:
    """With the other workers, each a process."""
    # Forks would share what the store has opened.
    spawning = get_context("spawn")
    theirs, ours = spawning.Pipe(duplex=False)
    helpers: list[BaseProcess] = []
    try:
        for number in range(1, options.workers):
            share = number, options.workers
            worker = spawning.Process(target=_work, args=(theirs, session.options, options, share))
            worker.start()
            helpers.append(worker)
        yield helpers
    finally:
        ours.close()
        for each in helpers:
            each.join(STOP_S)
            each.kill()


def _work(
    told: Connection, given: Globals, options: RebuildOptions, share: tuple[int, int]
) -> None:
    """Fold a share of the build, until the other process ends, or says so."""
    # Ctrl-C comes to all processes of a terminal, and the other one says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (
        Session(given).open_app(options.views) as store,
        store.running(only=[options.name], swap="manual", share=share),
        suppress(EOFError),
    ):
        told.recv()


def _show(session: Session, rebuilt: Rebuilt) -> None:
    output = session.output
    if output.is_json:
        output.json(rebuilt)
        return
    output.text(
        f"build {rebuilt.build} of {rebuilt.name} is {rebuilt.state}: {rebuilt.events:,} events in "
        f"{rebuilt.seconds} s, {rebuilt.events_per_s:,}/s"
    )
    if rebuilt.comparison is not None:
        show_comparison(output, rebuilt.comparison)
    if rebuilt.state != "serving":
        output.text(f"to let it serve: leftfold projections swap {rebuilt.name}")
