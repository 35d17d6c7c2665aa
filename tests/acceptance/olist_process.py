"""The orders of Olist as a process: reserve each item, charge, ship, deliver. What really became of
an order decides what its steps answer; an order fails where it failed.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from olist_shop import Shop

from leftfold import App, Codec, Decider, Event, RecordedEvent, select
from leftfold.process import Done, ProcessManager, Send, StepDone


class OrderPlaced(Struct, frozen=True):
    products: tuple[str, ...]
    cents: int


class Reserved(Struct, frozen=True):
    order: str


class Released(Struct, frozen=True):
    order: str


class Charged(Struct, frozen=True):
    cents: int


class Refunded(Struct, frozen=True):
    cents: int


class Shipped(Struct, frozen=True):
    pass


class CalledBack(Struct, frozen=True):
    pass


class Delivered(Struct, frozen=True):
    pass


class Reserve(Struct, frozen=True):
    order: str


class Release(Struct, frozen=True):
    order: str


class Charge(Struct, frozen=True):
    order: str
    cents: int


class Refund(Struct, frozen=True):
    order: str
    cents: int


class Ship(Struct, frozen=True):
    order: str


class CallBack(Struct, frozen=True):
    order: str


class Deliver(Struct, frozen=True):
    order: str


class Refuses(Exception):
    """It failed here."""


MADE: dict[type, Callable[[Any], Any]] = {
    Reserve: lambda command: Reserved(command.order),
    Release: lambda command: Released(command.order),
    Charge: lambda command: Charged(command.cents),
    Refund: lambda command: Refunded(command.cents),
    Ship: lambda command: Shipped(),
    CallBack: lambda command: CalledBack(),
    Deliver: lambda command: Delivered(),
}


def failing_step(line: dict[str, str]) -> type | None:
    """The command that was rejected for an order; None: none was."""
    if line["order_status"] == "unavailable":
        return Ship
    if line["order_status"] != "canceled":
        return None
    if line["order_delivered_carrier_date"]:
        return Deliver
    return Ship if line["order_approved_at"] else Charge


LAST_STEP = {
    "created": Reserve,
    "approved": Charge,
    "processing": Charge,
    "invoiced": Charge,
    "shipped": Ship,
}
"""How far an order had come when the data was taken."""


class State(Struct, frozen=True):
    products: tuple[str, ...] = ()
    cents: int = 0
    reserved: int = 0


def order_of(event: RecordedEvent[Any]) -> str:
    return event.stream.partition("-")[2]


def evolve(state: State, event: RecordedEvent[Any]) -> State:
    match event.data:
        case OrderPlaced(products=products, cents=cents):
            return State(products, cents)
        case StepDone(step) if step.startswith("reserve"):
            return replace(state, reserved=state.reserved + 1)
    return state


def react_of(shop: Shop) -> Callable[[State, RecordedEvent[Any]], list[Any]]:
    def react(state: State, event: RecordedEvent[Any]) -> list[Any]:
        order = order_of(event)
        last = LAST_STEP.get(shop.lines[order]["order_status"])
        match event.data:
            case OrderPlaced(products=products) if products:
                return [reserve(order, product, n) for n, product in enumerate(products)]
            case OrderPlaced():
                return [] if last is Reserve else [charge(order, state)]
            case StepDone(step) if step.startswith("reserve"):
                is_all = state.reserved == len(state.products)
                return [charge(order, state)] if is_all and last is not Reserve else []
            case StepDone("charge") if last is not Charge:
                return [Send("parcel", order, Ship(order), step="ship", compensate=CallBack(order))]
            case StepDone("ship") if last is not Ship:
                return [Send("parcel", order, Deliver(order), step="deliver")]
            case StepDone("deliver"):
                return [Done()]
        return []

    return react


def reserve(order: str, product: str, number: int) -> Send:
    step, back = f"reserve {number}", Release(order)
    return Send("inventory", product, Reserve(order), step=step, compensate=back)


def charge(order: str, state: State) -> Send:
    back = Refund(order, state.cents)
    return Send("payment", order, Charge(order, state.cents), step="charge", compensate=back)


def app_of(shop: Shop) -> App:
    def decide(command: Any, _state: int) -> list[Any]:
        if failing_step(shop.lines[command.order]) is type(command):
            raise Refuses(type(command).__name__)
        return [MADE[type(command)](command)]

    def decider(category: str) -> Decider[Any, Any, Any]:
        return Decider(category, initial_state=0, decide=decide, evolve=lambda state, event: 0)

    process = ProcessManager(
        "order_flow",
        key=order_of,
        query=select(types=[OrderPlaced]),
        initial_state=State(),
        evolve=evolve,
        react=react_of(shop),
        commands=[*MADE],
    )
    codec = Codec(
        OrderPlaced, Reserved, Released, Charged, Refunded, Shipped, CalledBack, Delivered
    )
    deciders = [decider(each) for each in ("inventory", "payment", "parcel")]
    return App(codec=codec, deciders=deciders, processes=[process])


def placed(shop: Shop) -> list[Event[Any]]:
    """All orders, as they were placed."""
    return [
        Event(
            f"order-{name}",
            OrderPlaced(
                tuple(each["product_id"] for each in shop.items.get(name, ())),
                sum(
                    int(Decimal(each["payment_value"]) * 100)
                    for each in shop.payments.get(name, ())
                ),
            ),
        )
        for name in shop.lines
    ]
