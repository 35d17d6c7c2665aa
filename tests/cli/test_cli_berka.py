"""The real bank, imported by a mapping: one stream for each account, in the order of the file."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from msgspec import Struct

import leftfold
from leftfold import Codec, Decider, select

FILE = Path(__file__).parents[3] / "shared/data/berka/trans_chained.csv.gz"
IMPORT = (
    *("import", FILE, "--json", "--stream", "account-{account_id}", "--type", "Posted"),
    *("--id", "{trans_id}", "--occurred-at", "{date}", "--time-zone", "Europe/Prague"),
    *("--field", "amount=signed_amount", "--field", "rounding=rounding"),
    *("--field", "balance=balance", "--field", "seq:int=seq", "--tag", "operation:{operation}"),
)


class Posted(Struct, frozen=True):
    amount: Decimal
    rounding: Decimal
    balance: Decimal
    seq: int


def rows():
    with gzip.open(FILE, "rt") as file:
        return list(csv.DictReader(file))


def test_the_bank_is_imported_once_and_its_balances_chain(run, log):
    source = rows()
    first = run(*IMPORT).json
    assert (first["read"], first["appended"]) == (len(source), len(source))
    again = run(*IMPORT).json
    assert (again["appended"], again["already_there"]) == (0, len(source))
    print(f"\nfirst: {first['events_per_second']}/s, again: {again['events_per_second']}/s")

    assert log.head() == len(source)
    for row, event in zip(source, log.read(), strict=True):
        assert event.stream == f"account-{row['account_id']}"
        assert event.version == int(row["seq"])
        assert json.loads(event.data)["amount"] == row["signed_amount"]
        day = datetime.strptime(row["date"], "%Y-%m-%d").replace(tzinfo=ZoneInfo("Europe/Prague"))
        assert event.occurred_at == day.astimezone(UTC)
        assert event.tags == ((f"operation:{row['operation']}",) if row["operation"] else ())

    def evolve(balance, posted):
        balance += posted.amount + posted.rounding
        assert balance == posted.balance
        return balance

    account = Decider("account", initial_state=Decimal(0), decide=lambda c, s: [], evolve=evolve)
    # The last day is cut short in the source, and its balances do not all chain.
    chained = Counter(row["account_id"] for row in source if row["status"] != "last_day_incomplete")
    assert chained.total() == 46_997
    with leftfold.open("sqlite:///log.db", Codec(Posted)) as store:
        for id, version in chained.items():
            assert store.load(account, id, at=version).version == version
    assert sum(1 for _ in log.read(select(tags=["operation:VKLAD"]))) == sum(
        row["operation"] == "VKLAD" for row in source
    )


def test_the_bank_is_whole_in_every_form(run):
    run(*IMPORT)
    assert run("check", "--json").json["problem_count"] == 0
    run("export", "log.jsonl.gz")
    run("import", "log.jsonl.gz", "--store", "sqlite:///other.db")
    run("backup", "copy.db")
    exported = [each | {"recorded_at": ""} for each in run("export").lines]
    for url in ("sqlite:///other.db", "sqlite:///copy.db"):
        lines = run("export", "--store", url).lines
        assert [each | {"recorded_at": ""} for each in lines] == exported
