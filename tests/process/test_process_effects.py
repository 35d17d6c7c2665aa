"""What a process at work does: after outages, by older definitions, in order, and only once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import process_bank as bank
import pytest
from msgspec import Struct
from process_bank import Deposit, TransferRequested
from process_support import SENT, eventually, instance, request, types, wait_for

import leftfold
from leftfold import App, Appended, Decider, Event, EventStore, Metadata, StoreUnavailable, select
from leftfold.drive import run_sync
from leftfold.process import (
    Call,
    Declined,
    Done,
    ProcessManager,
    Send,
    StepDone,
    Timer,
    TimerFired,
    working,
)
from leftfold.stores.memory import MemoryStore

REQUESTED = request("1", TransferRequested("a", "b", 1))
odd = Decider("odd", initial_state=0, decide=lambda c, s: [c], evolve=lambda s, event: s)
"""It decides on events that no codec knows."""


def process(react: Any, **options: Any) -> ProcessManager[Any]:
    given: dict[str, Any] = {"key": bank.by_transfer, "commands": bank.COMMANDS, **options}
    return ProcessManager(
        "order",
        query=select(types=[TransferRequested]),
        initial_state=(),
        evolve=lambda state, event: (*state, type(event.data).__name__),
        react=lambda state, event: react(event.data),
        **given,
    )


def pay_then_wait(data: Any) -> list[Any]:
    match data:
        case TransferRequested():
            return [Send("account", "a", Deposit(1), step="pay")]
        case StepDone():
            return [Timer("soon", after=timedelta())]
    return [Done()]


class Failing(MemoryStore):
    """One that is not available for events of one type."""

    kind = ""
    failed = 0

    async def append(self, events: Sequence[Event[bytes]], **options: Any) -> Appended:
        if self.kind in {each.type for each in events}:
            self.failed += 1
            raise StoreUnavailable("it is full")
        return await super().append(events, **options)


@pytest.mark.parametrize(
    "kind", ["process.Reacted", "Deposited", "process.StepDone", "process.TimerFired"]
)
def test_what_an_outage_interrupts_is_tried_again_and_waits_for_no_repair(kind: str) -> None:
    store, order = Failing(), process(pay_then_wait)
    with EventStore(store, bank.app_of(order)) as es:
        es.handle(bank.accounts, "a", bank.Open())
        es.append([REQUESTED])
        store.kind = kind
        with es.running():
            eventually(lambda: store.failed > 3, "it is tried again and again")
            store.kind = ""
            wait_for(es, order, "1", "done")
        assert "CommandRejected" not in types(es, "order-1")
        assert es.state(bank.accounts, "a").balance == 1


@pytest.mark.parametrize(
    ("at_once", "hours"),
    [
        (100, [(4, 1), (3, 2)]),
        (1, [(3,), (2,), (1,)]),
        (1, [(4, 1), (3, 2)]),
        (2, [(1, 2), (3, 9), (4, 6), (5, 7, 8)]),
    ],
)
def test_timers_that_are_due_fire_in_their_order(
    at_once: int, hours: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "TIMERS_AT_ONCE", at_once)

    def react(data: Any) -> list[Any]:
        if isinstance(data, TimerFired):
            return []
        return [Timer(f"{each}", after=timedelta(hours=each)) for each in hours[data.amount]]

    now_us = [10**15]
    store = MemoryStore(clock=lambda: now_us[0])
    with EventStore(store, bank.app_of(process(react))) as es:
        es.append([request(f"{n}", TransferRequested("", "", n)) for n in range(len(hours))])
        with es.running():
            eventually(lambda: len(es.processes.list("order")) == len(hours), "all wait")
        now_us[0] += timedelta(days=1) // timedelta(microseconds=1)
        expected = sorted(f"{each}" for each in sum(hours, ()))
        fired = select(types=[TimerFired])
        with es.running():
            eventually(lambda: len([*es.read(fired)]) == len(expected), "all fire")

            def are_later() -> bool:
                return all(each.started_at < each.updated_at for each in es.processes.list())

            eventually(are_later, "rows say when each began")
        assert [each.data.name for each in es.read(fired)] == expected


def test_a_timer_and_a_repair_belong_to_the_conversation_that_they_are_from() -> None:
    def react(data: Any) -> list[Any]:
        if isinstance(data, TimerFired):
            raise ValueError("a fault")
        return [Timer("soon", after=timedelta())]

    order = process(react)
    with leftfold.open("memory://", bank.app_of(order)) as es:
        said = Metadata(correlation_id="talk")
        es.append([Event("request-1", TransferRequested("a", "b", 1), metadata=said)])
        with es.running():
            wait_for(es, order, "1", "stuck")
        es.processes.skip("order", "1", reason="a fault", actor="ada")
        log = [*es.read(select("order-1"))]
        assert {each.metadata.correlation_id for each in log} == {"talk"}
        by_name = {each.type.removeprefix("process."): each for each in log}
        assert by_name["Held"].metadata.causation_id == str(by_name["TimerSet"].id)


def test_a_step_that_failed_may_lack_an_answer_once_it_was_delivered() -> None:
    broken = [True]

    def decide(command: Any, balance: int) -> list[Any]:
        if broken:
            raise leftfold.InvalidInput("not yet")
        return []

    slow = Decider("slow", initial_state=0, decide=decide, evolve=lambda balance, event: balance)
    pay = Send(slow, "a", Deposit(1), step="pay", answer_within=bank.HOUR)
    order = process(lambda data: [pay] if isinstance(data, TransferRequested) else [])
    now_us = [10**15]
    app = App(codec=bank.codec, deciders=[slow], processes=[order])
    with EventStore(MemoryStore(clock=lambda: now_us[0]), app) as es, es.running():
        es.append([REQUESTED])
        wait_for(es, order, "1", "stuck")
        now_us[0] += 2 * bank.HOUR // timedelta(microseconds=1)
        eventually(lambda: es._working[0]._again_s, "its time was over")
        broken.clear()
        es.processes.retry("order", "1", actor="ada")
        assert "no answer in time" in wait_for(es, order, "1", "compensated").reason


def test_a_list_has_as_much_as_was_asked_for_and_no_other_status() -> None:
    def key(event: Any) -> str:
        return str(1 // event.data.amount)

    order = process(lambda data: [], key=key)
    with leftfold.open("memory://", bank.app_of(order)) as es, es.running():
        es.append([request("0", TransferRequested("a", "b", 0)), REQUESTED])
        eventually(lambda: len(es.processes.list()) == 2, "one waits and one runs")
        assert [each.key for each in es.processes.list(status="running")] == ["1"]
        assert [each.key for each in es.processes.list(limit=1)] == ["request-0"]
        with pytest.raises(leftfold.InvalidInput, match="its reason"):
            es.processes.cancel("order", "1", reason=" ", actor="ada")


class OldCommand(Struct, frozen=True):
    pass


def test_a_step_of_an_older_version_is_carried_out_by_what_that_had() -> None:
    calls: list[Any] = []
    old = process(
        lambda data: [Call("old", OldCommand(), step="pay")],
        commands=[OldCommand],
        calls={"old": lambda request, key: calls.append(request)},
    )
    new = process(lambda data: [], version=2, earlier=[old])
    store = MemoryStore()
    before = EventStore(store, bank.app_of(old))
    before.append([REQUESTED])
    [requested] = before.read(select("request-1"))
    run_sync(before._working[0].deliver(requested))
    with EventStore(store, bank.app_of(new)) as es:
        [sent] = es.read(select("order-1", types=[SENT]))
        run_sync(es._working[0].deliver(sent))
    assert calls == [OldCommand()]


def test_a_call_is_not_made_again_for_an_attempt_that_is_over() -> None:
    calls: list[str] = []

    def pay(request: Any, key: str) -> None:
        calls.append(key)
        raise leftfold.InvalidInput("no")

    order = process(lambda data: [Call("pay", Deposit(1), step="pay")], calls={"pay": pay})
    with leftfold.open("memory://", bank.app_of(order)) as es:
        es.append([REQUESTED])
        [requested] = es.read(select("request-1"))
        at_work = es._working[0]
        run_sync(at_work.deliver(requested))
        [sent] = es.read(select("order-1", types=[SENT]))
        run_sync(at_work.deliver(sent))
        assert es.processes.retry("order", "1", actor="ada").step("pay").sent.attempt == 2
        run_sync(at_work.deliver(sent))
        assert len(calls) == 1
        assert instance(es, order, "1").step("pay").status == "sent"


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (Call("pay", Deposit(1), step="pay"), ["StepRejected", "Compensating", "Ended"]),
        (Send(odd, "1", Deposit(1)), ["CommandRejected", "StepFailed", "Quarantined"]),
    ],
)
def test_a_command_that_failed_never_will_be_accepted_and_a_call_needs_no_such_record(
    output: Any, found: list[str]
) -> None:
    def pay(request: Any, key: str) -> None:
        raise Declined("no card")

    order = process(
        lambda data: [output] if isinstance(data, TransferRequested) else [], calls={"pay": pay}
    )
    app = App(codec=bank.codec, deciders=[odd], processes=[order])
    with leftfold.open("memory://", app) as es, es.running():
        es.append([REQUESTED])
        eventually(lambda: types(es, "order-1")[-1:] == found[-1:], f"it comes to {found[-1]}")
        assert types(es, "order-1") == ["Started", "Reacted", "StepSent", *found]


async def called(request: Any, key: str) -> None:
    await asyncio.sleep(0)


def pay_once(data: Any) -> list[Any]:
    return [Done()] if data == StepDone("pay") else [Call("pay", Deposit(1), step="pay")]


def test_a_call_that_is_a_coroutine_function_is_awaited_on_an_event_loop() -> None:
    order = process(pay_once, calls={"pay": called})

    async def main() -> str:
        async with await leftfold.aopen("memory://", bank.app_of(order)) as es, es.running():
            await es.append([REQUESTED])
            for _ in range(1000):
                found = await es.state(order.decider, "1")
                if found.status not in ("new", "running"):
                    break
                await asyncio.sleep(0.01)
            return str(found.status)

    assert asyncio.run(main()) == "done"


def test_a_call_that_is_a_coroutine_function_waits_for_repair_without_an_event_loop() -> None:
    order = process(pay_once, calls={"pay": called})
    with leftfold.open("memory://", bank.app_of(order)) as es, es.running():
        es.append([REQUESTED])
        assert "needs leftfold.aopen" in wait_for(es, order, "1", "stuck").stuck
