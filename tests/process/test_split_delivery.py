"""A stored event is reacted to once, whatever upcasters make of it, and however often it comes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from process_support import eventually, instance, types

import leftfold
from leftfold import App, Codec, Event, EventStore, EventType, Payload, Upcaster, select
from leftfold.process import Done, ProcessManager


class Sold(Struct, frozen=True):
    what: str
    order: str = "1"


class Packed(Struct, frozen=True):
    what: str
    order: str = "1"


class Entered(Struct, frozen=True):
    what: str


def react(state: Any, event: Any) -> list[Any]:
    if event.data.what == "bad":
        raise ValueError("what is bad?")
    return [Done()] if event.data.what == "last" else [Event("ledger-1", Entered(event.data.what))]


SALES = ProcessManager(
    "sale",
    key=lambda event: event.data.order,
    query=select(types=["Sold", "Packed"]),
    initial_state=(),
    evolve=lambda state, event: (*state, event.data),
    react=react,
)
OLD = App(codec=Codec(Sold, Packed, Entered), processes=[SALES])
TWO = [Sold("tea"), Sold("milk")]
PARTS: dict[str, list[Any]] = {
    "none": [],
    "renamed": [Packed("tea")],
    "one type": TWO,
    "two types": [Packed("tea"), Sold("milk")],
    "two instances": [Sold("tea"), Sold("milk", "2"), Sold("nut")],
}


def splitting(parts: list[Any]) -> App:
    """The App once an upcaster makes this of the events of before."""

    def split(data: Any) -> list[Payload]:
        return [
            Payload(type(each).__name__, {"what": each.what, "order": each.order}, version)
            for each in parts
            for version in (1 + isinstance(each, Sold),)
        ]

    kinds = (EventType(Sold, version=2), Packed)
    upcaster = Upcaster("Sold", 1, split, to=("Packed",))
    return App(codec=Codec(*kinds, Entered, upcasters=[upcaster]), processes=[SALES])


def run(es: EventStore, app: App) -> EventStore:
    """All of the log is delivered, as to a runner whose read models and checkpoints were lost."""
    fresh = EventStore(es.store, app)
    head = es.head()
    with fresh.running():
        eventually(lambda: fresh.projections.status("sale")[0].position >= head, "it is read")
    return fresh


def ledger(es: EventStore) -> list[str]:
    """What came of it."""
    return [each.data.what for each in es.read(select("ledger-1"))]


@pytest.mark.parametrize("how", PARTS)
def test_each_part_is_reacted_to_once(how: str) -> None:
    parts = PARTS[how]
    with leftfold.open("memory://", OLD) as log:
        log.append([Event("sales-1", Sold("before"))])
        for _ in range(2):
            es = run(log, splitting(parts))
            assert sorted(ledger(es)) == sorted(each.what for each in parts)
            for key in ("1", "2"):
                mine = tuple(each for each in parts if each.order == key)
                assert instance(es, SALES, key).state == mine


@pytest.mark.parametrize("how", PARTS)
def test_what_was_reacted_to_before_it_was_split_is_not_reacted_to_again(how: str) -> None:
    with leftfold.open("memory://", OLD) as log:
        log.append([Event("sales-1", Sold("before"))])
        run(log, OLD)
        before = types(log, "sale-1")
        es = run(log, splitting(PARTS[how]))
        assert types(es, "sale-1") == before
        assert len(ledger(es)) == 1 + len([each for each in PARTS[how] if each.order == "2"])


def test_the_parts_of_one_that_cannot_be_reacted_to_wait_in_order() -> None:
    parts = [Sold("tea"), Sold("bad"), Sold("milk")]
    with leftfold.open("memory://", OLD) as log:
        log.append([Event("sales-1", Sold("before"))])
        es = run(log, splitting(parts))
        found = instance(es, SALES, "1")
        assert "what is bad?" in found.stuck
        assert [each.data for each in found.held] == parts[1:]
        assert ledger(es) == ["tea"]
        found = es.processes.skip("sale", "1", reason="what is it", actor="ada")
        assert (found.status, ledger(es)) == ("running", ["tea", "milk"])


def test_nothing_comes_after_the_end_of_a_process() -> None:
    parts = [Sold("tea"), Sold("last"), Sold("milk")]
    with leftfold.open("memory://", OLD) as log:
        log.append([Event("sales-1", Sold("before"))])
        es = run(log, splitting(parts))
        assert instance(es, SALES, "1").state == tuple(parts[:2])
        assert ledger(es) == ["tea"]


def test_parts_of_no_meaning_start_nothing() -> None:
    def keep(state: Any, event: Any) -> Any:
        return state

    deaf = replace(SALES, evolve=keep, react=lambda state, event: [])
    app = replace(splitting(TWO), processes=[deaf])
    with leftfold.open("memory://", OLD) as log:
        log.append([Event("sales-1", Sold("before"))])
        es = run(log, app)
        assert types(es, "sale-1") == ["Reacted", "Reacted"]
        assert instance(es, deaf, "1").status == "new"
