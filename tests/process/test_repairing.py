"""Instances that wait to be repaired: listed, shown, tried again, skipped, cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import process_bank as bank
import pytest
from process_bank import Deposit, Open, TransferRequested
from process_support import eventually, request, types, wait_for

import leftfold
from leftfold import InvalidInput, select
from leftfold.process import Done, ProcessManager, Send


def process(react: Any, **options: Any) -> ProcessManager[Any]:
    return ProcessManager(
        "order",
        key=options.pop("key", bank.by_transfer),
        query=select(types=[TransferRequested]),
        initial_state=(),
        evolve=lambda state, event: (*state, type(event.data).__name__),
        react=lambda state, event: react(event.data),
        commands=bank.COMMANDS,
        **options,
    )


def seen(es: leftfold.EventStore, status: str) -> list[Any]:
    return list(eventually(lambda: es.processes.list(status=status), f"one is {status}"))


def test_what_is_stuck_is_listed_shown_and_tried_again(url: str) -> None:
    faulty = [True]

    def react(data: Any) -> list[Any]:
        if faulty:
            raise ValueError("not yet")
        return [Done()]

    order = process(react)
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        [found] = seen(es, "stuck")
        assert (found.process, found.key, found.held) == ("order", "1", 1)
        assert "ValueError: not yet" in found.reason
        shown = es.processes.show("order", "1")
        assert shown.held[0].data == TransferRequested("a", "b", 1)
        faulty.clear()
        assert es.processes.retry("order", "1", actor="ada").status == "done"
        log = [*es.read(select("order-1"))]
        [retried] = [each for each in log if each.type == "process.Retried"]
        assert (retried.data.actor, retried.metadata.actor) == ("ada", "ada")
        assert seen(es, "done")[0].held == 0
        with pytest.raises(InvalidInput, match="is not stuck"):
            es.processes.retry("order", "1", actor="ada")


def test_a_compensation_that_cannot_be_is_repaired(url: str) -> None:
    def react(data: Any) -> list[Any]:
        if isinstance(data, TransferRequested):
            back = Send("account", "spare", Deposit(1))
            return [Send("account", "a", Deposit(1), step="one", compensate=back)]
        return (
            [Send("account", "nobody", Deposit(1), step="two")] if "StepDone" in str(data) else []
        )

    order = process(react)
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.handle(bank.accounts, "a", Open())
        es.append([request(key, TransferRequested("a", "b", 1)) for key in ("1", "2", "3")])
        for key in ("1", "2", "3"):
            assert "undo one" in wait_for(es, order, key, "stuck").stuck
        es.processes.skip("order", "2", reason="by hand", actor="ada")
        wait_for(es, order, "2", "compensated")
        es.processes.cancel("order", "3", reason="enough", actor="ada", compensate=False)
        wait_for(es, order, "3", "cancelled")
        es.handle(bank.accounts, "spare", Open())
        es.processes.retry("order", "1", actor="ada")
        wait_for(es, order, "1", "compensated")
        assert es.state(bank.accounts, "spare").balance == 1


def test_a_process_is_cancelled_and_its_steps_are_taken_back(url: str) -> None:
    def react(data: Any) -> list[Any]:
        if not isinstance(data, TransferRequested):
            return []
        sent = Send("account", "a", Deposit(1), step="pay", compensate=bank.Withdraw(1))
        return [sent]

    order = process(react)
    with leftfold.open(url, bank.app_of(order)) as es, es.running():
        es.handle(bank.accounts, "a", Open())
        es.append([request("1", TransferRequested("a", "b", 1))])
        eventually(lambda: "StepDone" in types(es, "order-1"), "it is paid")
        es.processes.cancel("order", "1", reason="fraud", actor="ada")
        assert wait_for(es, order, "1", "cancelled").reason == "fraud"
        assert es.state(bank.accounts, "a").balance == 0


def test_what_could_not_even_be_recorded_is_listed_and_tried_again() -> None:
    broken = [True]

    def key(event: Any) -> str:
        if broken:
            raise KeyError("order")
        return "1"

    order = process(lambda data: [Done()], key=key)
    with leftfold.open("memory://", bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        eventually(lambda: [each.held for each in es.processes.list()] == [1], "it waits")
        [found] = seen(es, "stuck")
        assert found.key == "request-1"
        assert "KeyError" in found.reason
        broken.clear()
        with pytest.raises(InvalidInput, match="its actor"):
            es.processes.retry("order", "request-1", actor=" ")
        es.processes.retry("order", "request-1", actor="ada")
        wait_for(es, order, "1", "done")


def test_bad_repairs_are_refused() -> None:
    order = process(lambda data: [])
    with leftfold.open("memory://", bank.app_of(order)) as es, es.running():
        es.append([request("1", TransferRequested("a", "b", 1))])
        seen(es, "running")
        calls: list[tuple[str, Any]] = [
            ("no process 'shop'", lambda: es.processes.show("shop", "1")),
            ("no instance '9'", lambda: es.processes.show("order", "9")),
            ("status is one of", lambda: es.processes.list(status="odd")),
            ("no instance .9", lambda: es.processes.retry("order", "9", actor="ada")),
            ("its actor", lambda: es.processes.retry("order", "1", actor="")),
            ("its reason", lambda: es.processes.skip("order", "1", reason=" ", actor="ada")),
            ("name the step", lambda: es.processes.skip("order", "1", reason="x", actor="ada")),
            ("no instance .9", lambda: es.processes.cancel("order", "9", reason="x", actor="a")),
        ]
        for match, call in calls:
            with pytest.raises(InvalidInput, match=match):
                call()


def test_repairs_from_an_event_loop(tmp_path: Any) -> None:
    order = process(lambda data: [])

    async def main() -> None:
        url = f"sqlite:///{tmp_path}/log.db"
        async with await leftfold.aopen(url, bank.app_of(order)) as es, es.running():
            await es.append([request("1", TransferRequested("a", "b", 1))])
            for _ in range(1000):
                if await es.processes.list("order"):
                    break
                await asyncio.sleep(0.01)
            assert (await es.processes.show("order", "1")).status == "running"
            found = await es.processes.cancel("order", "1", reason="x", actor="ada")
            assert found.status == "cancelled"

    asyncio.run(main())
