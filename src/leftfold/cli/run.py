"""The command that runs projections and consumers, until it is told to stop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from msgspec import Struct

from leftfold.app import App
from leftfold.cli.interrupt import on_interrupt, on_terminate
from leftfold.cli.output import Output, cell
from leftfold.cli.projections import Kept
from leftfold.cli.session import INTERRUPTED, Globals, Session
from leftfold.cli.times import iso
from leftfold.event import now_us
from leftfold.projection.running import Swap

PAUSE_S = 0.1
"""How long it may take to see that it is to stop, in seconds."""


class RunOptions(Kept, frozen=True, kw_only=True):
    """What to run."""

    target: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:APP]", help="The App: the same as --app."),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this one. Again: and that one."),
    ] = None
    no_swap: Annotated[
        bool,
        typer.Option("--no-swap", help="Leave it to `projections swap` to swap builds in."),
    ] = False


class LogLine(Struct, frozen=True):
    """Something that happened, for `run`."""

    at: str
    level: str
    message: str


class _Lines(logging.Handler):
    """Prints what is logged, a line each."""

    def __init__(self, output: Output) -> None:
        super().__init__(logging.INFO)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            message += f": {type(error).__name__}: {error}"
        line = LogLine(iso(now_us()), record.levelname.lower(), message)
        if self._output.is_json:
            self._output.json(line)
        else:
            self._output.text(f"{line.at} {line.level:7} {cell(line.message)}")
        sys.stdout.flush()


def run(session: Session, options: RunOptions) -> int:
    """Run projections, consumers and processes, until Ctrl-C or SIGTERM."""
    if options.target is not None:
        session = Session(Globals(app=options.target).or_else(session.options))
    told: list[int] = []
    with (
        _logged(session.output) as log,
        on_interrupt(lambda: told.append(INTERRUPTED)),
        on_terminate(lambda: told.append(0)),
        session.open_app(options.views) as store,
    ):
        swap: Swap = "manual" if options.no_swap else "auto"
        runner = store.running(only=options.only or None, swap=swap)
        log.info("running %s", ", ".join(options.only or _names(session.app)))
        with runner:
            while not told:
                time.sleep(PAUSE_S)
            # It waits for the functions that are being called, however long they take.
            is_by_hand = told[0] == INTERRUPTED
            log.info("stopping%s", "; another Ctrl-C does not wait" if is_by_hand else "")
    return told[0]


def _names(app: App) -> list[str]:
    found = (*app.subscribers, *app.processes)
    return [each.name for each in found if getattr(each, "mode", "async") == "async"]


@contextmanager
def _logged(output: Output) -> Iterator[logging.Logger]:
    log = logging.getLogger("leftfold")
    lines, level = _Lines(output), log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield log
    finally:
        log.removeHandler(lines)
        log.setLevel(level)
