"""A real shop as an application: 8,135 orders with their lifecycle as events, as they are, dirt
included; the order view, and a read model of what is wrong with them.

The times of the source are `occurred_at`. Those of its facts that have no time are taken to have
occurred last of all that is known of their order.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct, structs

from leftfold import App, Codec, Event, Projection, RecordedEvent

FOLDER = Path(__file__).parents[3] / "shared/data/olist"

Recorded = RecordedEvent[Any]
Line = dict[str, str]
Status = Literal[
    "created",
    "approved",
    "processing",
    "invoiced",
    "unavailable",
    "shipped",
    "delivered",
    "canceled",
]
STAGES = get_args(Status)
"""In the order in which an order goes through them: news of an earlier one may come later."""


class OrderPurchased(Struct, frozen=True):
    customer: str


class ItemOrdered(Struct, frozen=True):
    product: str
    price: Decimal
    freight: Decimal


class OrderPaid(Struct, frozen=True):
    method: str
    amount: Decimal


class OrderApproved(Struct, frozen=True):
    pass


class OrderProcessed(Struct, frozen=True):
    pass


class OrderInvoiced(Struct, frozen=True):
    pass


class OrderFoundUnavailable(Struct, frozen=True):
    pass


class OrderShipped(Struct, frozen=True):
    """Handed over to the carrier."""


class OrderDelivered(Struct, frozen=True):
    is_dated: bool = True


class OrderCanceled(Struct, frozen=True):
    pass


class Order(Struct, frozen=True):
    """The order view."""

    order: str
    customer: str = ""
    status: Status = "created"
    purchased_at: datetime | None = None
    delivered_at: datetime | None = None
    items: int = 0
    to_pay: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)


class Checked(Struct, frozen=True):
    """An order, and what is wrong with it."""

    order: str
    approved_at: datetime | None = None
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None
    is_delivered: bool = False
    is_canceled: bool = False
    owed_cents: int = 0
    items: int = 0
    shipped_before_approved: bool = False
    delivered_before_shipped: bool = False
    delivered_without_date: bool = False
    canceled_yet_delivered: bool = False
    paid_another_sum: bool = False


ANOMALIES = [
    "shipped_before_approved",
    "delivered_before_shipped",
    "delivered_without_date",
    "canceled_yet_delivered",
    "paid_another_sum",
]

_STATUS_OF: dict[type, Status] = {
    OrderApproved: "approved",
    OrderProcessed: "processing",
    OrderInvoiced: "invoiced",
    OrderFoundUnavailable: "unavailable",
    OrderShipped: "shipped",
    OrderDelivered: "delivered",
    OrderCanceled: "canceled",
}


def order_of(event: Recorded) -> str:
    return event.stream.removeprefix("order-")


def evolve_order(row: Order, event: Recorded) -> Order:
    match event.data:
        case OrderPurchased(customer=customer):
            return structs.replace(row, customer=customer, purchased_at=event.occurred_at)
        case ItemOrdered(price=price, freight=freight):
            return structs.replace(row, items=row.items + 1, to_pay=row.to_pay + price + freight)
        case OrderPaid(amount=amount):
            return structs.replace(row, paid=row.paid + amount)
        case OrderDelivered(is_dated=True):
            row = structs.replace(row, delivered_at=event.occurred_at)
    status = max(row.status, _STATUS_OF[type(event.data)], key=STAGES.index)
    return structs.replace(row, status=status)


def evolve_checked(row: Checked, event: Recorded) -> Checked:
    """Notes what happened, in whatever order that is told, and checks it."""
    match event.data:
        case ItemOrdered(price=price, freight=freight):
            owed = row.owed_cents + int((price + freight) * 100)
            row = structs.replace(row, items=row.items + 1, owed_cents=owed)
        case OrderPaid(amount=amount):
            row = structs.replace(row, owed_cents=row.owed_cents - int(amount * 100))
        case OrderApproved():
            row = structs.replace(row, approved_at=event.occurred_at)
        case OrderShipped():
            row = structs.replace(row, shipped_at=event.occurred_at)
        case OrderDelivered(is_dated=True):
            row = structs.replace(row, delivered_at=event.occurred_at, is_delivered=True)
        case OrderDelivered():
            row = structs.replace(row, is_delivered=True)
        case OrderCanceled():
            row = structs.replace(row, is_canceled=True)
    return structs.replace(
        row,
        shipped_before_approved=_is_before(row.shipped_at, row.approved_at),
        delivered_before_shipped=_is_before(row.delivered_at, row.shipped_at),
        delivered_without_date=row.is_delivered and row.delivered_at is None,
        canceled_yet_delivered=row.is_canceled and row.is_delivered,
        paid_another_sum=row.items > 0 and row.owed_cents != 0,
    )


def _is_before(first: datetime | None, second: datetime | None) -> bool:
    return first is not None and second is not None and first < second


CODEC = Codec(OrderPurchased, ItemOrdered, OrderPaid, *_STATUS_OF)
ORDERS = Projection(
    "orders", row=Order, key=order_of, evolve=evolve_order, indexes=["status", "customer"]
)
CHECKED = Projection(
    "anomalies", row=Checked, key=order_of, evolve=evolve_checked, indexes=ANOMALIES
)
APP = App(codec=CODEC, projections=[ORDERS, CHECKED])


class Shop:
    """All of it, from the files."""

    def __init__(self) -> None:
        self.lines = {line["order_id"]: line for line in _table("orders")}
        self.items = _by_order("order_items")
        self.payments = _by_order("order_payments")

    def events(self) -> list[Event[Any]]:
        """Order by order, as the source tells it: shipped after approved, even if before."""
        return [event for name in self.lines for event in self._lifecycle(name)]

    def _lifecycle(self, name: str) -> Iterator[Event[Any]]:
        last = _moment(self.lines[name]["order_purchase_timestamp"])
        for data, text in self._facts(name):
            moment = _moment(text) if text else last
            last = max(last, moment)
            yield Event(f"order-{name}", data, occurred_at=moment)

    def _bought(self, name: str) -> list[Any]:
        items = [
            ItemOrdered(each["product_id"], Decimal(each["price"]), Decimal(each["freight_value"]))
            for each in self.items.get(name, ())
        ]
        payments = [
            OrderPaid(each["payment_type"], Decimal(each["payment_value"]))
            for each in self.payments.get(name, ())
        ]
        return items + payments

    def _facts(self, name: str) -> Iterator[tuple[Any, str]]:
        """What happened to an order, each with its time where there is one."""
        line = self.lines[name]
        status = line["order_status"]
        yield OrderPurchased(line["customer_id"]), line["order_purchase_timestamp"]
        for each in self._bought(name):
            yield each, ""
        if text := line["order_approved_at"]:
            yield OrderApproved(), text
        for kind in (OrderProcessed, OrderInvoiced, OrderFoundUnavailable):
            if _STATUS_OF[kind] == status:
                yield kind(), ""
        if text := line["order_delivered_carrier_date"]:
            yield OrderShipped(), text
        text = line["order_delivered_customer_date"]
        if text or status == "delivered":
            yield OrderDelivered(is_dated=bool(text)), text
        if status == "canceled":
            yield OrderCanceled(), ""


def _table(name: str) -> Iterator[Line]:
    path = FOLDER / f"olist_{name}_dataset.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _by_order(name: str) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in _table(name):
        found.setdefault(line["order_id"], []).append(line)
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
