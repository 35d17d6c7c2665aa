"""Many tasks on one store of an event loop, which no sync of the disk ever holds up."""

import asyncio
import threading
from collections.abc import Iterator
from random import Random

import pytest

import leftfold
from leftfold import (
    AppendConditionFailed,
    Appended,
    AsyncEventStore,
    Event,
    NoneMatch,
    StreamVersion,
    select,
)
from leftfold.testing.faults import FaultyVfs, seeds
from leftfold.testing.history import Attempt, Outcome, check

TASKS = 100
STUCK_S = 60


@pytest.fixture
def vfs() -> Iterator[FaultyVfs]:
    with FaultyVfs() as vfs:
        yield vfs


class LoopMustTurn:
    """A sync that takes until the event loop has turned: it never ends where the loop waits for
    it.
    """

    def __init__(self, vfs: FaultyVfs) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self.syncs = 0
        self.blocked = 0
        vfs.on_sync = self._sync

    def _sync(self, path: str) -> None:
        self.syncs += 1
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        on_loop = threading.get_ident() == self._loop_thread
        if on_loop or not turned.wait(STUCK_S):
            self.blocked += 1


class Writer:
    """A task that appends under conditions and notes its attempts."""

    def __init__(self, events: AsyncEventStore, number: int, seed: int) -> None:
        self._store = events
        self._random = Random(f"{number} {seed}")
        self._own = f"own-{number}"
        self.attempts: list[Attempt] = []

    async def run(self, steps: int) -> None:
        for version in range(steps):
            await self._append(
                [Event(self._own, b"{}", type="A")], [StreamVersion(self._own, version)]
            )
            await self._append_to_shared()

    async def _append_to_shared(self) -> None:
        tag = f"tag:{self._random.randrange(10)}"
        last = [event async for event in self._store.read(select(tags=[tag]))][-1:]
        condition = NoneMatch(select(tags=[tag]), after=last[0].position if last else 0)
        new = [Event(name, b"{}", type="B", tags=(tag,)) for name in ("shared", self._own[::-1])]
        await self._append(new, [condition])

    async def _append(self, new: list[Event[bytes]], conditions: list) -> None:
        outcome: Appended | Outcome = Outcome.UNKNOWN
        try:
            outcome = await self._store.append(new, conditions=conditions)
        except AppendConditionFailed:
            outcome = Outcome.CONFLICT
        finally:
            # A cancelled append is unknown.
            self.attempts.append(Attempt.of(new, conditions, outcome))


def test_a_hundred_tasks_and_a_loop_that_turns(tmp_path, vfs):
    async def main(seed: int) -> None:
        loop_must_turn = LoopMustTurn(vfs)
        url = f"sqlite:///{tmp_path / f'{seed}.db'}?vfs={vfs.name}"
        async with await leftfold.aopen(url) as events:
            writers = [Writer(events, number, seed) for number in range(TASKS)]
            await asyncio.wait_for(asyncio.gather(*(each.run(4) for each in writers)), STUCK_S * 4)
            log = [event async for event in events.read()]
        check(log, [attempt for each in writers for attempt in each.attempts])
        assert loop_must_turn.blocked == 0, "the event loop waited for the disk"
        # Tasks that wait together share syncs.
        assert 0 < loop_must_turn.syncs < len(log)

    for seed in seeds(1):
        asyncio.run(main(seed))


def test_cancelled_appends_are_whole_or_not_there(tmp_path):
    async def main(seed: int) -> None:
        random = Random(seed)
        async with await leftfold.aopen(f"sqlite:///{tmp_path / f'{seed}.db'}") as events:
            writers = [Writer(events, number, seed) for number in range(30)]
            tasks = [asyncio.create_task(each.run(20)) for each in writers]
            for task in random.sample(tasks, 25):
                for _ in range(random.randrange(30)):
                    await asyncio.sleep(0)
                task.cancel()
            ended = await asyncio.wait_for(
                asyncio.gather(*tasks, return_exceptions=True), STUCK_S * 4
            )
            assert {type(each) for each in ended} <= {type(None), asyncio.CancelledError}
        with leftfold.open(f"sqlite:///{tmp_path / f'{seed}.db'}") as again:
            check(list(again.read()), [attempt for each in writers for attempt in each.attempts])

    for seed in seeds(3):
        asyncio.run(main(seed))


def test_closing_lets_waiting_tasks_go(tmp_path):
    async def main() -> None:
        events = await leftfold.aopen(f"sqlite:///{tmp_path / 'log.db'}")
        writers = [Writer(events, number, 1) for number in range(30)]
        tasks = [asyncio.create_task(each.run(100)) for each in writers]
        await writers[0].run(2)
        await asyncio.wait_for(events.close(), STUCK_S)
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), STUCK_S)
        assert {type(each) for each in ended} == {leftfold.StoreClosed}
        with leftfold.open(f"sqlite:///{tmp_path / 'log.db'}") as again:
            check(list(again.read()), [attempt for each in writers for attempt in each.attempts])

    asyncio.run(main())
