"""The domain of these tests: an account that must not be overdrawn."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from msgspec import Struct

from leftfold import App, Codec, Decider, Tag


class AccountOpened(Struct, frozen=True):
    owner: Annotated[str, Tag()]


class MoneyDeposited(Struct, frozen=True):
    amount: Decimal


class MoneyWithdrawn(Struct, frozen=True):
    amount: Decimal


Event = AccountOpened | MoneyDeposited | MoneyWithdrawn


class Open(Struct, frozen=True):
    owner: str


class Deposit(Struct, frozen=True):
    amount: Decimal


class Withdraw(Struct, frozen=True):
    amount: Decimal


class Nothing(Struct, frozen=True):
    pass


class Account(Struct, frozen=True):
    owner: str = ""
    balance: Decimal = Decimal(0)


class Overdrawn(Exception):
    """The balance does not allow it."""


def decide(command: Open | Deposit | Withdraw | Nothing, state: Account) -> list[Event]:
    match command:
        case Open(owner):
            return [] if state.owner else [AccountOpened(owner)]
        case Deposit(amount):
            return [MoneyDeposited(amount)]
        case Withdraw(amount):
            if amount > state.balance:
                raise Overdrawn(f"{amount} of {state.balance}")
            return [MoneyWithdrawn(amount)]
        case Nothing():
            return []
    return None  # type: ignore[return-value] # what a forgotten case comes to


def evolve(state: Account, event: Event) -> Account:
    match event:
        case AccountOpened(owner):
            return Account(owner, state.balance)
        case MoneyDeposited(amount):
            return Account(state.owner, state.balance + amount)
        case MoneyWithdrawn(amount):
            return Account(state.owner, state.balance - amount)


ACCOUNT = Decider("account", initial_state=Account(), decide=decide, evolve=evolve)
CODEC = Codec(AccountOpened, MoneyDeposited, MoneyWithdrawn)
BANK = App(codec=CODEC, deciders=[ACCOUNT])


def money(amount: int | str) -> Decimal:
    return Decimal(amount)


def deposit(amount: int) -> Deposit:
    return Deposit(Decimal(amount))


def withdraw(amount: int) -> Withdraw:
    return Withdraw(Decimal(amount))
