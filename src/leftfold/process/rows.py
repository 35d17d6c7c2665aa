"""The instances of a process as a read model: how they are, and when their timers are due."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from leftfold.event import RecordedEvent
from leftfold.process import events as log
from leftfold.process.instance import Phase
from leftfold.process.rules import Rules
from leftfold.projection.definition import Projection
from leftfold.query import select


class DueTimer(Struct, frozen=True):
    """A timer that is set, and when it is due by the store's clock."""

    due_us: int
    number: int
    id: str
    """Of the event that set it."""
    correlation_id: str | None = None
    step: str = ""
    retries: bool = False


class InstanceRow(Struct, frozen=True):
    """How an instance is."""

    instance: str
    status: str = "running"
    phase: Phase = "running"
    version: int = 0
    stuck: str = ""
    """Why it waits to be repaired; empty: it does not."""
    reason: str = ""
    held: int = 0
    """How much has come in and waits."""
    timers: dict[str, DueTimer] = {}
    due_us: int | None = None
    """When the first of its timers is due."""
    started_us: int = 0
    updated_us: int = 0


def rows_name(name: str) -> str:
    """What the projection of a process is called."""
    return f"{name}_instances"


def rows_of(rules: Rules[Any]) -> Projection[InstanceRow]:
    """The projection of the instances of a process."""
    prefix = f"{rules.name}-"

    def key(event: RecordedEvent[Any]) -> str:
        return event.stream.removeprefix(prefix)

    return Projection(
        rows_name(rules.name),
        row=InstanceRow,
        key=key,
        evolve=evolve_row,
        query=select(category=rules.name),
        indexes=["status", "due_us"],
    )


def evolve_row(row: InstanceRow, event: RecordedEvent[Any]) -> InstanceRow:
    """The row after one event of the stream of an instance."""
    row = _phased(_timed(row, event), event.data)
    due_us = min((each.due_us for each in row.timers.values()), default=None)
    status = "stuck" if row.stuck else row.phase
    started_us = row.started_us or event.recorded_us
    return replace(
        row, due_us=due_us, status=status, started_us=started_us, updated_us=event.recorded_us
    )


def _timed(row: InstanceRow, event: RecordedEvent[Any]) -> InstanceRow:
    data = event.data
    # A timer that has fired is set no more, also where what comes of it waits.
    match data.event.data if isinstance(data, log.Held) else data:
        case log.TimerSet(name=name):
            return replace(row, timers={**row.timers, name: _due(event)})
        case log.TimerCancelled(name=name) | log.TimerFired(name=name):
            return _without(row, lambda known, _: known == name)
        case log.StepSent(step=step):
            return _without(row, lambda _, timer: timer.step == step and timer.retries)
        case log.Compensating() | log.Ended():
            return _without(row, lambda _, timer: not timer.retries)
        case (
            log.StepAnswered(step=step)
            | log.StepRejected(step=step)
            | log.NoAnswer(step=step)
            | log.StepSkipped(step=step)
        ):
            return _without(row, lambda _, timer: timer.step == step and not timer.retries)
    return row


def _due(event: RecordedEvent[Any]) -> DueTimer:
    timer = event.data
    due_us = event.recorded_us + timer.after_us if timer.at_us is None else timer.at_us
    correlation_id = event.metadata.correlation_id
    return DueTimer(due_us, timer.number, str(event.id), correlation_id, timer.step, timer.retries)


def _without(row: InstanceRow, is_over: Any) -> InstanceRow:
    left = {name: each for name, each in row.timers.items() if not is_over(name, each)}
    return replace(row, timers=left)


def _phased(row: InstanceRow, event: Any) -> InstanceRow:
    match event:
        case log.Started(version=version) | log.Migrated(version=version):
            return replace(row, version=version)
        case log.Compensating(reason=reason):
            return replace(row, phase="compensating", reason=reason)
        case log.Ended(outcome=outcome, reason=reason):
            return replace(row, phase=outcome, reason=reason or row.reason)
        case log.Held():
            return replace(row, held=row.held + 1)
    return _mended(row, event)


def _mended(row: InstanceRow, event: Any) -> InstanceRow:
    match event:
        case log.Quarantined(reason=reason):
            return replace(row, stuck=reason)
        case log.EventSkipped():
            return replace(row, stuck="", held=row.held - 1)
        case log.Retried() | log.StepSkipped():
            return replace(row, stuck="")
        case log.Cancelled():
            return replace(row, stuck="", held=0)
        case log.Reacted() | log.StepDone() | log.StepRejected() | log.TimerFired():
            # What waits goes first, so what is reacted to is the first of it.
            return replace(row, held=max(row.held - 1, 0))
    return row
