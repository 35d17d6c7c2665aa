"""A real bank as an application: 1,229 accounts with their holders and transactions as events, the
read models made of them, and what these have to be, by the data.

The data's README says that folding `signed_amount` + `rounding` in the order of `seq` gives the
balance that was printed after each transaction, and that the last one of a day is the balance as
of the end of that day. A day is when it happened, so it comes from `occurred_at`.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, structs

from leftfold import App, Codec, Event, Projection, RecordedEvent, SqlProjection, select

FOLDER = Path(__file__).parents[3] / "shared/data/berka"

Recorded = RecordedEvent[Any]
DayKey = tuple[str, date]


class AccountOpened(Struct, frozen=True):
    district: int


class HolderAdded(Struct, frozen=True):
    client: str
    role: Literal["OWNER", "DISPONENT"]


class Posted(Struct, frozen=True):
    """A transaction, with the balance that was printed after it."""

    operation: str
    amount: Decimal
    """Negative where money leaves the account."""
    rounding: Decimal
    balance: Decimal

    @property
    def change(self) -> Decimal:
        return self.amount + self.rounding


class Account(Struct, frozen=True):
    """What an account has now."""

    account: str
    balance: Decimal = Decimal(0)
    postings: int = 0


class Day(Struct, frozen=True):
    """What an account had at the end of a day on which something was posted."""

    account: str
    day: date
    opening: Decimal = Decimal(0)
    balance: Decimal = Decimal(0)
    postings: int = 0
    version: int = 0
    """That of the account after the last of them."""


class Entry(Struct, frozen=True):
    """A line in the timeline of an account."""

    account: str
    number: int
    day: date | None = None
    what: str = ""
    change: Decimal | None = None


class Owner(Struct, frozen=True):
    owner: str
    accounts: list[str] = []


class District(Struct, frozen=True):
    district: int
    accounts: list[str] = []


def account_of(event: Recorded) -> str:
    return event.stream.removeprefix("account-")


def day_of(event: Recorded) -> date:
    return event.occurred_at.date()


def account_posted(row: Account, event: Recorded) -> Account:
    return Account(row.account, row.balance + event.data.change, row.postings + 1)


def day_posted(row: Day, event: Recorded) -> Day:
    change = event.data.change
    if not row.postings:
        row = structs.replace(row, opening=event.data.balance - change)
        row = structs.replace(row, balance=row.opening)
    return structs.replace(
        row, balance=row.balance + change, postings=row.postings + 1, version=event.version
    )


def opened_entry(row: Entry, event: Recorded) -> Entry:
    return structs.replace(row, day=day_of(event), what="opened")


def holder_entry(row: Entry, event: Recorded) -> Entry:
    what = f"{event.data.role.lower()} {event.data.client}"
    return structs.replace(row, day=day_of(event), what=what)


def posted_entry(row: Entry, event: Recorded) -> Entry:
    return structs.replace(
        row, day=day_of(event), what=event.data.operation, change=event.data.change
    )


def owner_of(event: Recorded) -> str | None:
    return event.data.client if event.data.role == "OWNER" else None


def with_account(row: Any, event: Recorded) -> Any:
    return structs.replace(row, accounts=[*row.accounts, account_of(event)])


def create_turnover(sql: Any) -> None:
    sql.execute(f"CREATE TABLE {sql.table} (day TEXT PRIMARY KEY, postings INTEGER, cents BIGINT)")


def apply_turnover(sql: Any, events: Any) -> None:
    """Adds to what is there: applied twice, or not at all, it would be wrong for ever."""
    postings: Counter[str] = Counter()
    cents: Counter[str] = Counter()
    for event in events:
        day = day_of(event).isoformat()
        postings[day] += 1
        cents[day] += int(abs(event.data.amount) * 100)
    sql.execute_many(
        f"INSERT INTO {sql.table} AS t (day, postings, cents) VALUES (?, ?, ?) "
        "ON CONFLICT (day) DO UPDATE "
        "SET postings = t.postings + excluded.postings, cents = t.cents + excluded.cents",
        [(day, count, cents[day]) for day, count in postings.items()],
    )


CODEC = Codec(AccountOpened, HolderAdded, Posted)
ACCOUNTS = Projection(
    "accounts", row=Account, key=account_of, evolve={Posted: account_posted}, indexes=["postings"]
)
DAILY = Projection(
    "daily_balances",
    row=Day,
    key=lambda event: (account_of(event), day_of(event)),
    evolve={Posted: day_posted},
    indexes=["day"],
)
TIMELINE = Projection(
    "timeline",
    row=Entry,
    key=lambda event: (account_of(event), event.version),
    evolve={AccountOpened: opened_entry, HolderAdded: holder_entry, Posted: posted_entry},
)
OWNERS = Projection("owners", row=Owner, key=owner_of, evolve={HolderAdded: with_account})
DISTRICTS = Projection(
    "districts",
    row=District,
    key=lambda event: event.data.district,
    evolve={AccountOpened: with_account},
)
TURNOVER = SqlProjection(
    "turnover", create=create_turnover, apply=apply_turnover, query=select(types=[Posted])
)
KEYED = [ACCOUNTS, DAILY, TIMELINE, OWNERS, DISTRICTS]
APP = App(codec=CODEC, projections=[*KEYED, TURNOVER])


class Transaction(Struct, frozen=True):
    """A line of the file of transactions."""

    account: str
    day: date
    seq: int
    posted: Posted


class Bank:
    """All of it, from the files, or of every so manieth account."""

    def __init__(self, every: int = 1) -> None:
        # Accounts were opened from 1993 to 1997, the transactions are those up to 1994-03-31.
        opened = [line for line in _side_table("account") if line["date"] <= "940331"]
        opened = opened[::every]
        self.districts = {line["account_id"]: int(line["district_id"]) for line in opened}
        self.opened = {line["account_id"]: _moment(line["date"]) for line in opened}
        self.holders: dict[str, list[HolderAdded]] = {name: [] for name in self.opened}
        for line in _side_table("disp"):
            if line["account_id"] in self.holders:
                holder = HolderAdded(line["client_id"], line["type"])
                self.holders[line["account_id"]].append(holder)
        found = [each for each in _transactions() if each.account in self.opened]
        self.transactions = sorted(found, key=lambda each: each.day)
        openings = [event for name in self.opened for event in self._opening(name)]
        postings = [self._posting(each) for each in self.transactions]
        # An account is opened before anything else happens on that day.
        self.events = sorted(openings + postings, key=lambda event: event.occurred_at.date())

    def _opening(self, name: str) -> Iterator[Event[Any]]:
        opened = AccountOpened(self.districts[name])
        for data in (opened, *self.holders[name]):
            yield Event(f"account-{name}", data, occurred_at=self.opened[name])

    def _posting(self, each: Transaction) -> Event[Any]:
        # The seconds keep the order of a day, which the source lacks.
        moment = datetime.combine(each.day, time(tzinfo=UTC)) + timedelta(seconds=each.seq)
        return Event(f"account-{each.account}", each.posted, occurred_at=moment)

    def version(self, each: Transaction) -> int:
        """Of the account after a transaction: the events of its opening come first."""
        return 1 + len(self.holders[each.account]) + each.seq

    def timeline(self) -> Iterator[Entry]:
        """All that happened to each account, numbered."""
        numbers = dict.fromkeys(self.opened, 1)
        for name, moment in self.opened.items():
            yield Entry(name, 1, moment.date(), "opened")
            for holder in self.holders[name]:
                numbers[name] += 1
                what = f"{holder.role.lower()} {holder.client}"
                yield Entry(name, numbers[name], moment.date(), what)
        for each in self.transactions:
            number = numbers[each.account] + each.seq
            yield Entry(each.account, number, each.day, each.posted.operation, each.posted.change)

    def days(self) -> dict[DayKey, Day]:
        """The state of each account at the end of each day with transactions."""
        return {(row.account, row.day): row for row in self.states()}

    def states(self) -> Iterator[Day]:
        """Each state that the row of a day ever has, by the printed balances alone."""
        printed: dict[str, Decimal] = {}
        rows: dict[DayKey, Day] = {}
        for each in self.transactions:
            key = each.account, each.day
            row = rows.get(key) or Day(*key, opening=printed.get(each.account, Decimal(0)))
            printed[each.account] = each.posted.balance
            rows[key] = structs.replace(
                row,
                balance=each.posted.balance,
                postings=row.postings + 1,
                version=self.version(each),
            )
            yield rows[key]


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%y%m%d").replace(tzinfo=UTC)


def _side_table(name: str) -> Iterator[dict[str, str]]:
    with gzip.open(FOLDER / f"{name}.asc.gz", "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter=";")


def _transactions() -> Iterator[Transaction]:
    path = FOLDER / "trans_chained.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            money = (Decimal(line[name]) for name in ("signed_amount", "rounding", "balance"))
            what = line["operation"] or line["k_symbol"]
            posted = Posted(what, *money)
            day = date.fromisoformat(line["date"])
            yield Transaction(line["account_id"], day, int(line["seq"]), posted)
