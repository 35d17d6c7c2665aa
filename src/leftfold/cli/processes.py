"""Commands that look after processes: how their instances are, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from getpass import getuser
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Struct

from leftfold.cli.output import Output, cell, complain
from leftfold.cli.progress import bar
from leftfold.cli.projections import Kept
from leftfold.cli.session import PROBLEMS, Session
from leftfold.cli.times import iso
from leftfold.errors import InvalidInput
from leftfold.event import RecordedEvent, to_us
from leftfold.facade import EventStore
from leftfold.process.events import TimerSet
from leftfold.process.instance import Instance, Step
from leftfold.process.repairing import LIST_INSTANCES, InstanceStatus
from leftfold.process.tracing import Traced, tree
from leftfold.query import select

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
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if one is stuck.")] = False


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


def list_(session: Session, options: ListOptions) -> int:
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
    return PROBLEMS if options.check and any(each.status == "stuck" for each in found) else 0


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
    reason: str


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
            each.reason,
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


def print_instance(
    output: Output, process: str, key: str, found: Instance, due_us: Mapping[int, int]
) -> None:
    """An instance for people: a line for each step, each timer, and all that waits. `due_us` says
    when timers are due, by their numbers.
    """
    values: dict[str, object] = {"process": process, "key": key, "status": found.status}
    values["version"] = found.version
    values |= {"stuck": found.stuck} if found.stuck else {}
    values |= {"reason": found.reason} if found.reason else {}
    for step in found.steps:
        values[f"step {step.name}"] = _step_text(step)
    for timer in found.timers:
        at_us = due_us.get(timer.number, timer.at_us)
        values[f"timer {timer.name}"] = "set" if at_us is None else f"due {iso(at_us)}"
    for number, event in enumerate(found.held, 1):
        values[f"held {number}"] = _held_text(event)
    output.values(values)


def _step_text(step: Step) -> str:
    work = step.sent.work
    waits = ", waits for an answer" if step.awaits else ""
    to = f"call {work.to}" if work.id is None else f"{work.to} {work.id}"
    attempt = f", attempt {step.sent.attempt}" if step.sent.attempt > 1 else ""
    why = f" ({step.reason})" if step.reason else ""
    return f"{step.status}{waits}: {work.type} to {to}{attempt}{why}"


def _held_text(event: RecordedEvent[Any]) -> str:
    if not event.position:
        # Of the process itself: it waits before it is recorded.
        name = getattr(event.data, "step", "") or getattr(event.data, "name", "")
        return f"{event.type} {name}".rstrip()
    at = f"at position {event.position} of {event.stream}"
    return f"{event.type} {at}, recorded {iso(event.recorded_us)}"


def _print(session: Session, store: EventStore, options: OneOptions, found: Instance) -> None:
    process, key = options.process, options.key
    if session.output.is_json:
        session.output.document(_shown(process, key, found))
        return
    due_us: dict[int, int] = {}
    set_by = select(f"{process}-{key}", types=[TimerSet]) if found.timers else None
    for each in store.read(set_by) if set_by else ():
        timer = each.data
        at_us = timer.at_us
        due_us[timer.number] = each.recorded_us + timer.after_us if at_us is None else at_us
    print_instance(session.output, process, key, found, due_us)


def show(session: Session, options: OneOptions) -> None:
    """Show one instance: its steps, its timers, and what waits."""
    with session.open_app(options.views) as store:
        found = store.processes.show(options.process, options.key)
        _print(session, store, options, found)


class RepairOptions(OneOptions, frozen=True, kw_only=True):
    """Which instance, and who repairs it."""

    actor: Annotated[
        str | None,
        typer.Option("--actor", metavar="NAME", help="Who; recorded. You, unless given."),
    ] = None

    @property
    def by(self) -> str:
        """Who repairs it. Raises InvalidInput where that is nobody."""
        if self.actor is not None:
            return _told("--actor is the name of who does it", self.actor)
        try:
            return getuser()
        except (KeyError, OSError, ImportError):
            raise InvalidInput("this user of the system has no name; give --actor NAME") from None


def _told(what: str, text: str) -> str:
    if not text.strip():
        raise InvalidInput(f"{what}, found {text!r}")
    return text


def _print_repaired(
    session: Session, store: EventStore, options: OneOptions, found: Instance
) -> int | None:
    _print(session, store, options, found)
    if not found.stuck:
        return None
    complain(f"{options.process}-{options.key} is stuck again: {found.stuck}")
    return PROBLEMS


def retry(session: Session, options: RepairOptions) -> int | None:
    """Try again what an instance is stuck at."""
    actor = options.by
    with session.open_app(options.views) as store:
        found = store.processes.retry(options.process, options.key, actor=actor)
        return _print_repaired(session, store, options, found)


class ReasonOptions(RepairOptions, frozen=True, kw_only=True):
    """Which instance, who repairs it, and why."""

    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; it is recorded. Required.")
    ]

    @property
    def why(self) -> str:
        """Why it is repaired. Raises InvalidInput where that says nothing."""
        return _told("--reason says why", self.reason)


class SkipOptions(ReasonOptions, frozen=True, kw_only=True):
    """What to go on without."""

    step: Annotated[
        str,
        typer.Option("--step", metavar="STEP", help="This step; else what it is stuck at."),
    ] = ""


def skip(session: Session, options: SkipOptions) -> int | None:
    """Go on without what an instance is stuck at, or without a step that it waits for."""
    actor, reason, step = options.by, options.why, options.step
    with session.open_app(options.views) as store:
        found = store.processes.skip(
            options.process, options.key, reason=reason, actor=actor, step=step
        )
        return _print_repaired(session, store, options, found)


class CancelOptions(ReasonOptions, frozen=True, kw_only=True):
    """How to end it."""

    no_compensation: Annotated[
        bool, typer.Option("--no-compensation", help="At once: take no step back.")
    ] = False


def cancel(session: Session, options: CancelOptions) -> None:
    """End an instance, after its steps were taken back."""
    actor, reason, compensate = options.by, options.why, not options.no_compensation
    with session.open_app(options.views) as store:
        found = store.processes.cancel(
            options.process, options.key, reason=reason, actor=actor, compensate=compensate
        )
        _print(session, store, options, found)


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
    name: str | None
    id: str
    causation_id: str | None
    actor: str | None


class _Named(Struct, frozen=True):
    type: str = ""


class _Names(Struct, frozen=True):
    """What events of processes say of what they are about."""

    step: str = ""
    name: str = ""
    event: _Named = _Named()


def trace(session: Session, options: TraceOptions) -> int | None:
    """Print what caused what, with times. It reads the whole log: nothing is sorted by this id."""
    with session.open() as store, bar("trace", store.head()) as shown:
        found = [
            each
            for each in shown.along(store.read())
            # What began a conversation may be known by its own id alone.
            if options.correlation_id in (each.metadata.correlation_id, str(each.id))
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
        what = f"{'  ' * line.depth}{line.type}{f' {line.name}' if line.name else ''}"
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
        _name(event),
        str(event.id),
        metadata.causation_id,
        metadata.actor,
    )


def _name(event: RecordedEvent[bytes]) -> str | None:
    """The step, the timer or the event that an event of a process is about."""
    if not event.type.startswith("process."):
        return None
    try:
        found = msgspec.json.decode(event.data, type=_Names)
    except msgspec.MsgspecError:
        # It only looks like one: anybody may append.
        return None
    return found.name or found.step or found.event.type.removeprefix("process.") or None
