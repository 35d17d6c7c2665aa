"""Events that an upcaster makes none or several of, after or before they were reacted to."""

from __future__ import annotations

from typing import Any

import process_bank as bank
import pytest
from msgspec import Struct
from process_support import eventually, request, wait_for

from leftfold import App, Codec, EventStore, EventType, Payload, UndecodableEvent, Upcaster, select
from leftfold.process import Done, ProcessManager
from leftfold.stores.memory import MemoryStore


class Asked(Struct, frozen=True, eq=False):
    amount: int = 0


def order() -> ProcessManager[Any]:
    return ProcessManager(
        "order",
        key=bank.by_transfer,
        query=select(types=[Asked]),
        initial_state=0,
        evolve=lambda state, event: state + 1,
        react=lambda state, event: [] if event.data.amount else [Done()],
    )


@pytest.mark.parametrize("count", [0, 2])
def test_what_was_reacted_to_and_is_no_longer_one_event_is_named(count: int) -> None:
    store, process = MemoryStore(), order()
    first = EventStore(store, App(codec=Codec(Asked), processes=[process]))
    with first.running():
        first.append([request("1", Asked(1))])
        eventually(lambda: first.state(process.decider, "1").state, "it is reacted to")

    def split(data: Any) -> list[Payload]:
        return [Payload("Asked", data, 2)] * (count if data["amount"] == 1 else 1)

    codec = Codec(EventType(Asked, "Asked", version=2), upcasters=[Upcaster("Asked", 1, split)])
    with EventStore(store, App(codec=codec, processes=[process])) as es:
        with pytest.raises(
            UndecodableEvent, match=r"'Asked' .* at position 1, version 1 of stream"
        ):
            es.state(process.decider, "1")
        with es.running():
            es.append([request("2", Asked(0))])
            wait_for(es, process, "2", "done")
