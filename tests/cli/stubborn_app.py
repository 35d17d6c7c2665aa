"""A process that gets stuck at some of its events, and whose state is not one for JSON."""

from __future__ import annotations

from typing import Any

import process_bank as bank
from process_bank import Deposit, TransferRequested

from leftfold import RecordedEvent, select
from leftfold.process import ProcessManager, Send


class Counter:
    """A state that msgspec does not know."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def __repr__(self) -> str:
        return f"Counter({self.count})"


def react(counter: Counter, event: RecordedEvent[Any]) -> list[Any]:
    match event.data:
        case TransferRequested(amount=0):
            raise ValueError("there is nothing to give")
        case TransferRequested(target=target, amount=amount):
            return [Send("account", target, Deposit(amount), step=f"give {counter.count}")]
    return []


gifts = ProcessManager(
    "gift",
    key=bank.by_transfer,
    query=select(types=[TransferRequested]),
    initial_state=Counter(),
    evolve=lambda counter, event: Counter(counter.count + 1),
    react=react,
    commands=bank.COMMANDS,
)
app = bank.app_of(gifts)
