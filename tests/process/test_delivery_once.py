"""What a process was to do is done once, and not at all where it is no longer to be."""

from __future__ import annotations

from typing import Any

import process_bank as bank
import pytest
from msgspec import Struct
from process_support import instance, request

from leftfold import App, Codec, Decider, Event, EventStore, RecordedEvent, select
from leftfold.drive import run_sync
from leftfold.process import Call, Done, ProcessManager, Send, StepDone
from leftfold.process.working import Working
from leftfold.stores.memory import MemoryStore


class Bonus(Struct, frozen=True):
    pass


class Given(Struct, frozen=True):
    amount: int


class Deposit(Struct, frozen=True):
    amount: int


class Unknown(Struct, frozen=True):
    pass


class Asked(Struct, frozen=True, eq=False):
    amount: int = 0


def decide(command: Any, balance: int) -> list[Any]:
    if isinstance(command, Deposit):
        return [Given(command.amount)]
    return [Given(1)] if balance >= 100 else []


purse = Decider(
    "purse", initial_state=0, decide=decide, evolve=lambda balance, given: balance + given.amount
)


def opened(react: Any, **options: Any) -> tuple[EventStore, Working, ProcessManager[Any]]:
    process = ProcessManager(
        "order",
        key=bank.by_transfer,
        query=select(types=[Asked]),
        initial_state=0,
        evolve=lambda state, event: state + 1,
        react=lambda state, event: react(event.data),
        commands=[Deposit, Bonus],
        **options,
    )
    app = App(codec=Codec(Given, Asked), deciders=[purse], processes=[process])
    es = EventStore(MemoryStore(), app)
    return es, es._working[0], process


def begun(es: EventStore, working: Working) -> list[RecordedEvent[Any]]:
    """The steps that were asked for, none of which was carried out yet."""
    es.append([request("1", Asked())])
    [asked] = es.read(select("request-1"))
    run_sync(working.deliver(asked))
    return [*es.read(select("order-1", types=["process.StepSent"]))]


def test_a_command_that_decided_on_nothing_is_not_handled_again() -> None:
    es, working, _ = opened(lambda data: [Send(purse, "a", Bonus(), step="bonus")])
    with es:
        [sent] = begun(es, working)
        run_sync(working.deliver(sent))
        es.handle(purse, "a", Deposit(100))
        run_sync(working.deliver(sent))
        assert es.state(purse, "a") == 100


def test_a_call_that_was_answered_is_not_made_again() -> None:
    calls: list[str] = []
    es, working, _ = opened(
        lambda data: [Call("pay", Bonus(), step="pay")] if isinstance(data, Asked) else [],
        calls={"pay": lambda request, key: calls.append(key)},
    )
    with es:
        [sent] = begun(es, working)
        for _ in range(2):
            run_sync(working.deliver(sent))
        assert calls == ["order-1:pay"]


@pytest.mark.parametrize("what", ["skip", "cancel"])
def test_a_step_that_is_no_longer_to_be_is_not_carried_out(what: str) -> None:
    es, working, process = opened(
        lambda data: (
            [Send(purse, "a", Deposit(50), step="give")] if isinstance(data, Asked) else [Done()]
        )
    )
    with es:
        [sent] = begun(es, working)
        if what == "skip":
            es.processes.skip("order", "1", step="give", reason="by hand", actor="ada")
        else:
            es.processes.cancel("order", "1", reason="no more", actor="ada", compensate=False)
        run_sync(working.deliver(sent))
        assert es.state(purse, "a") == 0
        assert instance(es, process, "1").has_ended


def test_an_answer_whose_reaction_cannot_be_recorded_is_held() -> None:
    calls: list[str] = []

    def react(data: Any) -> list[Any]:
        if isinstance(data, StepDone):
            return [Event("ledger-1", Unknown())]
        return [Call("pay", Bonus(), step="pay")]

    es, working, process = opened(react, calls={"pay": lambda request, key: calls.append(key)})
    with es:
        [sent] = begun(es, working)
        run_sync(working.deliver(sent))
        found = instance(es, process, "1")
        assert "not registered with the codec" in found.stuck
        assert [each.data for each in found.held] == [StepDone("pay")]
        run_sync(working.deliver(sent))
        assert len(calls) == 1


def test_events_of_a_class_without_equality_may_be_delivered_again() -> None:
    es, working, process = opened(lambda data: [])
    with es:
        es.append([request("1", Asked())])
        for _ in range(2):
            [asked] = es.read(select("request-1"))
            run_sync(working.deliver(asked))
        assert instance(es, process, "1").state == 1


def test_states_are_kept_so_that_events_do_not_cost_more_and_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    es, working, _ = opened(lambda data: [])
    with es:
        es.append([request("1", Asked(n)) for n in range(30)])
        asked = [*es.read(select("request-1"))]
        folded: list[int] = []
        read = es._parts.store.read

        async def counted(*args: Any, **options: Any) -> Any:
            page = await read(*args, **options)
            folded.append(len(page))
            return page

        monkeypatch.setattr(es._parts.store, "read", counted)
        for each in asked:
            run_sync(working.deliver(each))
        assert sum(folded) <= 2 * len(asked)
