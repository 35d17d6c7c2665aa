"""Orders of a shop, and a view of them: python examples/orders.py

The life cycle of an order is a decider. The view, what is to be shipped, is another fold over the
same events: first over those there are, then over new ones as they come. At the end the same order
is written once more as a class, for those who like methods better.
"""

from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import Aggregate, App, Codec, Decider, EventStore, RecordedEvent, Tag, select

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
codec = Codec(OrderPlaced, OrderPaid, OrderShipped, OrderCancelled)
app = App(codec=codec, deciders=[orders])


# ------------------------------------------------------------------------------------------------
# The view: what waits for a parcel. It can be dropped and folded again at any time.


class ToShip:
    def __init__(self) -> None:
        self.customers: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.position = 0  # The last event in the view. It goes on after it.

    def take(self, event: RecordedEvent[OrderEvent]) -> None:
        match event.data:
            case OrderPlaced(customer):
                self.customers[event.stream] = customer
            case OrderPaid():
                self.waiting.add(event.stream)
            case OrderShipped() | OrderCancelled():
                self.waiting.discard(event.stream)
        self.position = event.position

    def catch_up(self, es: EventStore) -> None:
        for event in es.read(select(category="order"), after=self.position):
            self.take(event)

    def __str__(self) -> str:
        rows = [f"{stream} for {self.customers[stream]}" for stream in sorted(self.waiting)]
        return ", ".join(rows) or "nothing"


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


def main() -> None:
    tea, pot = Line("tea", Decimal("4.50"), 2), Line("pot", Decimal("19.00"))
    with leftfold.open("memory://", app) as es:
        es.handle(orders, "1", Place("ada", (tea, pot)))
        es.handle(orders, "2", Place("bob", (tea,)))
        es.handle(orders, "1", Pay(Decimal("28.00")))
        for command in (Pay(Decimal(5)), Ship("P-1")):
            try:
                es.handle(orders, "2", command)
            except Rejected as rejection:
                print(f"rejected: {rejection}")
        assert es.state(orders, "2") == Order("placed", Decimal("9.00"))

        view = ToShip()
        view.catch_up(es)
        print(f"to ship: {view}")
        assert view.waiting == {"order-1"}

        es.handle(shop_orders, "2", lambda order: order.pay(Decimal("9.00")))
        assert es.state(orders, "2").status == es.state(shop_orders, "2").status == "paid"
        es.handle(orders, "1", Ship("P-1"))
        es.handle(orders, "2", Cancel("changed my mind"))
        assert es.handle(orders, "2", Cancel("twice")).events == ()

        # A subscription never ends by itself: after what is there, it waits for what comes.
        for event in es.subscribe(select(category="order"), after=view.position):
            view.take(event)
            print(f"{event.stream}: {event.type:14} -> to ship: {view}")
            if event.position == es.head():
                break
        assert not view.waiting

        print("The story of order 2:")
        for step in es.history(orders, "2"):
            print(f"  {step.event.type:14} {step.before.status} -> {step.after.status}")
        [parcel] = es.read(select(tags=["parcel:P-1"]))
        print(f"Parcel P-1 belongs to {parcel.stream}.")


if __name__ == "__main__":
    main()
