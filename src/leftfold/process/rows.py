"""The instances of a process as a read model: how they are, and when their timers are due."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from leftfold.event import RecordedEvent
from leftfold.process import events as log
from leftfold.process.instance import Phase
from leftfold.process.rules import Rules
from leftfold.projection.definition import REMOVED, Projection
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


class _Rows(Projection[InstanceRow], frozen=True, kw_only=True, eq=False):
    """Of what is recorded of processes alone: the same whatever the App's codec becomes. While a
    release is rolled out, or back, its timers are those of both.
    """

    def _fingerprint(self, codec_fingerprint: str) -> str:
        return super()._fingerprint("")


def rows_of(rules: Rules[Any]) -> Projection[InstanceRow]:
    """The projection of the instances of a process."""
    prefix = f"{rules.name}-"

    def key(event: RecordedEvent[Any]) -> str:
        return event.stream.removeprefix(prefix)

    return _Rows(
        rows_name(rules.name),
        row=InstanceRow,
        key=key,
        evolve=listed,
        query=select(category=rules.name),
        indexes=["status", "due_us"],
    )


def listed(row: InstanceRow, event: RecordedEvent[Any]) -> Any:
    """The row after one event; none where all that came in so far was of no meaning."""
    row = evolve_row(row, event)
    return row if row.version else REMOVED


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
    if isinstance(data, log.TimerSet):
        return replace(row, timers={**row.timers, data.name: _due(event)})
    # A timer that has fired is set no more, also where what comes of it waits.
    told = data.event.data if isinstance(data, log.Held) else data
    left = {name: each for name, each in row.timers.items() if not _is_over(name, each, told)}
    return replace(row, timers=left)


def _is_over(name: str, timer: DueTimer, event: Any) -> bool:
    """Whether an event is the end of a timer."""
    match event:
        case log.TimerCancelled():
            return bool(name == event.name)
        case log.TimerFired():
            # It may have waited, and another of its name may have been set since.
            return bool((name, timer.number) == (event.name, event.number))
        case log.StepSent():
            return bool(timer.step == event.step and timer.retries)
        case log.Compensating() | log.Ended():
            return not timer.retries
        case log.StepAnswered():
            return bool(timer.step == event.step and not timer.retries)
    is_last = isinstance(event, log.StepRejected | log.NoAnswer | log.StepSkipped)
    return is_last and bool(timer.step == event.step)


def _due(event: RecordedEvent[Any]) -> DueTimer:
    timer = event.data
    due_us = event.recorded_us + timer.after_us if timer.at_us is None else timer.at_us
    correlation_id = event.metadata.correlation_id
    return DueTimer(due_us, timer.number, str(event.id), correlation_id, timer.step, timer.retries)


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
        case log.Retried():
            return replace(row, stuck="")
        case log.StepSkipped(step=step):
            # Only what takes back a step is skipped without a reaction.
            waited = not step.startswith("undo ")
            return replace(row, stuck="", held=max(row.held - waited, 0))
        case log.Cancelled():
            return replace(row, stuck="", held=0)
    reacted = (log.Reacted, log.StepDone, log.StepRejected, log.NoAnswer, log.TimerFired)
    # What waits goes first, so what is reacted to is the first of it.
    return replace(row, held=max(row.held - isinstance(event, reacted), 0))
