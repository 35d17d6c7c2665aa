"""Processes at work: what comes in, what is delivered, and what happens when it cannot be."""

from __future__ import annotations

import asyncio
from typing import Any

import process_bank as bank
import pytest
from process_bank import Deposit, Deposited, Open, TransferRequested, transfers
from process_support import eventually, instance, request, types, wait_for

import leftfold
from leftfold import App, Event, InvalidInput, Metadata, select
from leftfold.process import (
    Call,
    Declined,
    Done,
    NoAnswer,
    ProcessManager,
    Send,
    StepDone,
    StepRejected,
)


def fund(es: leftfold.EventStore, **balances: int) -> None:
    for name, amount in balances.items():
        es.handle(bank.accounts, name, Open())
        es.handle(bank.accounts, name, Deposit(amount))


def balances(es: leftfold.EventStore, *names: str) -> list[int]:
    return [es.state(bank.accounts, each).balance for each in names]


def test_a_transfer_moves_money_once(url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es, es.running():
        fund(es, a=10, b=0)
        es.append([request("1", TransferRequested("a", "b", 4))])
        wait_for(es, transfers, "1", "done")
        assert balances(es, "a", "b") == [6, 4]
        assert types(es, "transfer-1") == [
            "Started",
            "Reacted",
            "StepSent",
            "StepDone",
            "StepSent",
            "StepDone",
            "Ended",
        ]


def test_a_transfer_that_cannot_be_given_is_taken_back(url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es, es.running():
        fund(es, a=10)
        es.append([request("1", TransferRequested("a", "nobody", 4))])
        found = wait_for(es, transfers, "1", "compensated")
        assert balances(es, "a") == [10]
        assert found.reason == "step 'give' was rejected: Refuses: there is no such account"
        steps = {each.name: each.status for each in found.steps}
        assert steps == {"take": "compensated", "give": "rejected", "undo take": "compensated"}


def test_a_transfer_works_on_an_event_loop(tmp_path: Any) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path}/log.db"
        async with await leftfold.aopen(url, bank.app_of()) as es, es.running():
            await es.handle(bank.accounts, "a", Open())
            await es.handle(bank.accounts, "a", Deposit(10))
            await es.append([request("1", TransferRequested("a", "b", 4))])
            for _ in range(1000):
                if (await es.state(transfers.decider, "1")).status == "compensated":
                    break
                await asyncio.sleep(0.01)
            assert (await es.state(bank.accounts, "a")).balance == 10
            assert (await es.state(transfers.decider, "1")).status == "compensated"

    asyncio.run(main())


def test_what_was_recorded_before_the_runner_began_is_reacted_to(url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es:
        fund(es, a=10, b=0)
        es.append([request(str(n), TransferRequested("a", "b", 1)) for n in range(5)])
        with es.running():
            for n in range(5):
                wait_for(es, transfers, str(n), "done")
        assert balances(es, "a", "b") == [5, 5]


def test_each_instance_has_a_history_and_a_past(url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es, es.running():
        fund(es, a=10, b=0)
        es.append([request("1", TransferRequested("a", "b", 4))])
        wait_for(es, transfers, "1", "done")
        steps = [*es.history(transfers.decider, "1")]
        assert [each.after.status for each in steps] == ["running"] * 6 + ["done"]
        assert es.state(transfers.decider, "1", at=3).step("take").status == "sent"
        [reacted] = [each.event.data for each in steps if each.event.type == "process.Reacted"]
        assert reacted.event.data == TransferRequested("a", "b", 4)


def test_causes_and_conversations_are_kept(url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es, es.running():
        fund(es, a=10, b=0)
        said = Metadata(correlation_id="talk", actor="ada")
        [requested] = [Event("request-1", TransferRequested("a", "b", 4), metadata=said)]
        es.append([requested])
        wait_for(es, transfers, "1", "done")
        log = [*es.read(select(category="transfer"))]
        assert {each.metadata.correlation_id for each in log} == {"talk"}
        assert {each.metadata.actor for each in log} == {"ada"}
        assert log[1].metadata.causation_id == str(requested.id)
        *_, taken = es.read(select(types=[bank.Withdrawn]))
        assert taken.metadata.causation_id == str(log[2].id)
        assert taken.metadata.correlation_id == "talk"


def redelivered(es: leftfold.EventStore, name: str) -> None:
    """Let all be delivered once more, as after a crash that lost the checkpoint."""
    es._projecting.database.write(
        lambda tx: tx.execute(
            "UPDATE leftfold_consumers SET position = 0, event_position = 0, event_id = ? "
            "WHERE build IN (SELECT id FROM leftfold_builds WHERE name = ?)",
            [b"", name],
        )
    )


def test_what_is_delivered_again_has_no_second_effect(url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es:
        with es.running():
            fund(es, a=10, b=0)
            es.append([request("1", TransferRequested("a", "b", 4))])
            es.append([request("2", TransferRequested("a", "c", 4))])
            wait_for(es, transfers, "1", "done")
            wait_for(es, transfers, "2", "compensated")
        head = es.head()
        redelivered(es, "transfer")
        es.append([request("3", TransferRequested("a", "b", 1))])
        with es.running():
            wait_for(es, transfers, "3", "done")
        assert balances(es, "a", "b") == [5, 5]
        later = [each for each in es.read(after=head) if each.stream not in ("transfer-3",)]
        assert [each.type for each in later] == ["TransferRequested", "Withdrawn", "Deposited"]


def react_with(react: Any, **options: Any) -> ProcessManager[Any]:
    given: dict[str, Any] = {
        "key": bank.by_transfer,
        "query": select(types=[TransferRequested]),
        "initial_state": (),
        "evolve": lambda state, event: (*state, type(event.data).__name__),
        "commands": bank.COMMANDS,
        **options,
    }
    return ProcessManager("order", react=react, **given)


def test_a_reaction_that_raises_holds_up_that_instance_alone(url: str) -> None:
    def react(state: Any, event: Any) -> list[Any]:
        if event.data.amount < 0:
            raise ValueError("less than nothing")
        return [Done()]

    order = react_with(react)
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", -1))])
        es.append([request("2", TransferRequested("a", "b", 1))])
        wait_for(es, order, "2", "done")
        assert "less than nothing" in wait_for(es, order, "1", "stuck").stuck


def test_events_of_a_reaction_that_no_codec_knows_hold_up_that_instance_alone(url: str) -> None:
    order = react_with(lambda state, event: [Event("ledger-1", Open())])
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        assert "not registered with the codec" in wait_for(es, order, "1", "stuck").stuck


def test_events_of_a_reaction_are_recorded_once(url: str) -> None:
    order = react_with(lambda state, event: [Event("ledger-1", Deposited(1)), Done()])
    with leftfold.open(url, bank.app_of(order)) as es:
        es.append([request("1", TransferRequested("a", "b", 1))])
        for _ in range(2):
            with es.running():
                wait_for(es, order, "1", "done")
            redelivered(es, "order")
        assert len([*es.read(select("ledger-1"))]) == 1


def test_a_command_to_an_unknown_decider_waits_for_repair(url: str) -> None:
    order = react_with(lambda state, event: [Send("shop", "1", Deposit(1))])
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        found = wait_for(es, order, "1", "stuck")
        assert "the App has no decider 'shop', it has 'account'" in found.stuck


@pytest.mark.parametrize(
    "key", [lambda event: event.data.order, lambda event: "", lambda event: 1.5, lambda event: True]
)
def test_an_event_whose_key_cannot_be_had_waits_and_holds_up_nobody(key: Any) -> None:
    def by(event: Any) -> Any:
        return "1" if event.data.amount else key(event)

    order = react_with(lambda state, event: [Done()], key=by)
    with leftfold.open("memory://", bank.app_of(order)) as es, es.running():
        es.append([request("0", TransferRequested("a", "b", 0))])
        es.append([request("1", TransferRequested("a", "b", 1))])
        wait_for(es, order, "1", "done")
        [waiting] = eventually(lambda: es.projections.quarantine("order"), "one waits")
        assert waiting.key == '["request-0"]'


def test_an_event_of_no_instance_is_passed_over() -> None:
    order = react_with(lambda state, event: [Done()], key=lambda event: None)
    with leftfold.open("memory://", bank.app_of(order)) as es:
        token = es.append([request("1", TransferRequested("a", "b", 1))]).token
        with es.running():
            eventually(
                lambda: es.projections.status("order")[0].position >= int(token), "it is passed"
            )
        assert es.head() == 1


def test_calls_to_the_outside_are_repeated_with_one_key_until_they_succeed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leftfold.process.stepping.PAUSE_US", 1_000)
    keys: list[str] = []

    def charge(request: Deposit, key: str) -> None:
        keys.append(key)
        if len(keys) < 3:
            raise ConnectionError("the line is dead")

    def react(state: Any, event: Any) -> list[Any]:
        return [Done()] if event.data == StepDone("pay") else [Call("bank", Deposit(1), step="pay")]

    order = react_with(react, calls={"bank": charge})
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        wait_for(es, order, "1", "done")
    assert keys == ["order-1:pay"] * 3


@pytest.mark.parametrize(
    ("error", "attempts", "reason"),
    [(Declined("no card"), 1, "no card"), (OSError("dead"), 2, "had no answer")],
)
def test_a_call_that_is_declined_or_never_succeeds_is_compensated(
    error: Exception, attempts: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leftfold.process.stepping.PAUSE_US", 1_000)
    calls: list[str] = []

    def charge(request: Deposit, key: str) -> None:
        calls.append(key)
        raise error

    def react(state: Any, event: Any) -> list[Any]:
        if isinstance(event.data, StepRejected | NoAnswer):
            return []
        return [Call("bank", Deposit(1), step="pay")]

    order = react_with(react, calls={"bank": charge}, call_attempts_max=2)
    with leftfold.open("memory://", bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        assert reason in wait_for(es, order, "1", "compensated").reason
    assert len(calls) == attempts


def test_only_a_process_runs_with_its_read_model(url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es, es.running(only=["transfer"]):
        fund(es, a=1)
        es.append([request("1", TransferRequested("a", "b", 1))])
        wait_for(es, transfers, "1", "compensated")
        eventually(lambda: es.projections.status("transfer_instances"), "its rows are built")


def test_names_of_processes_are_their_own() -> None:
    order = react_with(lambda state, event: [])
    with pytest.raises(InvalidInput, match="two deciders or processes of category 'order'"):
        App(codec=bank.codec, processes=[order, order])
    wrong: Any = bank.accounts
    with pytest.raises(InvalidInput, match="processes of the App are of ProcessManager"):
        App(codec=bank.codec, processes=[wrong])


def test_a_process_that_begins_now_leaves_out_what_was_before() -> None:
    order = react_with(lambda state, event: [Done()], start="now")
    with leftfold.open("memory://", bank.app_of(order)) as es:
        es.append([request("1", TransferRequested("a", "b", 1))])
        with es.running():
            es.append([request("2", TransferRequested("a", "b", 1))])
            wait_for(es, order, "2", "done")
        assert instance(es, order, "1").status == "new"
