"""What functions of users let out, and what is told of it."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import process_bank as bank
import pytest
from process_bank import TransferRequested
from process_support import eventually, instance, request, wait_for
from process_told import CHARGE, Go, Told, process, reacting

import leftfold
from leftfold import App, Codec, EventStore, InvalidInput, Payload, Upcaster, select
from leftfold.process import Call, Done, ProcessManager, StepDone
from leftfold.process.rows import rows_of
from leftfold.process.stepping import Answer
from leftfold.stores.memory import MemoryStore

MANY = 250


def paying(pay: Any, **options: Any) -> ProcessManager[Any]:
    def react(state: Any, event: Any) -> list[Any]:
        if isinstance(event.data, TransferRequested):
            return [Call("pay", bank.Deposit(1), step="pay")]
        return [Done()] if isinstance(event.data, StepDone) else []

    given: dict[str, Any] = {
        "key": bank.by_transfer,
        "query": select(types=[TransferRequested]),
        "initial_state": None,
        "evolve": lambda state, event: state,
        "react": react,
        "commands": bank.COMMANDS,
        "calls": {"pay": pay},
        **options,
    }
    return ProcessManager("order", **given)


@pytest.mark.parametrize("lets_out", [SystemExit(3), asyncio.CancelledError()])
def test_nothing_is_lost_where_a_call_ends_its_thread(url: str, lets_out: BaseException) -> None:
    raised: list[str] = []

    def pay(asked: Any, once: str) -> None:
        if once == "order-5:pay" and not raised:
            raised.append(once)
            raise lets_out

    orders = paying(pay)
    with leftfold.open(url, bank.app_of(orders)) as es:
        es.append([request(f"{n}", TransferRequested("a", "b", n)) for n in range(MANY)])
        with es.running():
            for n in (0, 4, 6, MANY - 1):
                wait_for(es, orders, f"{n}", "done")
            wait_for(es, orders, "5", "done")
    assert raised == ["order-5:pay"]


def test_a_call_that_ends_the_program_is_made_again_after_a_pause() -> None:
    made: list[str] = []

    def pay(asked: Any, once: str) -> None:
        made.append(once)
        sys.exit("never")

    orders = paying(pay)
    with leftfold.open("memory://", bank.app_of(orders)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        eventually(lambda: instance(es, orders, "1").timers, "it is to be made again")
        [step] = instance(es, orders, "1").steps
        assert (step.status, step.reason) == ("retrying", "SystemExit: never")


def test_a_lost_lane_of_an_event_loop_loses_nothing(tmp_path: Any) -> None:
    cancelled: list[str] = []

    async def pay(asked: Any, once: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not cancelled and task.get_name() == "leftfold-order":
            cancelled.append(once)
            task.cancel()
            await asyncio.sleep(0)

    orders = paying(pay)

    async def main() -> None:
        app: App = bank.app_of(orders)
        async with await leftfold.aopen(f"sqlite:///{tmp_path}/log.db", app) as es, es.running():
            asked = [request(f"{n}", TransferRequested("a", "b", n)) for n in range(MANY)]
            await es.append(asked)
            for _ in range(300):
                found = [await es.state(orders.decider, f"{n}") for n in range(MANY)]
                if all(each.has_ended for each in found):
                    break
                await asyncio.sleep(0.1)
            assert [each.key for each in found if not each.has_ended] == []
            assert cancelled

    asyncio.run(main())


def test_what_waits_for_people_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def pay(asked: Any, once: str) -> None:
        raise OSError("down")

    def react(state: Any, event: Any) -> list[Any]:
        if event.data.amount == 2:
            raise KeyError("fee")
        return [Call("pay", bank.Deposit(1), step="pay")]

    orders = paying(pay, react=react)
    with (
        caplog.at_level(logging.WARNING, "leftfold"),
        leftfold.open("memory://", bank.app_of(orders)) as es,
        es.running(),
    ):
        es.append([request(f"{n}", TransferRequested("a", "b", n)) for n in (1, 2)])
        wait_for(es, orders, "2", "stuck")
        eventually(lambda: instance(es, orders, "1").timers, "it is to be made again")
    told = [each.getMessage() for each in caplog.records]
    assert "order-1: call of step 'pay': OSError: down" in told
    [stuck] = [each for each in told if each.startswith("order-2 waits to be repaired: ")]
    assert "KeyError: 'fee' (test_process_failures.py:" in stuck


def test_who_did_not_answer_says_why_at_the_end() -> None:
    told = Told(process(reacting({Go: [CHARGE]}), call_attempts_max=1))
    told.go()
    told.do(Answer("charge", 1, "unreached", "OSError: down"))
    assert told.now.reason == "step 'charge' had no answer in time: OSError: down"


def test_instances_are_listed_and_their_timers_fire_by_other_releases() -> None:
    """An upcaster changes nothing of what is recorded of processes: their read model stays."""
    orders = paying(print)
    upcaster = Upcaster("TransferRequested", 1, lambda data: [Payload("TransferRequested", data)])
    newer = leftfold.EventType(TransferRequested, version=2)
    codecs = [bank.codec, Codec(newer, upcasters=[upcaster])]
    prints = {rows_of(orders).fingerprint(each.fingerprint) for each in codecs}
    assert len(prints) == 1


def test_what_waits_outside_hides_no_instance() -> None:
    broken: list[str] = []

    def key(event: Any) -> str:
        if event.stream in broken:
            raise KeyError("order")
        return str(event.stream)

    def react(state: Any, event: Any) -> list[Any]:
        raise ValueError("not yet")

    orders = paying(print, key=key, react=react)
    with leftfold.open("memory://", bank.app_of(orders)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        wait_for(es, orders, "request-1", "stuck")
        broken.append("request-1")
        es.append([request("1", TransferRequested("a", "b", 2))])
        eventually(lambda: len(es.processes.list(status="stuck")) == 2, "both are listed")
        assert [each.key for each in es.processes.list()] == ["request-1"] * 2


def test_a_key_is_a_text() -> None:
    with EventStore(MemoryStore(), bank.app_of(paying(print))) as es:
        keys: list[Any] = [None, 1, select("order-1")]
        for key in keys:
            with pytest.raises(InvalidInput, match="key of an instance is a text, found"):
                es.processes.show("order", key)
