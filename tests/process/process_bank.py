"""A bank whose transfers are a process: take, give; and what happens when either cannot be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from leftfold import App, Codec, Decider, RecordedEvent, select
from leftfold.process import Done, ProcessManager, Send, StepDone, StepRejected


class Opened(Struct, frozen=True):
    pass


class Deposited(Struct, frozen=True):
    amount: int


class Withdrawn(Struct, frozen=True):
    amount: int


class TransferRequested(Struct, frozen=True):
    source: str
    target: str
    amount: int


class Open(Struct, frozen=True):
    pass


class Deposit(Struct, frozen=True):
    amount: int


class Withdraw(Struct, frozen=True):
    amount: int


class Refuses(Exception):
    """The bank says no."""


class Account(Struct, frozen=True):
    is_open: bool = False
    balance: int = 0


def evolve_account(account: Account, event: Any) -> Account:
    match event:
        case Opened():
            return replace(account, is_open=True)
        case Deposited(amount=amount):
            return replace(account, balance=account.balance + amount)
        case Withdrawn(amount=amount):
            return replace(account, balance=account.balance - amount)
    return account


def decide_account(command: Any, account: Account) -> list[Any]:
    match command:
        case Open():
            return [] if account.is_open else [Opened()]
        case Deposit(amount=amount) if account.is_open:
            return [Deposited(amount)]
        case Withdraw(amount=amount) if account.is_open:
            if amount > account.balance:
                raise Refuses(f"the balance is {account.balance}")
            return [Withdrawn(amount)]
    raise Refuses("there is no such account")


accounts = Decider("account", initial_state=Account(), decide=decide_account, evolve=evolve_account)


class Transfer(Struct, frozen=True):
    target: str = ""
    amount: int = 0


def evolve(transfer: Transfer, event: RecordedEvent[Any]) -> Transfer:
    match event.data:
        case TransferRequested(target=target, amount=amount):
            return Transfer(target, amount)
    return transfer


def react(transfer: Transfer, event: RecordedEvent[Any]) -> list[Any]:
    match event.data:
        case TransferRequested(source=source, amount=amount):
            back = Deposit(amount)
            return [Send("account", source, Withdraw(amount), step="take", compensate=back)]
        case StepDone("take"):
            return [Send("account", transfer.target, Deposit(transfer.amount), step="give")]
        case StepDone("give"):
            return [Done()]
        case StepRejected():
            return []
    return []


def by_transfer(event: RecordedEvent[Any]) -> str:
    return event.stream.removeprefix("request-")


COMMANDS = [Open, Deposit, Withdraw]
transfers = ProcessManager(
    "transfer",
    key=by_transfer,
    query=select(types=[TransferRequested]),
    initial_state=Transfer(),
    evolve=evolve,
    react=react,
    commands=COMMANDS,
    steps=["take", "give"],
)
codec = Codec(Opened, Deposited, Withdrawn, TransferRequested)


def app_of(*processes: ProcessManager[Any]) -> App:
    return App(codec=codec, deciders=[accounts], processes=processes or (transfers,))


HOUR = timedelta(hours=1)
app = app_of()
