"""All orders of Olist go through a process, and end as they really did."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
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
    """What was taken for an order is what the data says, to the piece and to the cent; what was
    taken for orders that failed was given back.
    """
    taken, back = moves_of(es)
    for name, line in shop.lines.items():
        status = line["order_status"]
        is_back = status in ("canceled", "unavailable")
        goods = Counter(each["product_id"] for each in shop.items.get(name, ()))
        cents = sum(cents_of(each) for each in shop.payments.get(name, ()))
        is_charged = status != "created" and flow.failing_step(line) is not flow.Charge
        # No more than it may be: a counter compares what is missing with 0.
        assert taken[name] == goods + Counter({"cents": cents * is_charged}), name
        assert back[name] == (taken[name] if is_back else Counter()), name
    check_totals(shop, taken, back)


def moves_of(es: leftfold.EventStore) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """Pieces by product and cents that each order took, and that it gave back."""
    taken: dict[str, Counter[str]] = defaultdict(Counter)
    back: dict[str, Counter[str]] = defaultdict(Counter)
    for event in es.read(select(category="inventory") | select(category="payment")):
        match event.data:
            case flow.Reserved(order=order):
                taken[order][flow.order_of(event)] += 1
            case flow.Released(order=order):
                back[order][flow.order_of(event)] += 1
            case flow.Charged(cents=cents):
                taken[flow.order_of(event)]["cents"] += cents
            case flow.Refunded(cents=cents):
                back[flow.order_of(event)]["cents"] += cents
    return taken, back


def check_totals(shop: Shop, taken: dict[str, Counter[str]], back: dict[str, Counter[str]]) -> None:
    failed = [n for n, line in shop.lines.items() if flow.failing_step(line) is not None]
    left: Counter[str] = Counter()
    for name in failed:
        left.update(taken[name])
        left.subtract(back[name])
    assert not any(left.values())
    delivered = {n for n, line in shop.lines.items() if line["order_status"] == "delivered"}
    charged = sum(taken[name]["cents"] - back[name]["cents"] for name in delivered)
    assert charged == sum(cents_of(each) for name in delivered for each in shop.payments[name])


def cents_of(payment: dict[str, str]) -> int:
    """Of a line of the data, read here and not as the process read it."""
    whole, _, cents = payment["payment_value"].partition(".")
    return int(whole) * 100 + int(cents.ljust(2, "0"))
