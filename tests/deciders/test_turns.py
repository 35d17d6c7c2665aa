"""Turns: first come, first served, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

import leftfold.turns
from leftfold.drive import BlockingDriver, LoopDriver, run_sync
from leftfold.turns import Turns

PATIENCE_S = 60


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waiting(turns: Turns, key: str) -> int:
    return len(turns._lines.get(key, ()))


def test_first_come_first_served() -> None:
    turns = Turns(BlockingDriver)
    mine = run_sync(turns.wait("a"))
    order: list[int] = []

    def come(number: int) -> None:
        place = run_sync(turns.wait("a"))
        order.append(number)
        turns.leave(place)

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=come, args=(number,)))
        threads[-1].start()
        until(lambda expected=number + 2: waiting(turns, "a") == expected)
    assert order == []
    assert turns.is_taken("a")
    turns.leave(mine)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == list(range(8))
    assert not turns.is_taken("a")


def test_lines_are_independent() -> None:
    turns = Turns(BlockingDriver)
    places = [run_sync(turns.wait(key)) for key in ("a", "b", "c")]
    for place in (*places, *places):  # leaving twice is harmless
        turns.leave(place)
    assert not any(turns.is_taken(key) for key in ("a", "b", "c"))


def test_whoever_never_leaves_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftfold.turns, "TURN_S_MAX", 0.01)
    turns = Turns(BlockingDriver)
    lost = run_sync(turns.wait("a"))
    places = [run_sync(turns.wait("a")) for _ in range(3)]  # each passes the one before over
    turns.leave(lost)
    for place in places:
        turns.leave(place)
    assert not turns.is_taken("a")


def test_a_cancelled_task_leaves_the_line() -> None:
    async def main() -> None:
        turns = Turns(LoopDriver)
        first = await turns.wait("a")
        tasks = [asyncio.ensure_future(turns.wait("a")) for _ in range(3)]
        while waiting(turns, "a") < 4:
            await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.gather(*tasks[:2], return_exceptions=True)
        assert waiting(turns, "a") == 2
        turns.leave(first)
        turns.leave(await asyncio.wait_for(tasks[2], PATIENCE_S))
        assert not turns.is_taken("a")

    asyncio.run(main())


def test_a_task_that_is_cancelled_when_its_turn_comes_hands_it_on() -> None:
    async def main() -> None:
        turns = Turns(LoopDriver)
        first = await turns.wait("a")
        tasks = [asyncio.ensure_future(turns.wait("a")) for _ in range(2)]
        while waiting(turns, "a") < 3:
            await asyncio.sleep(0)
        turns.leave(first)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        turns.leave(await asyncio.wait_for(tasks[1], PATIENCE_S))
        assert not turns.is_taken("a")

    asyncio.run(main())
