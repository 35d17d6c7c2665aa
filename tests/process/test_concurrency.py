"""Several instances of a process are worked on at a time, and each of them in order."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import process_bank as bank
import pytest
from process_bank import TransferRequested
from process_support import request, wait_for

import leftfold
from leftfold import App, InvalidInput, RecordedEvent, select
from leftfold.process import Call, Done, ProcessManager, StepDone

PATIENCE_S = 30.0
TOGETHER = 3


def react(state: Any, event: RecordedEvent[Any]) -> list[Any]:
    match event.data:
        case TransferRequested(amount=amount):
            return [Call("pay", bank.Deposit(amount), step=f"pay {amount}")]
        case StepDone("pay 2"):
            return [Done()]
    return []


def process(pay: Any, **changes: Any) -> ProcessManager[Any]:
    given: dict[str, Any] = {
        "key": bank.by_transfer,
        "query": select(types=[TransferRequested]),
        "initial_state": None,
        "evolve": lambda state, event: None,
        "react": react,
        "commands": bank.COMMANDS,
        "calls": {"pay": pay},
        "concurrency": TOGETHER,
    }
    return ProcessManager("order", **(given | changes))


def requests(*amounts: int) -> list[leftfold.Event[Any]]:
    return [
        request(str(each), TransferRequested("a", "b", amount))
        for amount in amounts
        for each in range(TOGETHER)
    ]


def test_calls_of_several_instances_are_made_at_the_same_time(url: str) -> None:
    together = threading.Barrier(TOGETHER)
    made: list[str] = []

    def pay(order: Any, idempotency_key: str) -> None:
        together.wait(PATIENCE_S)
        made.append(idempotency_key)

    orders = process(pay)
    with leftfold.open(url, bank.app_of(orders)) as es, es.running():
        es.append(requests(1, 2))
        for each in range(TOGETHER):
            wait_for(es, orders, str(each), "done")
    assert sorted(made) == sorted(f"order-{n}:pay {m}" for n in range(TOGETHER) for m in (1, 2))
    for each in range(TOGETHER):
        of_one = [key for key in made if key.startswith(f"order-{each}:")]
        assert of_one == [f"order-{each}:pay 1", f"order-{each}:pay 2"]


@pytest.mark.parametrize("is_coroutine", [True, False])
def test_calls_are_made_at_the_same_time_on_an_event_loop(
    tmp_path: Any, is_coroutine: bool
) -> None:
    together = threading.Barrier(TOGETHER)
    all_there = asyncio.Event()
    there: list[str] = []

    def pay(order: Any, idempotency_key: str) -> None:
        together.wait(PATIENCE_S)

    async def pay_async(order: Any, idempotency_key: str) -> None:
        there.append(idempotency_key)
        if len(there) == TOGETHER:
            all_there.set()
        await asyncio.wait_for(all_there.wait(), PATIENCE_S)

    orders = process(pay_async if is_coroutine else pay)

    async def main() -> None:
        app: App = bank.app_of(orders)
        async with await leftfold.aopen(f"sqlite:///{tmp_path}/log.db", app) as es, es.running():
            await es.append(requests(2))
            for _ in range(3000):
                found = [await es.state(orders.decider, str(n)) for n in range(TOGETHER)]
                if all(each.status == "done" for each in found):
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(found)

    asyncio.run(main())


@pytest.mark.parametrize("concurrency", [0, 65, True, "4", 2.0])
def test_it_is_a_number_of_instances(concurrency: Any) -> None:
    with pytest.raises(InvalidInput, match="concurrency of 'order'"):
        process(print, concurrency=concurrency)
