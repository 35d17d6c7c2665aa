"""The process managers that are measured: transfers between accounts, one long instance, timers and
calls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct

from leftfold import Codec, Decider, Event, RecordedEvent, select
from leftfold.process import Call, Done, Output, ProcessManager, Send, StepDone, Timer

CALL_S = 0.02
LATER = timedelta(hours=1)


class Deposited(Struct, frozen=True):
    cents: int


class Withdrawn(Struct, frozen=True):
    cents: int


class Deposit(Struct, frozen=True):
    cents: int


class Withdraw(Struct, frozen=True):
    cents: int


class TransferRequested(Struct, frozen=True):
    source: str
    target: str
    cents: int


def decide(command: Deposit | Withdraw, balance: int) -> list[Deposited | Withdrawn]:
    if isinstance(command, Deposit):
        return [Deposited(command.cents)]
    if command.cents > balance:
        raise ValueError(f"the balance is {balance}")
    return [Withdrawn(command.cents)]


def evolve(balance: int, event: Deposited | Withdrawn) -> int:
    return balance + (event.cents if isinstance(event, Deposited) else -event.cents)


ACCOUNT = Decider("account", initial_state=0, decide=decide, evolve=evolve)


def of_request(event: RecordedEvent[Any]) -> str:
    """The key of an instance."""
    return event.stream.removeprefix("request-")


def remember(
    request: TransferRequested | None, event: RecordedEvent[Any]
) -> TransferRequested | None:
    return event.data if isinstance(event.data, TransferRequested) else request


def transfer(request: Any, event: RecordedEvent[Any]) -> Sequence[Output]:
    match event.data:
        case TransferRequested(source=source, cents=cents):
            take, back = Withdraw(cents), Deposit(cents)
            return [Send(ACCOUNT, source, take, step="take", compensate=back)]
        case StepDone("take"):
            return [Send(ACCOUNT, request.target, Deposit(request.cents), step="give")]
        case StepDone("give"):
            return [Done()]
    return []


TRANSFERS = ProcessManager(
    "transfer",
    key=of_request,
    query=select(types=[TransferRequested]),
    initial_state=None,
    evolve=remember,
    react=transfer,
    commands=[Deposit, Withdraw],
    steps=["take", "give"],
)


class Asked(Struct, frozen=True):
    """Something that one instance gets `of` times."""

    of: int


class Noted(Struct, frozen=True):
    pass


def count_down(left: int, event: RecordedEvent[Any]) -> int:
    return (left or event.data.of) - 1 if isinstance(event.data, Asked) else left


def note(left: int, event: RecordedEvent[Any]) -> Sequence[Output]:
    noted = Event(f"note-{of_request(event)}", Noted())
    return [noted] if left else [noted, Done()]


class Charged(Struct, frozen=True):
    """How many were asked for, and how many of those were paid."""

    asked: int = 0
    paid: int = 0
    of: int = 0


def charged(state: Charged, event: RecordedEvent[Any]) -> Charged:
    if isinstance(event.data, Asked):
        return Charged(state.asked + 1, state.paid, event.data.of)
    return Charged(state.asked, state.paid + 1, state.of)


def charge(state: Charged, event: RecordedEvent[Any]) -> Sequence[Output]:
    if isinstance(event.data, Asked):
        id = f"{of_request(event)}-{state.asked}"
        return [Send(ACCOUNT, id, Deposit(1), step=f"charge {state.asked}")]
    return [Done()] if state.paid == state.of else []


NOTES = ProcessManager(
    "notes",
    key=of_request,
    query=select(types=[Asked]),
    initial_state=0,
    evolve=count_down,
    react=note,
    reactions_max=1_000_000,
)
CHARGES = ProcessManager(
    "charges",
    key=of_request,
    query=select(types=[Asked]),
    initial_state=Charged(),
    evolve=charged,
    react=charge,
    commands=[Deposit],
    reactions_max=1_000_000,
)


class Answered(Struct, frozen=True):
    pass


def no_state(_state: None, _event: RecordedEvent[Any]) -> None:
    pass


def remind(_state: None, event: RecordedEvent[Any]) -> Sequence[Output]:
    return [Timer("late", after=LATER)] if isinstance(event.data, Asked) else [Done()]


REMINDERS = ProcessManager(
    "reminder",
    key=of_request,
    query=select(types=[Asked, Answered]),
    initial_state=None,
    evolve=no_state,
    react=remind,
)


class Reach(Struct, frozen=True):
    pass


def reach(_request: Reach, _idempotency_key: str) -> None:
    """The outside world, which takes its time."""
    time.sleep(CALL_S)


def call(_state: None, event: RecordedEvent[Any]) -> Sequence[Output]:
    return [Call("reach", Reach())] if isinstance(event.data, Asked) else [Done()]


CALLS = ProcessManager(
    "calling",
    key=of_request,
    query=select(types=[Asked]),
    initial_state=None,
    evolve=no_state,
    react=call,
    commands=[Reach],
    calls={"reach": reach},
)
CODEC = Codec(Deposited, Withdrawn, TransferRequested, Asked, Noted, Answered)
