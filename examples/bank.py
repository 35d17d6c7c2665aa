"""A small bank: python examples/bank.py [--commands N] [FILE], or leftfold demo. The same FILE
again: it goes on.

Read from top to bottom: events, state, commands, the decider, the app. That is all a program needs.
What follows is a tour of what can be asked afterwards, and `main` at the end takes it.
"""

import argparse
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from time import perf_counter
from typing import Annotated
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import App, Codec, Decider, Event, EventStore, Metadata, Snapshots, Tag, select

# ------------------------------------------------------------------------------------------------
# Events: facts, named in the past tense. A marked field becomes a tag, such as `owner:ada`.


class AccountOpened(Struct, frozen=True):
    owner: Annotated[str, Tag()]


class MoneyDeposited(Struct, frozen=True):
    amount: Decimal


class MoneyWithdrawn(Struct, frozen=True):
    amount: Decimal


AccountEvent = AccountOpened | MoneyDeposited | MoneyWithdrawn


# ------------------------------------------------------------------------------------------------
# State: what the events of one account come to. `evolve` says how, one event at a time.


class Account(Struct, frozen=True):
    owner: str | None = None
    balance: Decimal = Decimal(0)


def evolve(account: Account, event: AccountEvent) -> Account:
    match event:
        case AccountOpened(owner):
            return replace(account, owner=owner)
        case MoneyDeposited(amount):
            return replace(account, balance=account.balance + amount)
        case MoneyWithdrawn(amount):
            return replace(account, balance=account.balance - amount)


# ------------------------------------------------------------------------------------------------
# Commands: what somebody wants. `decide` answers with events, or rejects with an exception.


class OpenAccount(Struct, frozen=True):
    owner: str


class Deposit(Struct, frozen=True):
    amount: Decimal


class Withdraw(Struct, frozen=True):
    amount: Decimal


Command = OpenAccount | Deposit | Withdraw


class Rejected(Exception):
    """The bank says no."""


class InsufficientFunds(Rejected):
    pass


def decide(command: Command, account: Account) -> list[AccountEvent]:
    if isinstance(command, OpenAccount):
        if account.owner is not None:
            raise Rejected(f"the account is {account.owner}'s already")
        return [AccountOpened(command.owner)]
    if account.owner is None:
        raise Rejected("there is no such account")
    if command.amount <= 0:
        raise Rejected(f"an amount is above 0, found {command.amount}")
    if isinstance(command, Deposit):
        return [MoneyDeposited(command.amount)]
    if command.amount > account.balance:
        raise InsufficientFunds(f"the balance is {account.balance}, {command.amount} was asked for")
    return [MoneyWithdrawn(command.amount)]


# ------------------------------------------------------------------------------------------------
# The app: a list of what there is. The events of account 01 are the stream `account-01`.

SNAPSHOT_EVERY = 500

account = Decider(
    "account",
    initial_state=Account(),
    decide=decide,
    evolve=evolve,
    snapshots=Snapshots(every=SNAPSHOT_EVERY),
)
codec = Codec(AccountOpened, MoneyDeposited, MoneyWithdrawn)
app = App(codec=codec, deciders=[account])


# ------------------------------------------------------------------------------------------------
# The tour. First some work: 16 tellers at once, each command durably on the disk when it is done.

ACCOUNTS = [f"{number:02}" for number in range(1, 21)]
TELLERS = 16
COMMANDS = 30_000


def open_accounts(es: EventStore) -> None:
    for id in ACCOUNTS:
        if es.state(account, id).owner is None:
            es.handle(account, id, OpenAccount(f"owner-{id}"))
            es.handle(account, id, Deposit(Decimal("500.00")))


def random_orders(count: int) -> Iterator[tuple[str, Command]]:
    """Account ids and commands. Every fifth is for account 01, which belongs to a busy shop."""
    rng = random.Random(42)
    for number in range(count):
        id = "01" if number % 5 == 0 else rng.choice(ACCOUNTS)
        amount = Decimal(rng.randint(1, 20_000)).scaleb(-2)
        yield id, Deposit(amount) if rng.random() < 0.5 else Withdraw(amount)


