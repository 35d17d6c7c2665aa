"""A process that gets stuck where money is given back: to a safe, which may not be there yet."""

from __future__ import annotations

from typing import Any

import process_bank as bank
from process_bank import Deposit, TransferRequested, Withdraw

from leftfold import RecordedEvent, select
from leftfold.process import Done, ProcessManager, Send, StepDone, StepSkipped


def react(target: str, event: RecordedEvent[Any]) -> list[Any]:
    match event.data:
        case TransferRequested(source=source, amount=amount):
            back = Send("account", "safe", Deposit(amount))
            take = Withdraw(amount)
            within = bank.HOUR
            return [
                Send("account", source, take, step="take", compensate=back, answer_within=within)
            ]
        case StepDone("take") if target:
            return [Send("account", target, Deposit(1), step="give")]
        case StepDone("give") | StepSkipped("take"):
            return [Done()]
    return []


def evolve(target: str, event: RecordedEvent[Any]) -> str:
    return event.data.target if isinstance(event.data, TransferRequested) else target


loans = ProcessManager(
    "loan",
    key=bank.by_transfer,
    query=select(types=[TransferRequested]),
    initial_state="",
    evolve=evolve,
    react=react,
    commands=bank.COMMANDS,
)
app = bank.app_of(loans)
