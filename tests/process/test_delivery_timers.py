"""Timers beside events: in their order, and none that holds up others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import process_bank as bank
import pytest
from process_bank import TransferRequested
from process_support import eventually, instance, request, types, wait_for

from leftfold import Event, EventStore, select
from leftfold.drive import run_sync
from leftfold.process import (
    CancelTimer,
    Compensate,
    Done,
    ProcessManager,
    Send,
    Timer,
    TimerFired,
    working,
)
from leftfold.stores.memory import MemoryStore


class Clock:
    def __init__(self) -> None:
        self.us = 1_000_000_000_000_000

    def __call__(self) -> int:
        return self.us

    def go_on(self, **time: float) -> None:
        self.us += timedelta(**time) // timedelta(microseconds=1)


def process(react: Any, evolve: Any = lambda state, event: state + 1) -> ProcessManager[Any]:
    return ProcessManager(
        "order",
        key=bank.by_transfer,
        query=select(types=[TransferRequested]),
        initial_state=0,
        evolve=evolve,
        react=lambda state, event: react(event.data),
        commands=bank.COMMANDS,
    )


def asked(amount: int) -> TransferRequested:
    return TransferRequested("", "", amount)


def in_an_hour(data: Any) -> list[Any]:
    """A timer in an hour that 0 cancels."""
    match data:
        case TransferRequested(amount=0):
            return [CancelTimer("late"), Done()]
        case TransferRequested():
            return [Timer("late", after=bank.HOUR)]
    return [Compensate("too late")]


@pytest.mark.parametrize(("minutes", "phase"), [(30, "done"), (60, "done"), (90, "compensated")])
def test_after_downtime_what_was_recorded_before_a_timer_was_due_comes_first(
    minutes: int, phase: str
) -> None:
    clock, order = Clock(), process(in_an_hour)
    es = EventStore(MemoryStore(clock=clock), bank.app_of(order))
    with es:
        with es.running():
            es.append([request("1", asked(1))])
            eventually(lambda: es.processes.list("order"), "it waits")
        clock.go_on(minutes=minutes)
        es.append([request("1", asked(0))])
        clock.go_on(hours=2)
        with es.running():
            eventually(lambda: instance(es, order, "1").has_ended, "it has ended")
        assert instance(es, order, "1").phase == phase


def test_what_was_never_delivered_is_delivered_before_its_time_is_over() -> None:
    def react(data: Any) -> list[Any]:
        if not isinstance(data, TransferRequested):
            return []
        step = {"step": "take", "compensate": bank.Deposit(5), "answer_within": bank.HOUR}
        return [Send("account", "a", bank.Withdraw(5), **step)]

    clock, order = Clock(), process(react)
    es = EventStore(MemoryStore(clock=clock), bank.app_of(order))
    with es:
        es.handle(bank.accounts, "a", bank.Open())
        es.append([request("1", asked(1))])
        [requested] = es.read(select("request-1"))
        run_sync(es._working[0].deliver(requested))
        with es.running(only=["order_instances"]):
            eventually(lambda: es.processes.list("order"), "it is seen")
        clock.go_on(hours=2)
        with es.running():
            wait_for(es, order, "1", "compensated")
        assert es.state(bank.accounts, "a").balance == 0
        assert "NoAnswer" not in types(es, "order-1")


def test_a_reaction_to_a_timer_that_cannot_be_recorded_is_held() -> None:
    def react(data: Any) -> list[Any]:
        if isinstance(data, TimerFired):
            return [Event("ledger-1", bank.Open())]
        return [Timer("soon", after=timedelta())] if data.amount else [Done()]

    order = process(react)
    with EventStore(MemoryStore(), bank.app_of(order)) as es, es.running():
        es.append([request("1", asked(1))])
        assert "not registered with the codec" in wait_for(es, order, "1", "stuck").stuck
        es.append([request("2", asked(0))])
        wait_for(es, order, "2", "done")


def test_instances_that_cannot_be_folded_hold_up_no_timers_of_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(working, "TIMERS_AT_ONCE", 2)
    monkeypatch.setattr(working, "FAILED_PAUSE_S", 0.2)
    broken = False

    def evolve(state: int, event: Any) -> int:
        if broken and isinstance(event.data, TransferRequested) and event.data.amount < 0:
            raise KeyError("old")
        return state + 1

    def react(data: Any) -> list[Any]:
        if isinstance(data, TimerFired):
            return [Done()]
        return [Timer("late", after=bank.HOUR if data.amount < 0 else 2 * bank.HOUR)]

    clock, order = Clock(), process(react, evolve)
    store = MemoryStore(clock=clock)
    with EventStore(store, bank.app_of(order)) as es:
        with es.running():
            es.append([request(str(n), asked(-1)) for n in range(5)])
            es.append([request("good", asked(1))])
            eventually(lambda: len(es.processes.list("order")) == 6, "all wait")
        broken = True
        es._working[0].begin(es._parts, es._turns, es._projecting)
        clock.go_on(hours=3)
        with es.running():
            wait_for(es, order, "good", "done")
            es.append([request("new", asked(1))])
            eventually(lambda: instance(es, order, "new").status == "running", "it goes on")
            broken = False
            wait_for(es, order, "0", "done")
    assert "timer 'late' of order-3 did not fire" in caplog.text


def test_timers_fire_while_events_keep_coming() -> None:
    def react(data: Any) -> list[Any]:
        if isinstance(data, TimerFired):
            return [Done()]
        return [Timer("late", after=timedelta(minutes=1))] if data.amount else []

    clock, order = Clock(), process(react)
    with EventStore(MemoryStore(clock=clock), bank.app_of(order)) as es, es.running():
        es.append([request("1", asked(1))])

        def is_done() -> bool:
            clock.go_on(seconds=1)
            es.append([request(f"x{n}", asked(0)) for n in range(20)])
            return instance(es, order, "1").has_ended

        eventually(is_done, "it fires")
