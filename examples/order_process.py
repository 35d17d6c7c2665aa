"""An order as a process: reserve, charge, ship: python examples/order_process.py

     OrderPlaced
          |                        rejected, or no payment within an hour
reserve the inventory  <------------------------------------+
          |                                                 |
 charge the payment   -------- PaymentFailed, NoAnswer -----+
          |                         releases the inventory
  PaymentReceived
          |
   ship the parcel  --> Done
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

import leftfold
from leftfold import App, Codec, Decider, Event, EventStore, RecordedEvent, select
from leftfold.process import Answered, Compensate, Done, Instance, ProcessManager, Send, StepDone

# ------------------------------------------------------------------------------------------------
# Events of the order, of the payment provider, and of the inventory


class OrderPlaced(Struct, frozen=True):
    article: str
    count: int
    cents: int


class PaymentReceived(Struct, frozen=True):
    pass


class PaymentFailed(Struct, frozen=True):
    reason: str


class Stocked(Struct, frozen=True):
    count: int


class Reserved(Struct, frozen=True):
    count: int


class Released(Struct, frozen=True):
    count: int


class ChargeAsked(Struct, frozen=True):
    cents: int


class ChargeCancelled(Struct, frozen=True):
    pass


class Shipped(Struct, frozen=True):
    pass


# ------------------------------------------------------------------------------------------------
# Deciders: each knows only what is its own


class Stock(Struct, frozen=True):
    count: int


class Reserve(Struct, frozen=True):
    count: int


class Release(Struct, frozen=True):
    count: int


class SoldOut(Exception):
    """There is not enough of it."""


def evolve_stock(stock: int, event: Any) -> int:
    match event:
        case Stocked(count=count) | Released(count=count):
            return stock + count
        case Reserved(count=count):
            return stock - count
    return stock


def decide_stock(command: Any, stock: int) -> list[Any]:
    match command:
        case Stock(count=count):
            return [Stocked(count)]
        case Reserve(count=count):
            if count > stock:
                raise SoldOut(f"{stock} left")
            return [Reserved(count)]
        case Release(count=count):
            return [Released(count)]
    raise TypeError(command)


class Charge(Struct, frozen=True):
    cents: int


class CancelCharge(Struct, frozen=True):
    pass


class Ship(Struct, frozen=True):
    pass


def decide_payment(command: Any, is_asked: bool) -> list[Any]:
    match command:
        case Charge(cents=cents):
            return [ChargeAsked(cents)]
        case CancelCharge():
            return [ChargeCancelled()] if is_asked else []
    raise TypeError(command)


def decide_parcel(_command: Ship, is_shipped: bool) -> list[Any]:
    return [] if is_shipped else [Shipped()]


# ------------------------------------------------------------------------------------------------
# The app: deciders, and the process that joins them

inventory = Decider("inventory", initial_state=0, decide=decide_stock, evolve=evolve_stock)
payments = Decider(
    "payment",
    initial_state=False,
    decide=decide_payment,
    evolve=lambda _, event: isinstance(event, ChargeAsked | PaymentReceived),
)
parcels = Decider(
    "parcel",
    initial_state=False,
    decide=decide_parcel,
    evolve=lambda _, event: isinstance(event, Shipped),
)


class Order(Struct, frozen=True):
    cents: int = 0
    is_paid: bool = False


def evolve(order: Order, event: RecordedEvent[Any]) -> Order:
    match event.data:
        case OrderPlaced(cents=cents):
            return Order(cents)
        case PaymentReceived():
            return replace(order, is_paid=True)
    return order


def react(order: Order, event: RecordedEvent[Any]) -> list[Any]:
    id = key(event)
    match event.data:
        case OrderPlaced(article=article, count=count):
            back = Release(count)
            return [Send(inventory, article, Reserve(count), step="reserve", compensate=back)]
        case StepDone("reserve"):
            charge, within = Charge(order.cents), timedelta(hours=1)
            undo = CancelCharge()
            return [
                Send(payments, id, charge, step="charge", compensate=undo, answer_within=within)
            ]
        case PaymentReceived():
            return [Answered("charge"), Send(parcels, id, Ship(), step="ship")]
        case PaymentFailed(reason=reason):
            return [Compensate(reason)]
        case StepDone("ship"):
            return [Done()]
    return []


def key(event: RecordedEvent[Any]) -> str:
    """The order that an event is of: what follows the dash, of a payment as well."""
    return event.stream.partition("-")[2]


order_process = ProcessManager(
    "order_process",
    key=key,
    query=select(types=[OrderPlaced, PaymentReceived, PaymentFailed]),
    initial_state=Order(),
    evolve=evolve,
    react=react,
    commands=[Reserve, Release, Charge, CancelCharge, Ship],
    steps=["reserve", "charge", "ship"],
)
codec = Codec(
    OrderPlaced,
    PaymentReceived,
    PaymentFailed,
    Stocked,
    Reserved,
    Released,
    ChargeAsked,
    ChargeCancelled,
    Shipped,
)
app = App(codec=codec, deciders=[inventory, payments, parcels], processes=[order_process])


def wait_for(es: EventStore, id: str, *, step: str = "", status: str = "") -> Instance:
    """Look until an order is that far."""
    for _ in range(1000):
        found: Instance = es.state(order_process.decider, id)
        asked = found.step(step)
        if (asked is not None and asked.status == "done") or found.status == status:
            return found
        time.sleep(0.01)
    raise TimeoutError(f"order {id} is {found.status}")


def main() -> None:
    with leftfold.open("memory://", app) as es, es.running():
        es.handle(inventory, "tea", Stock(3))
        for id, count in (("1", 1), ("2", 2), ("3", 9)):
            es.append([Event(f"order-{id}", OrderPlaced("tea", count, 450))])
        for id, paid in (("1", PaymentReceived()), ("2", PaymentFailed("no funds"))):
            wait_for(es, id, step="charge")
            es.append([Event(f"payment-{id}", paid)])
        assert wait_for(es, "1", status="done").status == "done"
        for id in ("2", "3"):
            print(f"order {id}: {wait_for(es, id, status='compensated').reason}")
        assert es.state(inventory, "tea") == 2
        print("The story of order 2:")
        for step in es.history(order_process.decider, "2"):
            print(f"  {step.event.type.removeprefix('process.'):15} {step.after.status}")


if __name__ == "__main__":
    main()
