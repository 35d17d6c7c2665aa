"""A real bank through projections: 51,820 events into six read models, each equal to what the data
says. See berka_bank.py for the events, the read models and the truth.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from berka_bank import (
    ACCOUNTS,
    APP,
    DAILY,
    DISTRICTS,
    KEYED,
    OWNERS,
    TIMELINE,
    TURNOVER,
    Account,
    Bank,
    Posted,
)

import leftfold
from leftfold import EventStore, Projection, ProjectionBehind, SqlProjection

STORES = ["memory", "sqlite", "postgresql"]
BATCH = 1_000
PAGE = 10_000
LIMIT_S = 120.0
CUT_DAY = date(1994, 3, 31)

Folded = Projection[Any] | SqlProjection


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank()


@pytest.fixture(scope="module", params=STORES)
def store(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def url(bank, store, new_url) -> str:
    return new_url(store)


@pytest.fixture(scope="module")
def es(bank, url) -> Iterator[EventStore]:
    """A log of it all, and the read models of it all. Nobody adds to it."""
    with leftfold.open(url, APP) as es:
        for start in range(0, len(bank.events), BATCH):
            es.append(bank.events[start : start + BATCH])
        fold(es)
        yield es


@pytest.fixture
def lose_views(server) -> Callable[[str], None]:
    """Deletes the whole database of the read models of a log."""

    def lose(url: str) -> None:
        if url.startswith("postgresql"):
            server.execute(f"DROP SCHEMA {url.partition('schema=')[2]}_views CASCADE")
            return
        log = Path(urlsplit(url).path[1:])
        lost = [*log.parent.glob(f"{log.name}-views*")]
        assert lost
        for each in lost:
            each.unlink()

    return lose


def fold(es: EventStore, projections: Iterable[Folded] = APP.projections) -> None:
    """Run projections until they show the whole log."""
    names = [each.name for each in projections]
    begun = time.monotonic()
    with es.running(only=names):
        for each in projections:
            es.view(each).wait(str(es.head()), timeout_s=LIMIT_S)
        took_s = time.monotonic() - begun
    print(f"{es.head() / took_s:,.0f} events/s through {len(names)} projections")


def rows_of(es: EventStore, projection: Projection[Any], at: int | None = None) -> list[Any]:
    """All rows, page by page."""
    view = es.view(projection, at=at)
    rows = page = view.find(limit=PAGE)
    while len(page) == PAGE:
        page = view.find(limit=PAGE, beyond=page[-1])
        rows = rows + page
    assert len(rows) == view.count()
    return rows


def dump(es: EventStore) -> dict[str, list[Any]]:
    found = {each.name: rows_of(es, each) for each in KEYED}
    return found | {"turnover": es.view(TURNOVER).sql("SELECT * FROM turnover ORDER BY day")}


def test_daily_balances_are_right_on_every_day_of_every_account(es, bank):
    rows = rows_of(es, DAILY)
    truth = bank.days()
    assert len(rows) == len(truth) == 39_960
    assert {(row.account, row.day): row for row in rows} == truth
    assert sum(row.postings for row in rows) == 49_102
    assert sum(row.postings for row in rows if row.day < CUT_DAY) == 46_997


def test_a_day_opens_with_what_the_one_before_it_closed_with(es, bank):
    closed: dict[str, Decimal] = {}
    for row in sorted(rows_of(es, DAILY), key=lambda row: row.day):
        assert row.opening == closed.get(row.account, 0), row
        closed[row.account] = row.balance
    # Folded from nothing, account by account.
    counts = Counter(each.account for each in bank.transactions)
    expected = [Account(name, closed[name], counts[name]) for name in sorted(closed)]
    assert sorted(rows_of(es, ACCOUNTS), key=lambda row: row.account) == expected
    assert len(expected) == 1_229


def test_one_day_of_the_bank_is_found_by_its_index(es, bank):
    day = date(1993, 12, 31)
    truth = {key: row for key, row in bank.days().items() if key[1] == day}
    found = es.view(DAILY).find({"day": day}, limit=PAGE)
    assert {(row.account, row.day): row for row in found} == truth
    assert len(found) == es.view(DAILY).count({"day": day}) > 500


def test_the_timeline_of_each_account_has_all_that_happened_to_it(es, bank):
    truth = {(row.account, row.number): row for row in bank.timeline()}
    rows = rows_of(es, TIMELINE)
    assert {(row.account, row.number): row for row in rows} == truth
    assert len(rows) == len(bank.events) == 51_820
    one = [row for row in truth.values() if row.account == "2378"]
    assert es.view(TIMELINE).find({"account": "2378"}, limit=PAGE) == one


def test_the_directories_name_the_accounts_of_each_owner_and_of_each_district(es, bank):
    owners: dict[str, list[str]] = {}
    districts: dict[int, list[str]] = {}
    for name, holders in bank.holders.items():
        districts.setdefault(bank.districts[name], []).append(name)
        for holder in holders:
            if holder.role == "OWNER":
                owners.setdefault(holder.client, []).append(name)
    assert {row.owner: row.accounts for row in rows_of(es, OWNERS)} == owners
    assert {row.district: row.accounts for row in rows_of(es, DISTRICTS)} == districts
    assert len(owners) == 1_229
    assert max(map(len, districts.values())) > 100


def test_what_is_added_up_in_sql_is_added_once(es, bank):
    postings: Counter[str] = Counter()
    cents: Counter[str] = Counter()
    for each in bank.transactions:
        postings[each.day.isoformat()] += 1
        cents[each.day.isoformat()] += int(abs(each.posted.amount) * 100)
    found = es.view(TURNOVER).sql("SELECT day, postings, cents FROM turnover ORDER BY day")
    assert found == [
        {"day": day, "postings": postings[day], "cents": cents[day]} for day in sorted(postings)
    ]
    assert sum(postings.values()) == 49_102


def test_as_of_an_earlier_position_it_is_what_it_was_then(es, bank):
    half = len(bank.events) // 2
    postings = sum(type(event.data) is Posted for event in bank.events[:half])
    truth = {(row.account, row.day): row for row in islice(bank.states(), postings)}
    rows = rows_of(es, DAILY, at=half)
    assert {(row.account, row.day): row for row in rows} == truth


def test_dropped_and_folded_again_every_row_is_the_same(es):
    before = dump(es)
    some = [DAILY, TURNOVER]
    for each in some:
        assert len(es.projections.drop(each.name)) == 1
        with pytest.raises(ProjectionBehind):
            es.view(each).wait("1", timeout_s=0)
    fold(es, some)
    assert dump(es) == before


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
def test_lost_with_its_database_and_folded_again_every_row_is_the_same(es, url, lose_views):
    # The last test, because it closes the store.
    before = dump(es)
    es.close()
    lose_views(url)
    with leftfold.open(url, APP) as again:
        with pytest.raises(ProjectionBehind):
            again.view(DAILY).count()
        fold(again)
        assert dump(again) == before
