"""The account that the tests of the kit are about. Its decider has no bug."""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct

from leftfold import Codec, Decider, Snapshots


class Opened(Struct, frozen=True):
    owner: str


class Deposited(Struct, frozen=True):
    amount: Decimal


class Withdrawn(Struct, frozen=True):
    amount: Decimal


class Deposit(Struct, frozen=True):
    amount: Decimal


class Withdraw(Struct, frozen=True):
    amount: Decimal


class Account(Struct, frozen=True):
    owner: str = ""
    balance: Decimal = Decimal(0)


class InsufficientFunds(Exception):
    def __init__(self, missing: Decimal) -> None:
        super().__init__(f"{missing} is missing")
        self.missing = missing


def decide(command: Deposit | Withdraw, account: Account) -> list[Deposited | Withdrawn]:
    if command.amount == 0:
        return []
    if isinstance(command, Deposit):
        return [Deposited(command.amount)]
    if command.amount > account.balance:
        raise InsufficientFunds(command.amount - account.balance)
    return [Withdrawn(command.amount)]


def evolve(account: Account, event: Opened | Deposited | Withdrawn) -> Account:
    match event:
        case Opened(owner):
            return Account(owner)
        case Deposited(amount):
            return Account(account.owner, account.balance + amount)
        case Withdrawn(amount):
            return Account(account.owner, account.balance - amount)
    raise TypeError(event)


def is_solvent(account: Account) -> bool:
    return account.balance >= 0


account = Decider(
    "account", initial_state=Account(), decide=decide, evolve=evolve, snapshots=Snapshots()
)
codec = Codec(Opened, Deposited, Withdrawn)
ONE, THREE, FIVE = Decimal(1), Decimal(3), Decimal(5)
