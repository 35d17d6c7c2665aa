"""Instances of several versions of a process at a time: each gets what its own definition says."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct
from process_support import eventually, instance, types

import leftfold
from leftfold import App, Codec, Event, EventStore, InvalidInput, Payload, Query, Upcaster, select
from leftfold.event import record
from leftfold.process import Done, ProcessManager
from leftfold.process.instance import Instance
from leftfold.process.stepping import React
from leftfold.stores.memory import MemoryStore


class Placed(Struct, frozen=True):
    order: str
    customer: str = "ada"


class Packed(Struct, frozen=True):
    order: str
    customer: str = "ada"


class Paid(Struct, frozen=True):
    order: str
    customer: str = "ada"


def by_order(event: Any) -> Any:
    return event.data.order


def by_customer(event: Any) -> Any:
    return event.data.customer


def process(query: Query, key: Any = by_order, **options: Any) -> ProcessManager[Any]:
    """One whose state is the names of what came in."""
    given: dict[str, Any] = {"react": lambda state, event: [], **options}
    return ProcessManager(
        "shop",
        key=key,
        query=query,
        initial_state=(),
        evolve=lambda state, event: (*state, type(event.data).__name__),
        **given,
    )


PACKING = process(select(types=[Placed, Packed]))
PAYING = process(select(types=[Placed, Paid]), version=2, earlier=[PACKING])
CODEC = Codec(Placed, Packed, Paid)


def app_of(shop: ProcessManager[Any], codec: Codec = CODEC) -> App:
    return App(codec=codec, processes=[shop])


def deployed(es: EventStore, shop: ProcessManager[Any], codec: Codec = CODEC) -> EventStore:
    """Another App on the same log, with the same checkpoints."""
    projecting = es._projecting
    databases = projecting.database, projecting.log_database
    return EventStore(es.store, app_of(shop, codec), databases=databases)


def happened(es: EventStore, *data: Any) -> None:
    """Events are recorded, and delivered."""
    position = int(es.append([Event(f"news-{each.order}", each) for each in data]).token)
    run(es, position)


def run(es: EventStore, position: int) -> None:
    with es.running():
        eventually(lambda: es.projections.status("shop")[0].position >= position, "it is read")


def redelivered(es: EventStore) -> None:
    """Let all be delivered once more, as after a crash that lost the checkpoint."""
    es._projecting.database.write(
        lambda tx: tx.execute(
            "UPDATE leftfold_consumers SET position = 0, event_position = 0, event_id = ? "
            "WHERE build IN (SELECT id FROM leftfold_builds WHERE name = 'shop')",
            [b""],
        )
    )


def story(es: EventStore, shop: ProcessManager[Any], key: str) -> tuple[int, tuple[str, ...]]:
    """The version that an instance goes by, and what came in."""
    found = instance(es, shop, key)
    return found.version, found.state


def test_an_instance_gets_the_events_that_its_own_query_selects(url: str) -> None:
    with leftfold.open(url, app_of(PACKING)) as first:
        happened(first, Placed("1"))
        es = deployed(first, PAYING)
        happened(es, Placed("2"), Paid("1"), Packed("1"), Packed("2"), Paid("2"))
        assert story(es, PAYING, "1") == (1, ("Placed", "Packed"))
        assert story(es, PAYING, "2") == (2, ("Placed", "Paid"))


def test_an_event_of_an_earlier_query_starts_nothing_and_leaves_no_trace(url: str) -> None:
    with leftfold.open(url, app_of(PAYING)) as es:
        happened(es, Packed("1"), Placed("2"))
        assert types(es, "shop-1") == []
        assert story(es, PAYING, "2") == (2, ("Placed",))


ALL_NEWS = select(types=[Placed, Packed, Paid])
ORDERS = process(ALL_NEWS)
CUSTOMERS = process(ALL_NEWS, by_customer, version=2, earlier=[ORDERS])


def test_an_event_goes_where_the_key_of_each_version_says(url: str) -> None:
    with leftfold.open(url, app_of(ORDERS)) as first:
        happened(first, Placed("1"))
        es = deployed(first, CUSTOMERS)
        happened(es, Placed("2"), Paid("1"), Packed("2"))
        assert story(es, CUSTOMERS, "1") == (1, ("Placed", "Paid"))
        assert story(es, CUSTOMERS, "ada") == (2, ("Placed", "Paid", "Packed"))
        assert types(es, "shop-2") == []


def test_what_an_older_instance_gets_starts_no_new_one(url: str) -> None:
    with leftfold.open(url, app_of(ORDERS)) as first:
        happened(first, Placed("1"))
        es = deployed(first, CUSTOMERS)
        happened(es, Paid("1"))
        assert story(es, CUSTOMERS, "1") == (1, ("Placed", "Paid"))
        assert types(es, "shop-ada") == []


@pytest.mark.parametrize("outputs", [[], [Done()]])
@pytest.mark.parametrize("key", [by_order, by_customer])
def test_what_is_delivered_again_to_a_newer_version_has_no_second_effect(
    url: str, key: Any, outputs: list[Any]
) -> None:
    before = process(ALL_NEWS, react=lambda state, event: outputs)
    after = process(ALL_NEWS, key, version=2, earlier=[before])
    with leftfold.open(url, app_of(before)) as first:
        happened(first, Placed("1"))
        head = first.head()
        redelivered(first)
        es = deployed(first, after)
        run(es, 1)
        assert es.head() == head


def test_instances_that_are_to_be_migrated_go_by_the_newest(url: str) -> None:
    def migrate(state: Any, version: int) -> Any:
        return (f"of {version}", *state)

    query = select(types=[Placed, Paid])
    migrating = process(query, by_order, version=2, earlier=[PACKING], migrate=migrate)
    with leftfold.open(url, app_of(PACKING)) as first:
        happened(first, Placed("1"))
        es = deployed(first, migrating)
        happened(es, Packed("1"), Placed("2"))
        assert story(es, migrating, "1") == (1, ("Placed",))
        happened(es, Paid("1"))
        assert story(es, migrating, "1") == (2, ("of 1", "Placed", "Paid"))


def test_versions_that_are_migrated_are_not_asked_for_keys() -> None:
    old = process(ALL_NEWS, lambda event: event.data.parcel)
    new = process(ALL_NEWS, version=2, earlier=[old], migrate=lambda state, version: state)
    with leftfold.open("memory://", app_of(new)) as es:
        happened(es, Placed("1"))
        assert story(es, new, "1") == (2, ("Placed",))


def test_a_stored_name_selects_what_is_stored_by_it_in_each_version() -> None:
    class Wrapped(Struct, frozen=True):
        order: str
        customer: str = "ada"

    def wrapped(data: Any) -> Payload:
        return Payload("Wrapped", data, 1)

    old = process(select(types=["Placed", "Packed"]))
    new = process(select(types=[Placed, Wrapped]), version=2, earlier=[old])
    codec = Codec(Placed, Wrapped, upcasters=[Upcaster("Packed", 1, wrapped, to=("Wrapped",))])
    with EventStore(MemoryStore(), app_of(old)) as first:
        happened(first, Placed("1"))
        first.append([Event("news-1", Packed("1")), Event("news-2", Packed("2"))])
        es = deployed(first, new, codec)
        happened(es, Wrapped("1"), Wrapped("2"))
        assert story(es, new, "1") == (1, ("Placed", "Wrapped"))
        assert story(es, new, "2") == (2, ("Wrapped", "Wrapped"))


def test_of_what_an_upcaster_makes_each_version_gets_its_own() -> None:
    def split(data: Any) -> list[Payload]:
        return [Payload("Packed", data, 1), Payload("Paid", data, 1)]

    class Sent(Struct, frozen=True):
        order: str

    codec = Codec(
        Placed, Packed, Paid, upcasters=[Upcaster("Sent", 1, split, to=("Packed", "Paid"))]
    )
    with EventStore(MemoryStore(), app_of(PACKING, Codec(Placed, Packed, Sent))) as first:
        happened(first, Placed("1"))
        first.append([Event("news-1", Sent("1"))])
        es = deployed(first, PAYING, codec)
        happened(es, Placed("2"))
        assert story(es, PAYING, "1") == (1, ("Placed", "Packed"))


def test_an_event_without_a_key_of_an_earlier_version_waits_and_holds_up_nobody() -> None:
    def key(event: Any) -> str:
        return str({"1": "1"}[event.data.order])

    old = process(ALL_NEWS, key)
    new = process(ALL_NEWS, version=2, earlier=[old])
    with leftfold.open("memory://", app_of(new)) as es:
        happened(es, Placed("2"), Placed("1"))
        assert [each.key for each in es.projections.quarantine("shop")] == ['["news-2"]']
        assert story(es, new, "1") == (2, ("Placed",))


def test_an_event_for_several_instances_is_delivered_by_itself() -> None:
    with leftfold.open("memory://", app_of(CUSTOMERS)) as es:
        es.append([Event("news-1", Placed("1")), Event("news-ada", Placed("ada"))])
        lanes = [es._working[0]._lane([each]) for each in es.read(select(category="news"))]
        assert lanes == [None, "ada"]


@pytest.mark.parametrize(
    ("version", "versions", "comes_in"),
    [
        (0, (1,), False),
        (0, (2,), False),
        (0, (1, 2, 0), True),
        (1, (1,), True),
        (1, (2, 0), False),
        (2, (1,), False),
        (2, (2, 0), True),
    ],
)
def test_what_is_for_other_versions_does_not_come_in(
    version: int, versions: tuple[int, ...], comes_in: bool
) -> None:
    event = record(Event("news-1", b"", type="Placed"), 1, 1, 0)
    now = Instance((), key="1", version=version, phase="running" if version else "new")
    order = React("1", event, versions=versions)
    assert bool(PAYING.decider.decided(order, now)) == comes_in


@pytest.mark.parametrize(("versions", "comes_in"), [((1,), False), ((2, 0), True)])
def test_an_instance_of_an_unknown_version_waits_at_an_event_of_the_newest(
    versions: tuple[int, ...], comes_in: bool
) -> None:
    event = record(Event("news-1", b"", type="Placed"), 1, 1, 0)
    now = Instance((), key="1", version=7, phase="running")
    decided = PAYING.decider.decided(React("1", event, versions=versions), now)
    assert ["goes by version 7" in str(each) for each in decided][1:] == [True] * comes_in


def test_all_versions_together_have_as_many_query_items_as_a_query_may_have() -> None:
    def queries(numbers: range) -> Query:
        return Query(tuple(item for n in numbers for item in select(types=[f"T{n}"]).items))

    first = process(queries(range(40)))
    process(queries(range(63)), version=2, earlier=[first])
    with pytest.raises(InvalidInput, match="at most 63 items, found 64"):
        process(queries(range(20, 64)), version=2, earlier=[first])
