"""Instances that are told orders one by one, without a store: how they and their rows are then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct

from leftfold import Event, Metadata, RecordedEvent, select
from leftfold.event import new_id, pack_metadata
from leftfold.process import Call, ProcessManager, Send
from leftfold.process.instance import Instance
from leftfold.process.rows import InstanceRow, listed
from leftfold.process.stepping import Fire, Order, React, decider_of
from leftfold.projection.definition import REMOVED

HOUR = timedelta(hours=1)


class Go(Struct, frozen=True):
    n: int = 0


class Do(Struct, frozen=True):
    pass


class Undo(Struct, frozen=True):
    pass


CHARGE = Call("pay", Do(), step="charge", compensate=Undo(), answer_within=HOUR)
TAKE = Send("account", "a", Do(), step="take", compensate=Undo(), answer_within=HOUR)
SOLD = Send("account", "a", Do(), step="take", compensate=Undo())


def process(react: Callable[[Any, Any], Any], evolve: Any = None, **options: Any) -> Any:
    given: dict[str, Any] = {
        "key": lambda event: "1",
        "query": select(types=[Go]),
        "initial_state": 0,
        "commands": [Do, Undo],
        "calls": {"pay": lambda request, key: None},
        **options,
    }
    return ProcessManager(
        "order",
        evolve=evolve or (lambda state, event: state + 1),
        react=lambda state, event: react(state, event.data),
        **given,
    )


class Told:
    """An instance, its row, and all that was recorded of it. Folded anew each time."""

    def __init__(self, made: Any, events: Sequence[Any] = ()) -> None:
        self._decider = decider_of(made)
        self.events = [*events]
        self._position = 0

    @property
    def now(self) -> Instance:
        now = self._decider.initial_state
        for each in self.events:
            now = self._decider.evolve(now, each)
        return now

    @property
    def row(self) -> InstanceRow:
        row = self.row_or_none()
        assert row is not None
        return row

    def row_or_none(self) -> InstanceRow | None:
        row: InstanceRow | None = None
        for each in self.events:
            found = listed(row or InstanceRow("1"), recorded(each, 1))
            row = None if found is REMOVED else found
        return row

    def do(self, order: Order) -> list[str]:
        """The names of what came of it."""
        before = self.now
        found = self._decider.decided(order, before)
        assert before == self.now, "an order has changed the very instance"
        self.events += [each for each in found if not isinstance(each, Event)]
        return [type(each).__name__ for each in found]

    def go(self, n: int = 0, conversation: str | None = "c") -> list[str]:
        self._position += 1
        return self.do(React("1", recorded(Go(n), self._position, conversation)))

    def fire(self, name: str, refused: str = "") -> list[str]:
        timer = self.now.timer(name)
        return self.do(Fire(name, timer.number if timer else 0, refused))

    def status(self, step: str) -> str:
        found = self.now.step(step)
        assert found is not None
        return found.status


def recorded(data: Any, position: int, conversation: str | None = "c") -> RecordedEvent[Any]:
    metadata = pack_metadata(Metadata(correlation_id=conversation))
    kind = type(data).__name__
    return RecordedEvent(position, "x-1", 1, kind, data, (), 1, new_id().bytes, 0, None, metadata)


def reacting(outputs: dict[type, Any]) -> Any:
    """Returns or raises by the class of the data."""

    def react(state: Any, data: Any) -> Any:
        found = outputs.get(type(data), [])
        if isinstance(found, Exception):
            raise found
        return found

    return react
