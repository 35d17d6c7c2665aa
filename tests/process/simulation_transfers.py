"""What is simulated: transfers for a fee that is charged outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import process_bank as bank
from msgspec import Struct
from msgspec.structs import replace
from process_bank import Deposit, TransferRequested, Withdraw

from leftfold import RecordedEvent, select
from leftfold.process import (
    Call,
    CancelTimer,
    Compensate,
    Done,
    ProcessManager,
    Send,
    StepDone,
    StepSkipped,
    Timer,
    TimerFired,
)

Calls = Mapping[str, Callable[[Any, str], object]]

TRANSFERS = 8
ACCOUNTS = 4
CLOSED = "9"
FUNDS = 20
LIMIT = 17
"""The card declines the fee of more than that."""


class Charge(Struct, frozen=True):
    transfer: str
    amount: int


class Refund(Struct, frozen=True):
    transfer: str


class Transfer(Struct, frozen=True):
    target: str = ""
    amount: int = 0
    over: tuple[str, ...] = ()
    """The steps that were done or skipped."""


def evolve(transfer: Transfer, event: RecordedEvent[Any]) -> Transfer:
    match event.data:
        case TransferRequested(target=target, amount=amount):
            return Transfer(target, amount)
        case StepDone(step=step) | StepSkipped(step=step):
            return replace(transfer, over=(*transfer.over, step))
    return transfer


def react(transfer: Transfer, event: RecordedEvent[Any]) -> list[Any]:
    """Take and charge, wait for an hour, then give; and never wait for longer than a day."""
    match event.data:
        case TransferRequested():
            return _begin(event.data, bank.by_transfer(event))
        case StepDone("take" | "fee") | StepSkipped("take" | "fee"):
            # Once for both: a step that was skipped may be done later.
            is_last = sorted(transfer.over) == ["fee", "take"]
            return [Timer("pause", after=timedelta(hours=1))] if is_last else []
        case TimerFired("pause"):
            back, given = Withdraw(transfer.amount), Deposit(transfer.amount)
            give = Send("account", transfer.target, given, step="give", compensate=back)
            return [CancelTimer("day"), give]
        case TimerFired("day"):
            return [Compensate("it took too long")]
        case StepDone("give") | StepSkipped("give"):
            return [Done()]
    return []


def _begin(asked: TransferRequested, key: str) -> list[Any]:
    back, refund = Deposit(asked.amount), Call("refund", Refund(key))
    return [
        Timer("day", after=timedelta(days=1)),
        Send("account", asked.source, Withdraw(asked.amount), step="take", compensate=back),
        Call("charge", Charge(key, asked.amount), step="fee", compensate=refund),
    ]


def process_of(calls: Calls, fails: Callable[[float], bool]) -> ProcessManager[Transfer]:
    """The process; its reactions raise where `fails` says so, as if mended later."""

    def react_or_raise(transfer: Transfer, event: RecordedEvent[Any]) -> list[Any]:
        if fails(0.04):
            raise ValueError("simulated")
        return react(transfer, event)

    return ProcessManager(
        "transfer",
        key=bank.by_transfer,
        query=select(types=[TransferRequested]),
        initial_state=Transfer(),
        evolve=evolve,
        react=react_or_raise,
        commands=[*bank.COMMANDS, Charge, Refund],
        calls=calls,
        call_attempts_max=3,
    )
