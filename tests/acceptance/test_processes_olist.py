"""All orders of Olist go through a process, and end as they really did."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import olist_process as flow
import pytest
from olist_shop import Shop

import leftfold
from leftfold import select

SECONDS_MAX = 900.0
ORDERS = 8_135


@pytest.mark.timeout(1_200)
def test_every_order_ends_as_it_did(tmp_path: Path) -> None:
    shop = Shop()
    assert len(shop.lines) == ORDERS
    app = flow.app_of(shop)
    [process] = app.processes
    url = f"sqlite:///{tmp_path}/log.db?durability=may_lose_latest"
    with leftfold.open(url, app) as es:
        events = flow.placed(shop)
        for begin in range(0, len(events), 500):
            es.append(events[begin : begin + 500])
        with es.running():
            wait_until_nothing_happens(es)
        assert es.processes.list(status="stuck") == []
        statuses = {name: es.state(process.decider, name) for name in shop.lines}
        check_ends(shop, statuses)
        check_sums(es, shop)


def wait_until_nothing_happens(es: leftfold.EventStore) -> None:
    deadline_s, head = time.monotonic() + SECONDS_MAX, 0
    while time.monotonic() < deadline_s:
        time.sleep(2)
        [found] = es.projections.status("order_flow")
        if es.head() == head and not found.events_behind:
            return
        head = es.head()
    raise AssertionError(f"it goes on after {SECONDS_MAX} s")


def check_ends(shop: Shop, statuses: dict[str, Any]) -> None:
    ends = Counter((shop.lines[name]["order_status"], s.status) for name, s in statuses.items())
    assert ends == {
        ("delivered", "done"): 5172,
        ("canceled", "compensated"): 625,
        ("unavailable", "compensated"): 609,
        ("shipped", "running"): 1107,
        ("invoiced", "running"): 314,
        ("processing", "running"): 301,
        ("created", "running"): 5,
        ("approved", "running"): 2,
    }


def check_sums(es: leftfold.EventStore, shop: Shop) -> None:
    """What was taken for orders that failed was given back, to the piece and to the cent."""
    goods: Counter[str] = Counter()
    money: Counter[str] = Counter()
    for event in es.read(select(category="inventory") | select(category="payment")):
        match event.data:
            case flow.Reserved(order=order):
                goods[order] += 1
            case flow.Released(order=order):
                goods[order] -= 1
            case flow.Charged(cents=cents):
                money[flow.order_of(event)] += cents
            case flow.Refunded(cents=cents):
                money[flow.order_of(event)] -= cents
    for name, line in shop.lines.items():
        is_back = line["order_status"] in ("canceled", "unavailable")
        assert goods[name] == (0 if is_back else len(shop.items.get(name, ())))
        if is_back:
            assert money[name] == 0
    delivered = [name for name, line in shop.lines.items() if line["order_status"] == "delivered"]
    assert all(name in money for name in delivered)
