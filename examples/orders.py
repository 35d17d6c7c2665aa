"""Orders of a shop, and a view of them: python examples/orders.py

The life cycle of an order is a decider. The order view, which says what is to be shipped, is
another fold over the same events: a projection. At the end the same order is written once more as a
class, for those who like methods better.
"""

from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import Aggregate, App, Codec, Decider, Projection, RecordedEvent, Tag, View, select

# ------------------------------------------------------------------------------------------------
# Events


class Line(Struct, frozen=True):
    article: str
    price: Decimal
    count: int = 1


class OrderPlaced(Struct, frozen=True):
    customer: Annotated[str, Tag()]
    lines: tuple[Line, ...]


class OrderPaid(Struct, frozen=True):
    amount: Decimal


class OrderShipped(Struct, frozen=True):
    parcel: Annotated[str, Tag()]


class OrderCancelled(Struct, frozen=True):
    reason: str


OrderEvent = OrderPlaced | OrderPaid | OrderShipped | OrderCancelled


# ------------------------------------------------------------------------------------------------
# State


class Order(Struct, frozen=True):
    status: Literal["new", "placed", "paid", "shipped", "cancelled"] = "new"
    total: Decimal = Decimal(0)


def evolve(order: Order, event: OrderEvent) -> Order:
    match event:
        case OrderPlaced(lines=lines):
            return Order("placed", total_of(lines))
        case OrderPaid():
            return replace(order, status="paid")
        case OrderShipped():
            return replace(order, status="shipped")
        case OrderCancelled():
            return replace(order, status="cancelled")


def total_of(lines: tuple[Line, ...]) -> Decimal:
    return sum((line.price * line.count for line in lines), Decimal(0))


# ------------------------------------------------------------------------------------------------
# Commands. Every command fits some states of an order and is rejected in the others.


class Place(Struct, frozen=True):
    customer: str
    lines: tuple[Line, ...]


class Pay(Struct, frozen=True):
    amount: Decimal


class Ship(Struct, frozen=True):
    parcel: str


class Cancel(Struct, frozen=True):
    reason: str


class Rejected(Exception):
    """The shop says no."""


def decide(command: Place | Pay | Ship | Cancel, order: Order) -> list[OrderEvent]:
    match command, order.status:
        case Place(customer, lines), "new" if lines:
            return [OrderPlaced(customer, lines)]
        case Pay(amount), "placed" if amount == order.total:
            return [OrderPaid(amount)]
        case Pay(amount), "placed":
            raise Rejected(f"the order costs {order.total}, found {amount}")
        case Ship(parcel), "paid":
            return [OrderShipped(parcel)]
        case Cancel(reason), "placed" | "paid":
            return [OrderCancelled(reason)]
        case Cancel(), "cancelled":
            return []  # It is as it should be: nothing to do, and no error.
    raise Rejected(f"{type(command).__name__} does not fit an order that is {order.status}")


# ------------------------------------------------------------------------------------------------
# The app: a list of what there is. The events of order 1 are the stream `order-1`.

orders = Decider("order", initial_state=Order(), decide=decide, evolve=evolve)


# The view: a table with a row for each order, kept up to date by a runner. Its rows are not the
# state that is decided on, so they can have what people ask for.
class OrderRow(Struct, frozen=True):
    order: str
    customer: str = ""
    status: str = "new"
    lines: tuple[Line, ...] = ()


def show(row: OrderRow, event: RecordedEvent[OrderEvent]) -> OrderRow:
    match event.data:
        case OrderPlaced(customer, lines):
            return replace(row, customer=customer, status="placed", lines=lines)
        case OrderPaid():
            return replace(row, status="to ship")
        case OrderShipped():
            return replace(row, status="shipped")
        case OrderCancelled():
            return replace(row, status="cancelled")


view = Projection(
    "order_view",
    row=OrderRow,
    evolve=show,
    query=select(category="order"),
    indexes=["status"],
)
codec = Codec(OrderPlaced, OrderPaid, OrderShipped, OrderCancelled)
app = App(codec=codec, deciders=[orders], projections=[view])


# ------------------------------------------------------------------------------------------------
# The same order as a class. Commands are methods, and `apply` is its `evolve`. It reads and writes
# the same events, so both forms can be used side by side.


class ShopOrder(Aggregate):
    def __init__(self) -> None:
        self.status = "new"
        self.total = Decimal(0)

    def pay(self, amount: Decimal) -> None:
        if self.status != "placed" or amount != self.total:
            raise Rejected(f"{amount} for an order that is {self.status} and costs {self.total}")
        self.record(OrderPaid(amount))

    def apply(self, event: OrderEvent) -> None:
        match event:
            case OrderPlaced(lines=lines):
                self.status, self.total = "placed", total_of(lines)
            case OrderPaid():
                self.status = "paid"
            case OrderShipped():
                self.status = "shipped"
            case OrderCancelled():
                self.status = "cancelled"


shop_orders = ShopOrder.decider("order")


def to_ship(table: View[OrderRow], token: str) -> list[str]:
    """What waits for a parcel, now that the command whose reply carried the token is done."""
    rows = table.find({"status": "to ship"}, after=token)
    return [f"{row.order} for {row.customer}" for row in rows]


def main() -> None:
    tea, pot = Line("tea", Decimal("4.50"), 2), Line("pot", Decimal("19.00"))
    with leftfold.open("memory://", app) as es, es.running():
        table = es.view(view)
        es.handle(orders, "1", Place("ada", (tea, pot)))
        es.handle(orders, "2", Place("bob", (tea,)))
        paid = es.handle(orders, "1", Pay(Decimal("28.00")))
        print(f"to ship: {to_ship(table, paid.token)}")
        assert to_ship(table, paid.token) == ["order-1 for ada"]
        for command in (Pay(Decimal(5)), Ship("P-1")):
            try:
                es.handle(orders, "2", command)
            except Rejected as rejection:
                print(f"rejected: {rejection}")
        assert es.state(orders, "2") == Order("placed", Decimal("9.00"))

        es.handle(shop_orders, "2", lambda order: order.pay(Decimal("9.00")))
        assert es.state(orders, "2").status == es.state(shop_orders, "2").status == "paid"
        shipped = es.handle(orders, "1", Ship("P-1"))
        print(f"to ship: {to_ship(table, shipped.token)}")
        cancelled = es.handle(orders, "2", Cancel("changed my mind"))
        assert es.handle(orders, "2", Cancel("twice")).events == ()
        assert to_ship(table, cancelled.token) == []
        for row in table.find():
            print(f"{row.order} of {row.customer}: {row.status}")

        print("The story of order 2:")
        for step in es.history(orders, "2"):
            print(f"  {step.event.type:14} {step.before.status} -> {step.after.status}")
        [parcel] = es.read(select(tags=["parcel:P-1"]))
        print(f"Parcel P-1 belongs to {parcel.stream}.")


if __name__ == "__main__":
    main()
