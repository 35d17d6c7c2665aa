"""Read models of a small bank: python examples/projections.py

A log answers "what happened to this account?". "Who owns which accounts?" and "how much was paid in
on that day?" want tables. Each table here is a projection: a fold of events into rows, which a
runner keeps up to date, and which can be thrown away and folded again.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import REMOVED, App, Codec, Consumer, Event, EventStore, Projection, RecordedEvent
from leftfold.cloudevents import publishing

# ------------------------------------------------------------------------------------------------
# Events


class AccountOpened(Struct, frozen=True):
    owner: str


class MoneyDeposited(Struct, frozen=True):
    amount: Decimal


class MoneyWithdrawn(Struct, frozen=True):
    amount: Decimal


class AccountGivenAway(Struct, frozen=True):
    giver: str
    taker: str


BankEvent = AccountOpened | MoneyDeposited | MoneyWithdrawn | AccountGivenAway
Money = MoneyDeposited | MoneyWithdrawn


# ------------------------------------------------------------------------------------------------
# Rows. Fields without a default are the key; the others are what a row begins with.


class Balance(Struct, frozen=True):
    account: str
    owner: str = ""
    balance: Decimal = Decimal(0)


class Activity(Struct, frozen=True):
    account: str
    number: int
    at: datetime | None = None
    what: str = ""


class Owner(Struct, frozen=True):
    owner: str
    accounts: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------
# The app: a list of projections. `key` says which row an event is for, `evolve` what becomes of it.


def opened(row: Balance, event: RecordedEvent[AccountOpened]) -> Balance:
    return replace(row, owner=event.data.owner)


def paid_in(row: Balance, event: RecordedEvent[MoneyDeposited]) -> Balance:
    return replace(row, balance=row.balance + event.data.amount)


def paid_out(row: Balance, event: RecordedEvent[MoneyWithdrawn]) -> Balance:
    return replace(row, balance=row.balance - event.data.amount)


def given_away(row: Balance, event: RecordedEvent[AccountGivenAway]) -> Balance:
    return replace(row, owner=event.data.taker)


balances = Projection(
    "balances",
    row=Balance,
    evolve={
        AccountOpened: opened,
        MoneyDeposited: paid_in,
        MoneyWithdrawn: paid_out,
        AccountGivenAway: given_away,
    },
    indexes=["owner"],
)


def said(row: Activity, event: RecordedEvent[BankEvent]) -> Activity:
    match event.data:
        case AccountOpened(owner):
            what = f"opened by {owner}"
        case MoneyDeposited(amount):
            what = f"+{amount}"
        case MoneyWithdrawn(amount):
            what = f"-{amount}"
        case AccountGivenAway(giver, taker):
            what = f"given by {giver} to {taker}"
    return replace(row, at=event.occurred_at, what=what)


# A row for each event: the key has two fields.
timeline = Projection(
    "timeline",
    row=Activity,
    key=lambda event: (event.stream, event.version),
    evolve=said,
)


def owners_of(event: RecordedEvent[AccountOpened | AccountGivenAway]) -> list[str]:
    match event.data:
        case AccountOpened(owner):
            return [owner]
        case AccountGivenAway(giver, taker):
            return [giver, taker]


def gained_or_lost(row: Owner, event: RecordedEvent[AccountOpened | AccountGivenAway]) -> object:
    rest = tuple(each for each in row.accounts if each != event.stream)
    if isinstance(event.data, AccountGivenAway) and row.owner == event.data.giver:
        return replace(row, accounts=rest) if rest else REMOVED
    return replace(row, accounts=(*rest, event.stream))


# An event for two rows: the one who gives, and the one who takes. Folded whenever it is read.
directory = Projection(
    "directory",
    row=Owner,
    key=owners_of,
    evolve={AccountOpened: gained_or_lost, AccountGivenAway: gained_or_lost},
    mode="live",
)


# Tables of one's own, for what is no row for each key: they and the checkpoint are one transaction.
def create_turnover(sql: leftfold.Sql) -> None:
    sql.execute(f"CREATE TABLE {sql.table} (day TEXT PRIMARY KEY, cents BIGINT NOT NULL)")


def add_turnover(sql: leftfold.Sql, events: Sequence[RecordedEvent[Money]]) -> None:
    cents: Counter[str] = Counter()
    for event in events:
        cents[f"{event.occurred_at:%Y-%m-%d}"] += int(event.data.amount * 100)
    sql.execute_many(
        f"INSERT INTO {sql.table} VALUES (?, ?) "
        f"ON CONFLICT (day) DO UPDATE SET cents = {sql.table}.cents + excluded.cents",
        [*cents.items()],
    )


turnover = leftfold.SqlProjection(
    "turnover",
    create=create_turnover,
    apply=add_turnover,
    query=leftfold.select(types=[MoneyDeposited, MoneyWithdrawn]),
)

letters: list[str] = []  # Stands for a broker.


def send(document: bytes, _content_type: str) -> None:
    letters.append(json.loads(document)["type"])


publisher = Consumer(
    "publisher",
    handle=publishing(send, source="urn:example:bank", type_prefix="com.example.bank."),
    query=leftfold.select(types=[AccountOpened, AccountGivenAway]),
)
app = App(
    codec=Codec(AccountOpened, MoneyDeposited, MoneyWithdrawn, AccountGivenAway),
    projections=[balances, timeline, directory, turnover],
    consumers=[publisher],
)

MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)


def work(es: EventStore) -> None:
    """A week in which bob is paid each day, and pays his rent."""
    es.append_to_stream("account-1", [AccountOpened("ada")])
    es.append_to_stream("account-2", [AccountOpened("ada")])
    es.append_to_stream("account-3", [AccountOpened("bob")])
    for day in range(5):
        at = MONDAY + timedelta(days=day)
        salary = Event("account-3", MoneyDeposited(Decimal("100.00")), occurred_at=at)
        rent = Event("account-3", MoneyWithdrawn(Decimal("7.50")), occurred_at=at)
        es.append([salary, rent])


def main() -> None:
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{quote(str(Path(folder) / 'bank.db'))}"
        with leftfold.open(url, app) as es, es.running():
            work(es)
            ask(es)


def ask(es: EventStore) -> None:
    # The reply of an append carries a token. With it, a view shows that append, or says that not.
    given = es.append_to_stream("account-2", [AccountGivenAway("ada", "bob")])
    bob = es.view(balances).find({"owner": "bob"}, after=given.token)
    print(f"bob owns {', '.join(f'{row.account} ({row.balance})' for row in bob)}")
    assert [row.account for row in bob] == ["account-2", "account-3"]

    owners = {row.owner: list(row.accounts) for row in es.view(directory).find()}
    print(f"the directory: {owners}")
    before = {row.owner: list(row.accounts) for row in es.view(directory, at=3).find()}
    print(f"as of position 3: {before}")
    assert before["bob"] == ["account-3"] != owners["bob"]

    # The tables are ordinary ones. To show the latest first, ask in SQL.
    activity = es.view(timeline)
    activity.wait(given.token)
    latest = (
        "SELECT at, what FROM timeline WHERE account = 'account-3' ORDER BY number DESC LIMIT 2"
    )
    print("the latest of account-3:", [row["what"] for row in activity.sql(latest)])
    es.view(turnover).wait(given.token)
    days = es.view(turnover).sql("SELECT day, cents FROM turnover ORDER BY day")
    print("turnover:", {row["day"]: row["cents"] for row in days})
    assert sum(row["cents"] for row in days) == 5 * 10_750

    deadline = time.monotonic() + 10
    while len(letters) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    print(f"published: {', '.join(letters)}")


if __name__ == "__main__":
    main()