def serve(es: EventStore, orders: Iterable[tuple[str, Command]], count: int) -> None:
    def teller(order: tuple[str, Command]) -> int:
        id, command = order
        try:
            return len(es.handle(account, id, command, metadata=Metadata(actor="teller")).events)
        except InsufficientFunds:
            return 0

    before, started = es.head(), perf_counter()
    with ThreadPoolExecutor(TELLERS) as tellers:
        recorded = sum(watched(tellers.map(teller, orders), count))
    rate = count / (perf_counter() - started)
    print(
        f"{count:,} commands by {TELLERS} tellers at once, {rate:,.0f} in a second: "
        f"{recorded:,} recorded, {count - recorded:,} rejected."
    )
    assert es.head() == before + recorded, "what was acknowledged is in the log, and nothing else"


def watched(results: Iterable[int], count: int) -> Iterator[int]:
    """The results, with a progress bar, or a few lines where there is no terminal."""
    if sys.stdout.isatty() and find_spec("rich"):
        yield from import_module("rich.progress").track(results, "Serving customers", count)
        return
    for number, result in enumerate(results, 1):
        if number % max(1, count // 5) == 0:
            print(f"{number:,} of {count:,} commands", flush=True)
        yield result


def show_balances(es: EventStore) -> None:
    title("Balances, folded from the events")
    balances = {id: es.state(account, id).balance for id in ACCOUNTS}
    for row in range(0, len(ACCOUNTS), 5):
        print("   ".join(f"{id}: {balances[id]:>9}" for id in ACCOUNTS[row : row + 5]))
    paid = Decimal(0)
    for event in es.read(select(category="account")):
        match event.data:
            case MoneyDeposited(amount):
                paid += amount
            case MoneyWithdrawn(amount):
                paid -= amount
    print(f"In all {sum(balances.values())}. Paid in less paid out, by the whole log: {paid}.")
    assert sum(balances.values()) == paid


def show_history(es: EventStore) -> None:
    loaded = es.load(account, "01")
    title(f"Why is the balance of account 01 {loaded.state.balance}?")
    print(f"It is what {loaded.version:,} events come to. The last of them:")
    for step in es.history(account, "01", after=max(0, loaded.version - 5)):
        amount = getattr(step.event.data, "amount", "")
        print(
            f"  version {step.event.version:5} at {step.event.recorded_at:%H:%M:%S.%f}  "
            f"{step.event.type:14} {amount:>8}: {step.before.balance:>9} -> {step.after.balance:>9}"
        )
    assert step.after == loaded.state


def show_time_travel(es: EventStore, midway: datetime) -> None:
    title("The past")
    version = es.load(account, "01").version // 2
    at_version = es.state(account, "01", at=version).balance
    known_then = es.state(account, "01", at=midway).balance
    print(f"At version {version:,} the balance of account 01 was {at_version}.")
    print(f"Halfway through, at {midway:%H:%M:%S.%f}, it was {known_then}.")
    # A fact from outside, so nobody decides on it: it is appended as it is.
    slip = Event("account-01", MoneyDeposited(Decimal("50.00")), occurred_at=midway)
    es.append([slip])
    true_then = es.state(account, "01", as_of=midway).balance
    print("Now a slip turns up: 50.00 were paid in at that very moment. So for that moment")
    print(f"  the bank knew (at=)           {es.state(account, '01', at=midway).balance:>10}")
    print(f"  and what was true is (as_of=) {true_then:>10}")
    assert true_then == known_then + 50


def show_rejection(es: EventStore) -> None:
    title("An overdraft")
    head, balance = es.head(), es.state(account, "02").balance
    try:
        es.handle(account, "02", Withdraw(balance + 1))
    except InsufficientFunds as rejection:
        print(f"Rejected: {rejection}. Nothing was recorded.")
    assert es.head() == head


def show_repeat(es: EventStore) -> None:
    title("A command delivered three times")
    payment = Metadata(command_id=f"payment-{leftfold.new_id()}")
    replies = [
        es.handle(account, "02", Deposit(Decimal("10.00")), metadata=payment) for _ in range(3)
    ]
    print(f"Its id is known, so it is recorded once, at position {[r.position for r in replies]}")
    assert len({reply.position for reply in replies}) == 1


def show_conflict(es: EventStore, url: str) -> None:
    title("Two tellers, one account")
    seen = []

    def decide_slowly(command: Command, state: Account) -> list[AccountEvent]:
        seen.append(state.balance)
        if len(seen) == 1:  # While this teller thinks, another one pays in.
            with leftfold.open(url, app) as other:
                other.handle(account, "03", Deposit(Decimal("30.00")))
        return decide(command, state)

    slow = replace(account, decide=decide_slowly)
    reply = es.handle(slow, "03", Deposit(Decimal("1.00")))
    print(f"Decided on a balance of {seen[0]}, but somebody else had paid in 30.00: a conflict.")
    print(f"Decided again on {seen[1]}. Now the balance is {reply.state.balance}, nothing is lost.")
    assert reply.state.balance == seen[0] + 31


def show_snapshots(url: str) -> None:
    title("Snapshots")
    without = replace(account, snapshots=None)
    with leftfold.open(url, app) as es:  # nothing is cached in here
        events = es.load(account, "01").version
        fold_ms = milliseconds(lambda: es.load(without, "01"))
        load_ms = milliseconds(lambda: es.load(account, "01"))
        assert es.load(without, "01") == es.load(account, "01")
    print(f"Account 01 with its {events:,} events loads in {fold_ms:.2f} ms from the first event,")
    if events >= SNAPSHOT_EVERY:
        print(f"in {load_ms:.2f} ms from its snapshot.")
    else:
        print(f"and has no snapshot yet: there is one for every {SNAPSHOT_EVERY} events.")


def milliseconds(load: Callable[[], object]) -> float:
    def once() -> float:
        started = perf_counter()
        load()
        return (perf_counter() - started) * 1000

    return median(once() for _ in range(9))


def show_command_line(url: str) -> None:
    title("The whole log, checked")
    if find_spec("typer") is None or find_spec("rich") is None:
        print("The command line is not installed: pip install '.[cli]'")
        return
    print("$ leftfold check", flush=True)
    options = ["--store", url, "--app", "leftfold.demo:app"]
    subprocess.run([sys.executable, "-m", "leftfold", *options, "check"], check=True)  # noqa: S603
    title("Try next")
    print(f"  export LEFTFOLD_STORE={url} LEFTFOLD_APP=leftfold.demo:app")
    beside = Path(sys.executable).with_name("leftfold")
    shown = os.path.relpath(beside) if beside.exists() else "python -m leftfold"
    for what in ("state account-01", "history account-01 --last 5", "stat", "tail -f"):
        print(f"  {shown} {what}")


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def tour(path: Path | None, commands: int) -> None:
    file = Path(path or f"{mkdtemp(prefix='leftfold-')}/bank.db").absolute()
    url = f"sqlite:///{quote(str(file))}"
    with leftfold.open(url, app, cached_states_max=100) as es:
        print(f"The bank is {file}, with {es.head():,} events so far.")
        print("Each command is on the disk before its teller goes on.")
        open_accounts(es)
        orders = list(random_orders(commands))
        half = len(orders) // 2
        serve(es, orders[:half], half)
        midway = datetime.now(UTC)
        serve(es, orders[half:], len(orders) - half)
        show_balances(es)
        show_history(es)
        show_time_travel(es, midway)
        show_rejection(es)
        show_repeat(es)
        show_conflict(es, url)
    show_snapshots(url)
    show_command_line(url)
    print("\nThe tutorial is docs/tutorial.md, the code of this tour examples/bank.py.")


def main() -> None:
    parser = argparse.ArgumentParser(description="A tour of an event-sourced bank.")
    parser.add_argument("file", nargs="?", type=Path, help="an SQLite file, made where needed")
    parser.add_argument("--commands", type=int, default=COMMANDS)
    options = parser.parse_args()
    try:
        tour(options.file, options.commands)
    except KeyboardInterrupt:
        sys.exit("\nStopped. All that was acknowledged is in the file: give it again to go on.")


if __name__ == "__main__":
    main()
