"""A small bank: python examples/bank.py [--transfers N] [FILE]. The same FILE again: it goes on."""

import argparse
import random
import sqlite3
from collections import Counter
from contextlib import closing
from decimal import Decimal
from functools import reduce
from tempfile import gettempdir
from typing import Annotated, Any
from urllib.parse import quote

from msgspec import Struct

import leftfold
from leftfold import AppendConditionFailed, Event, Metadata, StreamVersion, Tag, Version, select

ACCOUNTS = [f"account-{number:02}" for number in range(1, 21)]
ATTEMPTS_MAX = 5


# Events are facts, named in the past tense. A marked field becomes a tag, such as `owner:ada`.
class AccountOpened(Struct, frozen=True):
    owner: Annotated[str, Tag()]


class MoneyDeposited(Struct, frozen=True):
    amount: Decimal


class MoneyWithdrawn(Struct, frozen=True):
    amount: Decimal


class Account(Struct, frozen=True):
    """What the events of one account come to. It is folded from them and stored nowhere."""

    balance: Decimal = Decimal(0)
    version: int = 0


def evolve(account: Account, event: leftfold.RecordedEvent[Any]) -> Account:
    match event.data:
        case MoneyDeposited(amount):
            return Account(account.balance + amount, event.version)
        case MoneyWithdrawn(amount):
            return Account(account.balance - amount, event.version)
    return Account(account.balance, event.version)


class Bank:
    """Accounts as far as this object has seen them. It may be behind: conditions make that safe."""

    def __init__(self, store: leftfold.EventStore) -> None:
        self.store = store
        self.known = {name: self.account(name) for name in ACCOUNTS}

    def account(self, name: str, until: Version | None = None) -> Account:
        return reduce(evolve, self.store.read(select(name), until=until), Account())

    def catch_up(self, *names: str) -> None:
        for name in names:
            news = self.store.read(select(name), after=Version(self.known[name].version))
            self.known[name] = reduce(evolve, news, self.known[name])

    def transfer(self, source: str, target: str, *, amount: Decimal, cause: str) -> bool:
        """Record both events or neither; False where the balance does not allow it."""
        metadata = Metadata(causation_id=cause, actor="bank.py")
        withdrawn = Event(source, MoneyWithdrawn(amount), metadata=metadata)
        deposited = Event(target, MoneyDeposited(amount), metadata=metadata)
        for _ in range(ATTEMPTS_MAX):
            if self.known[source].balance < amount:
                return False
            expected = [StreamVersion(name, self.known[name].version) for name in (source, target)]
            try:
                self.store.append([withdrawn, deposited], conditions=expected)
                return True
            except AppendConditionFailed as conflict:
                print(f"  conflict, reading what is new: {conflict}")
            finally:
                self.catch_up(source, target)
        raise RuntimeError(f"{cause}: {ATTEMPTS_MAX} conflicts in a row")


def make_transfers(bank: Bank, count: int) -> None:
    for name in ACCOUNTS:
        if not bank.known[name].version:
            opening = [AccountOpened(f"owner-{name[-2:]}"), MoneyDeposited(Decimal("500.00"))]
            bank.store.append_to_stream(name, opening, expected_version=0)
    bank.catch_up(*ACCOUNTS)
    rng = random.Random(42)
    for number in range(1, count + 1):
        source, target = rng.sample(ACCOUNTS, 2)
        amount = Decimal(rng.randint(1, 20_000)).scaleb(-2)
        bank.transfer(source, target, amount=amount, cause=f"transfer-{number}")
        if number % 100 == 0 or number == count:
            print(f"\r{number} of {count} transfers", end="\n" * (number == count), flush=True)


def show_history(bank: Bank, name: str) -> None:
    known = bank.known[name]
    print(f"\nWhy is the balance of {name} {known.balance}? Its last events:")
    for event in reversed(list(bank.store.read(select(name), limit=5, backwards=True))):
        balance = bank.account(name, Version(event.version)).balance
        what = f"{event.type:15} {getattr(event.data, 'amount', ''):>7} -> {balance:>8}"
        when = f"version {event.version:4} at {event.recorded_at:%H:%M:%S.%f}"
        print(f"  {when}  {what}  caused by {event.metadata.causation_id}")
    earlier = Version(known.version // 2)
    print(f"At version {earlier.number} it was {bank.account(name, earlier).balance}.")


def show_safety(bank: Bank) -> None:
    print("\nAnother teller pays in, unseen by the first, who then transfers:")
    bank.store.append_to_stream("account-01", [MoneyDeposited(Decimal("50.00"))])
    bank.transfer("account-01", "account-02", amount=Decimal("25.00"), cause="by hand")
    event = Event("account-01", MoneyDeposited(Decimal("10.00")))
    positions = [bank.store.append([event]).position for _ in range(3)]
    print(f"One deposit sent three times, as after lost replies, is recorded once: {positions}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", nargs="?", default=f"{gettempdir()}/bank-{leftfold.new_id()}.db")
    parser.add_argument("--transfers", type=int, default=5000)
    options = parser.parse_args()
    codec = leftfold.Codec(AccountOpened, MoneyDeposited, MoneyWithdrawn)
    with leftfold.open(f"sqlite:///{quote(options.file)}", codec) as store:
        bank = Bank(store)
        make_transfers(bank, options.transfers)
        for row in range(0, len(ACCOUNTS), 5):
            print("   ".join(f"{n}: {bank.known[n].balance:>8}" for n in ACCOUNTS[row : row + 5]))
        print(f"Transfers make no money: {sum(a.balance for a in bank.known.values())} in all")
        show_history(bank, "account-01")
        show_safety(bank)
        counts: Counter[str] = Counter()
        for event in store.subscribe():
            counts[event.type] += 1
            if event.position == store.head():
                break  # without this it would wait for the next event, of any process
        print(f"\nA subscription has counted {dict(counts)}.")
    print("\nAny SQLite shell can read the file, through the view `log`:")
    sql = "SELECT position, stream, version, type, data FROM log ORDER BY position DESC LIMIT 3"
    with closing(sqlite3.connect(options.file)) as connection:
        print(*connection.execute(sql), sep="\n")
    print(f"\nNext: docs/tutorial.md, the code in examples/bank.py, and the file {options.file}")


if __name__ == "__main__":
    main()
