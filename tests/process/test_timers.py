"""Timers that are durable: fired by a runner, by the store's clock, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import process_bank as bank
import pytest
from process_bank import TransferRequested
from process_support import eventually, instance, request, types, wait_for

import leftfold
from leftfold import EventStore, select
from leftfold.process import CancelTimer, Done, ProcessManager, Send, Timer, TimerFired
from leftfold.stores.memory import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.us = 1_000_000_000_000_000

    def __call__(self) -> int:
        return self.us

    def go_on(self, **time: float) -> None:
        self.us += timedelta(**time) // timedelta(microseconds=1)


def process(react: Any, **options: Any) -> ProcessManager[Any]:
    def fired(state: Any, event: Any) -> Any:
        return (*state, event.data.name) if isinstance(event.data, TimerFired) else state

    return ProcessManager(
        "order",
        key=bank.by_transfer,
        query=select(types=[TransferRequested]),
        initial_state=(),
        evolve=fired,
        react=lambda state, event: react(event.data),
        commands=bank.COMMANDS,
        **options,
    )


def asked(data: Any) -> list[Any]:
    """Timers after so many hours as there is money; less than nothing cancels."""
    match data:
        case TransferRequested(amount=amount) if amount < 0:
            return [CancelTimer("late")]
        case TransferRequested(amount=amount):
            return [Timer("late", after=timedelta(hours=amount))]
    return [Done()]


def test_a_timer_fires_by_the_clock_of_the_store() -> None:
    clock, order = Clock(), process(asked)
    es = EventStore(MemoryStore(clock=clock), bank.app_of(order))
    with es, es.running():
        es.append([request("1", TransferRequested("", "", 2))])
        es.append([request("2", TransferRequested("", "", 1))])
        eventually(lambda: len(es.processes.list("order")) == 2, "both wait")
        clock.go_on(minutes=119)
        wait_for(es, order, "2", "done")
        assert instance(es, order, "1").status == "running"
        clock.go_on(minutes=1)
        wait_for(es, order, "1", "done")


def test_timers_that_were_due_while_nothing_ran_fire_once_in_their_order() -> None:
    clock, order = Clock(), process(asked)
    es = EventStore(MemoryStore(clock=clock), bank.app_of(order))
    with es:
        with es.running():
            for hours in (3, 1, 2):
                es.append([request(str(hours), TransferRequested("", "", hours))])
            eventually(lambda: len(es.processes.list("order")) == 3, "all wait")
        clock.go_on(days=1)
        for _ in range(2):
            with es.running():
                for hours in (3, 1, 2):
                    wait_for(es, order, str(hours), "done")
        fired = [each.stream for each in es.read(select(types=["process.TimerFired"]))]
        assert fired == ["order-1", "order-2", "order-3"]


def test_a_timer_that_is_cancelled_never_fires() -> None:
    clock, order = Clock(), process(asked)
    es = EventStore(MemoryStore(clock=clock), bank.app_of(order))
    with es, es.running():
        es.append([request("1", TransferRequested("", "", 1))])
        es.append([request("1", TransferRequested("", "", -1))])
        es.append([request("2", TransferRequested("", "", 2))])
        eventually(lambda: "TimerCancelled" in types(es, "order-1"), "it is cancelled")
        eventually(lambda: len(es.processes.list("order")) == 2, "both are seen")
        clock.go_on(hours=3)
        wait_for(es, order, "2", "done")
        assert instance(es, order, "1").state == ()


def test_a_moment_that_has_passed_fires_at_once(url: str) -> None:
    def react(data: Any) -> list[Any]:
        if isinstance(data, TimerFired):
            return [Done()]
        return [Timer("past", at=datetime(1999, 1, 1, tzinfo=UTC))]

    order = process(react)
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("", "", 1))])
        assert wait_for(es, order, "1", "done").state == ("past",)


def test_a_timer_fires_after_some_time_on_each_store(url: str) -> None:
    def react(data: Any) -> list[Any]:
        if isinstance(data, TimerFired):
            return [Done()]
        return [Timer("soon", after=timedelta(milliseconds=300))]

    order = process(react)
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("", "", 1))])
        wait_for(es, order, "1", "done")
        log = {each.type: each.recorded_at for each in es.read(select("order-1"))}
        passed = log["process.TimerFired"] - log["process.TimerSet"]
        assert passed >= timedelta(milliseconds=300)


def test_a_step_without_answer_in_an_hour_is_compensated() -> None:
    def react(data: Any) -> list[Any]:
        if not isinstance(data, TransferRequested):
            return []
        deposit = bank.Deposit(1)
        withdraw = bank.Withdraw(1)
        return [
            Send("account", "a", deposit, step="pay", compensate=withdraw, answer_within=bank.HOUR)
        ]

    clock, order = Clock(), process(react)
    es = EventStore(MemoryStore(clock=clock), bank.app_of(order))
    with es, es.running():
        es.handle(bank.accounts, "a", bank.Open())
        es.append([request("1", TransferRequested("", "", 1))])
        eventually(lambda: "StepDone" in types(es, "order-1"), "it is paid")
        eventually(lambda: es.processes.list("order"), "it is seen")
        assert es.state(bank.accounts, "a").balance == 1
        clock.go_on(minutes=61)
        found = wait_for(es, order, "1", "compensated")
        assert found.reason == "step 'pay' had no answer in time"
        assert es.state(bank.accounts, "a").balance == 0


def test_a_timer_without_end_is_stopped() -> None:
    order = process(lambda data: [Timer("again", after=timedelta())], reactions_max=5)
    with leftfold.open("memory://", bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("", "", 1))])
        assert "reacted 5 times" in wait_for(es, order, "1", "stuck").stuck


@pytest.mark.parametrize("name", ["transfer_instances", "a__b", "Transfer", "x" * 31, "pg_x"])
def test_names_that_no_process_can_have(name: str) -> None:
    with pytest.raises(leftfold.InvalidInput):
        bank.app_of(
            process(asked),
            ProcessManager(
                name,
                key=bank.by_transfer,
                query=select(),
                initial_state=(),
                evolve=bank.evolve,
                react=bank.react,
            ),
            bank.transfers,
        )
