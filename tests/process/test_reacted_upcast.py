"""Upcasters that drop or split what was reacted to, or what waits, long after it came in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import process_bank as bank
import pytest
from msgspec import Struct
from process_support import eventually, instance, request, wait_for

import leftfold
from leftfold import (
    App,
    Codec,
    EventStore,
    EventType,
    Payload,
    UnknownEventType,
    Upcaster,
    select,
)
from leftfold.drive import run_sync
from leftfold.process import Done, ProcessManager, Timer, TimerFired
from leftfold.stores.memory import MemoryStore
from leftfold.stores.sqlite import SqliteDatabase

HOUR = bank.HOUR


class Asked(Struct, frozen=True):
    amount: int = 0


class Noted(Struct, frozen=True):
    amount: int = 0


OLD = Codec(Asked)
AMOUNT = 7
"""Of the events that upcasters make something else of."""
BECOMES: dict[str, list[Any]] = {
    "dropped": [],
    "split": [Asked(8), Asked(9)],
    "several types": [Noted(8), Asked(9)],
}


def new(becomes: list[Any]) -> Codec:
    """A codec that makes this of an event."""

    def upcast(data: Any) -> list[Payload]:
        if data["amount"] != AMOUNT:
            return [Payload("Asked", data, 2)]
        made = [(type(each).__name__, {"amount": each.amount}) for each in becomes]
        return [Payload(name, data, 2 if name == "Asked" else 1) for name, data in made]

    upcaster = Upcaster("Asked", 1, upcast, to=("Noted",))
    return Codec(EventType(Asked, "Asked", version=2), Noted, upcasters=[upcaster])


def order(react: Callable[[Any], Any]) -> ProcessManager[Any]:
    """One whose state is what came in."""
    return ProcessManager(
        "order",
        key=bank.by_transfer,
        query=select(types=["Asked"]),
        initial_state=(),
        evolve=lambda state, event: (*state, event.data),
        react=lambda state, event: react(event.data),
    )


Opened = Callable[[Codec, ProcessManager[Any]], Any]


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Opened:
    """Opens one log again and again, with another codec."""
    memory = MemoryStore()

    @contextmanager
    def opening(codec: Codec, process: ProcessManager[Any]) -> Iterator[EventStore]:
        app = App(codec=codec, processes=[process])
        if url != "memory://":
            with leftfold.open(url, app) as es:
                yield es
            return
        es = EventStore(memory, app, databases=(SqliteDatabase(f"{tmp_path}/views.db"), None))
        yield es
        run_sync(es._projecting.close())

    return opening


def reacted(es: EventStore, process: ProcessManager[Any], key: str) -> list[list[Any]]:
    """What history has of each event that was reacted to."""
    found = [each.event for each in es.history(process.decider, key)]
    told = [each.data for each in found if each.type == "process.Reacted"]
    return [[event.data for event in each.events] for each in told]


@pytest.mark.parametrize("how", BECOMES)
def test_what_was_reacted_to_counts_once(how: str, opened: Opened) -> None:
    def react(data: Any) -> list[Any]:
        match data:
            case Asked(amount=amount) if amount == AMOUNT:
                return [Timer("kept", after=HOUR)]
            case Asked(1):
                return [Timer("now", after=HOUR * 0)]
            case TimerFired("now"):
                return [Done()]
        return []

    process = order(react)
    with opened(OLD, process) as es, es.running():
        es.append([request("1", Asked(AMOUNT))])
        eventually(lambda: instance(es, process, "1").timers, "it is reacted to")
    becomes = BECOMES[how]
    with opened(new(becomes), process) as es:
        found = instance(es, process, "1")
        assert found.state == tuple(becomes)
        assert (found.status, found.reactions) == ("running", 1)
        assert [each.name for each in found.timers] == ["kept"]
        assert reacted(es, process, "1") == [becomes]
        with es.running():
            es.append([request(key, Asked(1)) for key in ("1", "2")])
            ended = wait_for(es, process, "1", "done")
            assert ended.state == (*becomes, Asked(1), TimerFired("now", 2))
            wait_for(es, process, "2", "done")


def stuck(es: EventStore, process: ProcessManager[Any], held: int) -> None:
    """Let the event that upcasters change, and as many others, wait."""
    es.append([request("1", Asked(AMOUNT)), *(request("1", Asked(n)) for n in range(1, held))])
    eventually(lambda: len(instance(es, process, "1").held) == held, "they wait")


def listed(es: EventStore) -> list[tuple[str, int]]:
    return [(each.status, each.held) for each in es.processes.list("order")]


def refuses(data: Any) -> list[Any]:
    raise ValueError("not yet")


@pytest.mark.parametrize("how", BECOMES)
def test_what_waits_is_reacted_to_as_what_it_is_by_now(how: str, opened: Opened) -> None:
    with opened(OLD, order(refuses)) as es, es.running():
        stuck(es, order(refuses), 2)
    becomes, seen = BECOMES[how], []

    def react(data: Any) -> list[Any]:
        seen.append(data)
        return [Done()] if data == Asked(1) else []

    process = order(react)
    with opened(new(becomes), process) as es, es.running():
        found = instance(es, process, "1")
        assert (found.status, found.state, len(found.held)) == ("stuck", (), 2)
        done = es.processes.retry("order", "1", actor="ada")
        assert (done.status, done.state, done.held) == ("done", (*becomes, Asked(1)), ())
        assert seen == [*becomes, Asked(1)]
        assert reacted(es, process, "1") == [becomes, [Asked(1)]]
        eventually(lambda: listed(es) == [("done", 0)], "it is listed")
        # It is kept as it came in, so that later upcasters make the same of both.
        kept = select("order-1", types=["process.Held", "process.Reacted"])
        held, _, again, _ = run_sync(es.store.read(kept, limit=10))
        assert held.data == again.data


@pytest.mark.parametrize("how", BECOMES)
def test_what_was_passed_over_takes_nothing_else_with_it(how: str, opened: Opened) -> None:
    with opened(OLD, order(refuses)) as es, es.running():
        stuck(es, order(refuses), 2)
        es.processes.skip("order", "1", reason="a test", actor="ada")
    process = order(lambda data: [Done()])
    with opened(new(BECOMES[how]), process) as es, es.running():
        found = instance(es, process, "1")
        assert [each.data for each in found.held] == [Asked(1)]
        eventually(lambda: listed(es) == [("stuck", 1)], "it is listed")
        done = es.processes.retry("order", "1", actor="ada")
        assert (done.status, done.state) == ("done", (Asked(1),))


@pytest.mark.parametrize("how", BECOMES)
def test_what_waits_is_passed_over_as_a_whole(how: str, opened: Opened) -> None:
    with opened(OLD, order(refuses)) as es, es.running():
        stuck(es, order(refuses), 1)
    process = order(lambda data: [Done()])
    with opened(new(BECOMES[how]), process) as es, es.running():
        found = es.processes.skip("order", "1", reason="a test", actor="ada")
        assert (found.status, found.state, found.held) == ("running", (), ())


def test_several_that_one_has_become_end_the_process_once(opened: Opened) -> None:
    with opened(OLD, order(refuses)) as es, es.running():
        stuck(es, order(refuses), 1)
    seen: list[Any] = []

    def react(data: Any) -> list[Any]:
        seen.append(data)
        return [Done()]

    with opened(new(BECOMES["split"]), order(react)) as es, es.running():
        assert es.processes.retry("order", "1", actor="ada").status == "done"
        assert seen == [Asked(8)]


def test_what_no_codec_knows_any_more_is_named() -> None:
    store, process = MemoryStore(), order(lambda data: [])
    first = EventStore(store, App(codec=OLD, processes=[process]))
    with first.running():
        first.append([request("1", Asked(AMOUNT))])
        eventually(lambda: instance(first, process, "1").state, "it is reacted to")
    with (
        EventStore(store, App(codec=Codec(Noted), processes=[process])) as es,
        pytest.raises(UnknownEventType, match=r"process.Reacted.*what came in cannot be had"),
    ):
        es.state(process.decider, "1")


def test_what_waited_under_another_name_waits_no_more(opened: Opened) -> None:
    """Renamed by one upcaster while it waited, and split by another once it was reacted to."""
    with opened(OLD, order(refuses)) as es, es.running():
        stuck(es, order(refuses), 1)
    calm = order(lambda data: [])
    renaming = Upcaster("Asked", 1, lambda data: [Payload("Noted", data)], to=("Noted",))
    with opened(Codec(Noted, upcasters=[renaming]), calm) as es, es.running():
        assert es.processes.retry("order", "1", actor="ada").state == (Noted(AMOUNT),)

    def split(data: Any) -> list[Payload]:
        return [Payload("Noted", {"amount": each}, 2) for each in (8, 9)]

    kinds = EventType(Noted, "Noted", version=2), EventType(Asked, "Other")
    later = Codec(*kinds, upcasters=[renaming, Upcaster("Noted", 1, split)])
    with opened(later, calm) as es:
        found = instance(es, calm, "1")
        assert (found.held, found.state) == ((), (Noted(8), Noted(9)))
