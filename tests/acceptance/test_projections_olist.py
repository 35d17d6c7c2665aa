"""A real shop through projections: the status of each order is that of the data, and what is known
to be wrong with them is reported, no more and no less. See olist_shop.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from olist_shop import ANOMALIES, APP, CHECKED, ORDERS, Shop

import leftfold
from leftfold import EventStore, Projection

STORES = ["sqlite", "postgresql"]
ORDERS_OF = {
    "as told": lambda event: 0,
    # Some orders are shipped before they are approved, then.
    "as it occurred": lambda event: event.occurred_at,
}
BATCH = 1_000
PAGE = 10_000
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop()


@pytest.fixture(scope="module", params=[(store, order) for store in STORES for order in ORDERS_OF])
def es(shop, new_url, request) -> Iterator[EventStore]:
    """All events, order by order or by time, and what was folded of them."""
    store, order = request.param
    events = sorted(shop.events(), key=ORDERS_OF[order])
    with leftfold.open(new_url(store), APP) as es:
        for start in range(0, len(events), BATCH):
            es.append(events[start : start + BATCH])
        begun = time.monotonic()
        with es.running():
            for each in APP.projections:
                es.view(each).wait(str(es.head()), timeout_s=LIMIT_S)
        print(f"{len(events) / (time.monotonic() - begun):,.0f} events/s of {len(events)}")
        yield es


def rows_of(es: EventStore, projection: Projection[Any]) -> dict[str, Any]:
    rows = es.view(projection).find(limit=PAGE)
    assert len(rows) == es.view(projection).count() < PAGE
    return {row.order: row for row in rows}


def test_the_status_of_every_order_is_that_of_the_data(es, shop):
    rows = rows_of(es, ORDERS)
    assert len(rows) == 8_135
    truth = {name: line["order_status"] for name, line in shop.lines.items()}
    assert {name: row.status for name, row in rows.items()} == truth
    counts = {
        "delivered": 5_172,
        "shipped": 1_107,
        "canceled": 625,
        "unavailable": 609,
        "invoiced": 314,
        "processing": 301,
        "created": 5,
        "approved": 2,
    }
    assert {status: es.view(ORDERS).count({"status": status}) for status in counts} == counts


def test_the_times_of_every_order_are_those_of_the_data(es, shop):
    def moment(text: str) -> datetime | None:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None

    for name, row in rows_of(es, ORDERS).items():
        line = shop.lines[name]
        assert row.customer == line["customer_id"]
        assert row.purchased_at == moment(line["order_purchase_timestamp"])
        assert row.delivered_at == moment(line["order_delivered_customer_date"])


def test_the_known_dirt_is_reported_and_nothing_else(es):
    view = es.view(CHECKED)
    counts = {each: view.count({each: True}) for each in ANOMALIES}
    print(counts)
    assert counts == {
        "shipped_before_approved": 77,
        "delivered_before_shipped": 3,
        "delivered_without_date": 8,
        "canceled_yet_delivered": 6,
        "paid_another_sum": 7_360 - 7_318,
    }
    assert view.count() == 8_135


def test_each_anomaly_is_reported_of_the_orders_that_have_it(es, shop):
    found = {each: es.view(CHECKED).find({each: True}, limit=PAGE) for each in ANOMALIES[:4]}
    names = {each: {row.order for row in rows} for each, rows in found.items()}
    early, back, undated, canceled = (names[each] for each in ANOMALIES[:4])
    for name, line in shop.lines.items():
        status = line["order_status"]
        approved = line["order_approved_at"]
        shipped = line["order_delivered_carrier_date"]
        delivered = line["order_delivered_customer_date"]
        assert (name in early) == bool(approved and shipped and shipped < approved)
        assert (name in back) == bool(shipped and delivered and delivered < shipped)
        assert (name in undated) == (status == "delivered" and not delivered)
        assert (name in canceled) == (status == "canceled" and bool(delivered))


def test_what_was_paid_for_every_order_is_what_the_payments_say(es):
    rows = rows_of(es, ORDERS)
    with_items = [row for row in rows.values() if row.items]
    equal = Counter(row.to_pay == row.paid for row in with_items)
    assert (len(with_items), equal[True]) == (7_360, 7_318)
    checked = rows_of(es, CHECKED)
    for row in with_items:
        assert checked[row.order].owed_cents == (row.to_pay - row.paid) * 100
