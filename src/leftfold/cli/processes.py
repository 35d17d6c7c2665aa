"""Commands that look after processes: how their instances are, and what to do about them."""

from __future__ import annotations

from getpass import getuser
from typing import Annotated, Any

import typer
from msgspec import Struct

from leftfold.cli.output import cell, complain
from leftfold.cli.progress import bar
from leftfold.cli.projections import Kept
from leftfold.cli.session import PROBLEMS, Session
from leftfold.cli.times import iso
from leftfold.event import to_us
from leftfold.process.instance import Instance
from leftfold.process.repairing import LIST_INSTANCES, InstanceStatus
from leftfold.process.tracing import Traced, tree

TRACE_EVENTS_MAX = 10_000
"""Events of one conversation that `trace` shows."""


class ListOptions(Kept, frozen=True, kw_only=True):
    """Which instances."""

    process: Annotated[
        str | None, typer.Argument(metavar="[PROCESS]", help="Only of this process.")
    ] = None
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Only these: stuck, for example."),
    ] = None
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="At most so many.")] = (
        LIST_INSTANCES
    )


class InstanceRow(Struct, frozen=True):
    """An instance, for `list`."""

    process: str
    key: str
    status: str
    version: int
    held: int
    updated_at: str | None
    due_at: str | None
    reason: str


def list_(session: Session, options: ListOptions) -> None:
    """List the instances of processes: those that are stuck, for example."""
    with session.open_app(options.views) as store:
        found = store.processes.list(options.process, status=options.status, limit=options.limit)

    def show(each: InstanceStatus) -> InstanceRow:
        due, updated = each.due_at, each.updated_at
        return InstanceRow(
            each.process,
            each.key,
            each.status,
            each.version,
            each.held,
            None if updated is None else iso(to_us(updated)),
            None if due is None else iso(to_us(due)),
            each.reason,
        )

    session.output.rows(found, show, InstanceRow)


class OneOptions(Kept, frozen=True, kw_only=True):
    """Which instance."""

    process: Annotated[str, typer.Argument(metavar="PROCESS", help="The process.")]
    key: Annotated[str, typer.Argument(metavar="KEY", help="Of the instance.")]


class StepShown(Struct, frozen=True):
    """A step of an instance, for `show`."""

    step: str
    status: str
    awaits: bool
    to: str
    id: str | None
    command: str
    attempt: int


class Shown(Struct, frozen=True):
    """An instance, for `show` and for repairs."""

    process: str
    key: str
    status: str
    version: int
    stuck: str
    reason: str
    steps: list[StepShown]
    timers: list[str]
    held: list[str]


def _shown(process: str, key: str, found: Instance) -> Shown:
    steps = [
        StepShown(
            each.name,
            each.status,
            each.awaits,
            each.sent.work.to,
            each.sent.work.id,
            each.sent.work.type,
            each.sent.attempt,
        )
        for each in found.steps
    ]
    return Shown(
        process,
        key,
        found.status,
        found.version,
        found.stuck,
        found.reason,
        steps,
        [each.name for each in found.timers],
        [f"{each.type} at position {each.position}" for each in found.held],
    )


def show(session: Session, options: OneOptions) -> None:
    """Show one instance: its steps, its timers, and what waits."""
    with session.open_app(options.views) as store:
        found = store.processes.show(options.process, options.key)
    session.output.document(_shown(options.process, options.key, found))


class RepairOptions(OneOptions, frozen=True, kw_only=True):
    """Which instance, and who repairs it."""

    actor: Annotated[
        str | None,
        typer.Option("--actor", metavar="NAME", help="Who; recorded. You, unless given."),
    ] = None

    @property
    def by(self) -> str:
        """Who repairs it."""
        return self.actor or getuser()


def retry(session: Session, options: RepairOptions) -> None:
    """Try again what an instance is stuck at."""
    with session.open_app(options.views) as store:
        found = store.processes.retry(options.process, options.key, actor=options.by)
    session.output.document(_shown(options.process, options.key, found))


class ReasonOptions(RepairOptions, frozen=True, kw_only=True):
    """Which instance, who repairs it, and why."""

    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded. Required.")
    ]


class SkipOptions(ReasonOptions, frozen=True, kw_only=True):
    """What to go on without."""

    step: Annotated[
        str,
        typer.Option("--step", metavar="STEP", help="This step; else what it is stuck at."),
    ] = ""


def skip(session: Session, options: SkipOptions) -> None:
    """Go on without what an instance is stuck at, or without a step that it waits for."""
    reason, step = options.reason, options.step
    with session.open_app(options.views) as store:
        found = store.processes.skip(
            options.process, options.key, reason=reason, actor=options.by, step=step
        )
    session.output.document(_shown(options.process, options.key, found))


class CancelOptions(ReasonOptions, frozen=True, kw_only=True):
    """How to end it."""

    no_compensation: Annotated[
        bool, typer.Option("--no-compensation", help="At once: take no step back.")
    ] = False


def cancel(session: Session, options: CancelOptions) -> None:
    """End an instance, after its steps were taken back."""
    reason, compensate = options.reason, not options.no_compensation
    with session.open_app(options.views) as store:
        found = store.processes.cancel(
            options.process, options.key, reason=reason, actor=options.by, compensate=compensate
        )
    session.output.document(_shown(options.process, options.key, found))


class TraceOptions(Struct, frozen=True, kw_only=True):
    """Which conversation."""

    correlation_id: Annotated[
        str, typer.Argument(metavar="CORRELATION_ID", help="Of the conversation.")
    ]


class TraceLine(Struct, frozen=True):
    """An event of a conversation, for `trace`."""

    depth: int
    recorded_at: str
    position: int
    stream: str
    version: int
    type: str
    id: str
    causation_id: str | None
    actor: str | None


def trace(session: Session, options: TraceOptions) -> int | None:
    """Print what caused what, with times. It reads the whole log: nothing is sorted by this id."""
    with session.open() as store, bar("trace", store.head()) as shown:
        found = [
            each
            for each in shown.along(store.read())
            if each.metadata.correlation_id == options.correlation_id
        ]
    if not found:
        complain(f"no event is of conversation {options.correlation_id!r}")
        return PROBLEMS
    if len(found) > TRACE_EVENTS_MAX:
        complain(f"it has {len(found):,} events, of which the first {TRACE_EVENTS_MAX:,} are shown")
    lines = [_line(each) for each in tree(found[:TRACE_EVENTS_MAX])]
    if session.output.is_json:
        session.output.json(*lines)
        return None
    for line in lines:
        at = f"{line.stream}@{line.version}"
        by = f" by {line.actor}" if line.actor and not line.depth else ""
        what = f"{'  ' * line.depth}{line.type}"
        session.output.text(f"{line.recorded_at}  {cell(what):40} {cell(at)}{cell(by)}")
    return None


def _line(traced: Traced) -> TraceLine:
    event: Any = traced.event
    metadata = event.metadata
    return TraceLine(
        traced.depth,
        iso(event.recorded_us),
        event.position,
        event.stream,
        event.version,
        event.type,
        str(event.id),
        metadata.causation_id,
        metadata.actor,
    )
