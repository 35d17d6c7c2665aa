"""Subscriptions while other processes write: every event once and in order, a clean end, and
nothing left behind by those who stop listening.
"""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator

import concurrent_worker as worker
import pytest

import leftfold
from leftfold import ALL, AsyncEventStore, Event, EventStore, Query, select
from leftfold.drive import BlockingDriver, LoopDriver, run_sync
from leftfold.stores import doorbell
from leftfold.stores.doorbell import POLL_S, POLLER_LOST_S, Doorbell
from leftfold.testing.faults import FaultyVfs, seeds

STUCK_S = 60
QUERIES = [
    ALL,
    select("shared-1"),
    select(tags=["seat:0"]),
    select(types=["Held"]) | select("last"),
]


@pytest.fixture
def vfs() -> Iterator[FaultyVfs]:
    with FaultyVfs() as vfs:
        yield vfs


def first_events() -> list[Event[bytes]]:
    """More than a page of events for each query."""
    return [Event("shared-1", b"{}", type="Held", tags=("seat:0",)) for _ in range(1100)]


def last_events() -> list[Event[bytes]]:
    """What ends a run: each query matches one of them."""
    return [
        Event("shared-1", b"{}", type="Freed"),
        Event("last", b"{}", type="Freed", tags=("seat:0",)),
    ]


def write(url: str, seed: int) -> None:
    """Let two processes write."""
    with worker.processes(*(("write", url, name, seed, 3, 60) for name in "ab")) as processes:
        for process in processes:
            worker.finish(process)


class Consumer(threading.Thread):
    """Follows a query in a thread, until the subscription ends."""

    def __init__(self, events: EventStore, query: Query, after: int) -> None:
        super().__init__(daemon=True)
        self.subscription = events.subscribe(query, after=after)
        self.query, self.after = query, after
        self.delivered: list[leftfold.RecordedEvent[bytes]] = []
        self.start()

    def run(self) -> None:
        self.delivered.extend(self.subscription)

    def wait_for(self, position: int) -> None:
        deadline = time.monotonic() + STUCK_S
        while not any(event.position >= position for event in self.delivered[-1:]):
            assert time.monotonic() < deadline, "an event was never delivered"
            time.sleep(0.001)


@pytest.mark.parametrize("closed", ["subscription", "store"])
def test_each_event_is_delivered_once_and_in_order(tmp_path, closed):
    for seed in seeds(2):
        url = f"sqlite:///{tmp_path / f'{seed}.db'}?busy_timeout_s=100"
        with leftfold.open(url) as log, leftfold.open(url) as events:
            log.append(first_events())
            consumers = [Consumer(events, query, after) for query in QUERIES for after in (0, 40)]
            write(url, seed)
            log.append(last_events())
            expected = {query: list(log.read(query)) for query in QUERIES}
            for consumer in consumers:
                consumer.wait_for(expected[consumer.query][-1].position)
            if closed == "store":
                events.close()
            for consumer in consumers:
                consumer.subscription.close()  # from this thread, while it waits in its own
                consumer.join(STUCK_S)
                assert not consumer.is_alive(), "a closed subscription goes on"
                assert consumer.delivered == [
                    event for event in expected[consumer.query] if event.position > consumer.after
                ]


@pytest.mark.parametrize("closed", ["subscription", "store"])
def test_each_event_is_delivered_once_and_in_order_to_tasks(tmp_path, closed):
    async def main(seed: int) -> None:
        url = f"sqlite:///{tmp_path / f'{seed}.db'}?busy_timeout_s=100"
        events = await leftfold.aopen(url)
        await events.append(first_events())
        subscriptions = [events.subscribe(query) for query in QUERIES]
        delivered: list[list] = [[] for _ in QUERIES]
        tasks = [
            asyncio.create_task(collect(*each))
            for each in zip(subscriptions, delivered, strict=True)
        ]
        await asyncio.to_thread(write, url, seed)
        async with await leftfold.aopen(url) as log:
            await log.append(last_events())
            expected = [[event async for event in log.read(query)] for query in QUERIES]
            await asyncio.wait_for(delivery(delivered, expected), STUCK_S)
            if closed == "store":
                await events.close()
            else:
                for subscription in subscriptions:
                    await subscription.aclose()
            await asyncio.wait_for(asyncio.gather(*tasks), STUCK_S)
            assert delivered == expected
        await events.close()

    for seed in seeds(2):
        asyncio.run(main(seed))


async def collect(subscription: leftfold.AsyncSubscription, delivered: list) -> None:
    async for event in subscription:
        delivered.append(event)  # noqa: PERF401 (the list is watched while it grows)


async def delivery(delivered: list[list], expected: list[list]) -> None:
    for found, whole in zip(delivered, expected, strict=True):
        while not found or found[-1].position < whole[-1].position:
            await asyncio.sleep(0.001)


def open_with(tmp_path, vfs: FaultyVfs) -> EventStore:
    return leftfold.open(f"sqlite:///{tmp_path / 'log.db'}?vfs={vfs.name}")


def await_threads(before: set[threading.Thread]) -> None:
    """Threads that were told to end may take a moment."""
    deadline = time.monotonic() + STUCK_S
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, f"left: {set(threading.enumerate()) - before}"
        time.sleep(0.001)


def test_a_consumer_that_stops_leaves_nothing_behind(tmp_path, vfs):
    before = set(threading.enumerate())
    events = open_with(tmp_path, vfs)
    events.append(last_events())
    list(events.read())
    connections = vfs.open_files
    abandoned = []
    for _ in range(50):
        for event in (subscription := events.subscribe()):
            assert event.position == 1
            break
        abandoned.append(weakref.ref(subscription))
    del subscription

    gc.collect()
    assert {reference() for reference in abandoned} == {None}
    assert set(threading.enumerate()) == before
    assert vfs.open_files == connections
    events.append(last_events())
    events.close()
    assert vfs.open_files == 0
    await_threads(before)


def test_a_task_that_stops_or_is_cancelled_leaves_nothing_behind(tmp_path, vfs):
    before = set(threading.enumerate())

    async def stop_early(events: AsyncEventStore) -> None:
        async for event in events.subscribe():
            assert event.position == 1
            break

    async def wait_for_more(events: AsyncEventStore) -> None:
        async for _ in events.subscribe(after=2):
            raise AssertionError

    async def main() -> None:
        events = await leftfold.aopen(f"sqlite:///{tmp_path / 'log.db'}?vfs={vfs.name}")
        await events.append(last_events())
        await asyncio.gather(*(stop_early(events) for _ in range(20)))
        waiting = [asyncio.create_task(wait_for_more(events)) for _ in range(20)]
        await events.head()
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in ended} == {asyncio.CancelledError}
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await events.append(last_events())
        await events.close()
        # A read that a cancelled task had begun may be on its way out.
        deadline = time.monotonic() + STUCK_S
        while vfs.open_files:
            assert time.monotonic() < deadline, "a connection was left open"
            await asyncio.sleep(0.001)

    asyncio.run(main())
    await_threads(before)


def leftfold_objects() -> int:
    gc.collect()
    return sum(str(type(each).__module__).startswith("leftfold") for each in gc.get_objects())


def test_those_who_waited_leave_nothing_behind(tmp_path):
    with leftfold.open(f"sqlite:///{tmp_path / 'log.db'}") as events:
        run_sync(events.store.wait(0, 0))
        before = leftfold_objects()
        for _ in range(200):
            run_sync(events.store.wait(0, 0))
        assert leftfold_objects() - before < 100


def test_tasks_that_waited_leave_nothing_behind(tmp_path):
    async def main() -> None:
        async with await leftfold.aopen(f"sqlite:///{tmp_path / 'log.db'}") as events:
            await events.store.wait(0, 0)
            before = leftfold_objects()
            for _ in range(100):
                await events.store.wait(0, 0)
                waiting = asyncio.create_task(events.store.wait(0, STUCK_S))
                await events.head()
                waiting.cancel()
                await asyncio.wait([waiting])
            assert leftfold_objects() - before < 50

    asyncio.run(main())


def test_closing_the_store_ends_subscriptions_that_wait(tmp_path, vfs):
    before = set(threading.enumerate())
    events = open_with(tmp_path, vfs)
    consumers = [Consumer(events, query, 0) for query in QUERIES]
    first = events.append(last_events()).first_position
    for consumer in consumers:
        consumer.wait_for(first)

    events.close()

    for consumer in consumers:
        consumer.join(STUCK_S)
        assert not consumer.is_alive()
        assert list(consumer.subscription) == []
    assert vfs.open_files == 0
    await_threads(before)


class Head:
    """The head of a log that another process writes to: nothing rings."""

    def __init__(self) -> None:
        self.head = 0
        self.looks = 0

    def __call__(self) -> int:
        self.looks += 1
        return self.head


class Waiter(threading.Thread):
    """Waits at a doorbell, longer than a test may take if not told otherwise."""

    def __init__(self, bell: Doorbell, timeout_s: float = 10 * STUCK_S, *, after: int = 0) -> None:
        super().__init__(daemon=True)
        self._wait = bell.wait(after, timeout_s)
        self.start()

    def run(self) -> None:
        run_sync(self._wait)

    def must_end(self) -> None:
        self.join(STUCK_S)
        assert not self.is_alive(), "it was not told of the news"


def await_poller(bell: Doorbell) -> object:
    deadline = time.monotonic() + STUCK_S
    while bell._poller is None:
        assert time.monotonic() < deadline, "nobody polls"
        time.sleep(0.001)
    return bell._poller


@pytest.fixture
def no_poller_is_lost(monkeypatch) -> None:
    monkeypatch.setattr(doorbell, "POLLER_LOST_S", 100 * STUCK_S)


def test_one_of_those_who_wait_polls_for_all():
    head = Head()
    bell = Doorbell(BlockingDriver(), head)
    began_s = time.monotonic()
    waiters = [Waiter(bell, 0.6) for _ in range(30)]
    for waiter in waiters:
        waiter.must_end()
    took_s = time.monotonic() - began_s
    # Each looks when it comes, goes and takes over, and now and then whether somebody polls.
    assert head.looks < 2 * took_s / POLL_S + 30 * (6 + took_s / POLLER_LOST_S)


@pytest.mark.usefixtures("no_poller_is_lost")
def test_who_polls_tells_all():
    head = Head()
    bell = Doorbell(BlockingDriver(), head)
    waiters = [Waiter(bell) for _ in range(5)]
    await_poller(bell)
    head.head = 1
    for waiter in waiters:
        waiter.must_end()


@pytest.mark.usefixtures("no_poller_is_lost")
def test_who_polls_hands_over_when_it_leaves():
    head = Head()
    bell = Doorbell(BlockingDriver(), head)
    first = Waiter(bell, 0.05)
    await_poller(bell)
    others = [Waiter(bell) for _ in range(3)]
    first.must_end()
    await_poller(bell)
    head.head = 1
    for waiter in others:
        waiter.must_end()


@pytest.mark.usefixtures("no_poller_is_lost")
def test_a_task_that_polls_hands_over_when_it_is_cancelled():
    async def main() -> None:
        head, driver = Head(), LoopDriver()
        bell = Doorbell(driver, head)
        tasks = [asyncio.create_task(bell.wait(0, 10 * STUCK_S)) for _ in range(4)]
        for task in tasks[:-1]:
            while bell._poller is None:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
        head.head = 1
        await asyncio.wait_for(tasks[-1], STUCK_S)
        driver.close()

    asyncio.run(main())


def test_who_polls_may_be_lost(monkeypatch):
    """As when an interrupt (Ctrl-C) comes where it should have handed over."""
    monkeypatch.setattr(doorbell, "POLLER_LOST_S", 0.05)
    head = Head()
    bell = Doorbell(BlockingDriver(), head)
    lost = bell._poller = object()
    bell._polled_s = time.monotonic()
    waiters = [Waiter(bell) for _ in range(3)]
    deadline = time.monotonic() + STUCK_S
    while bell._poller is lost:
        assert time.monotonic() < deadline, "nobody polls in its place"
        time.sleep(0.001)
    head.head = 1
    for waiter in waiters:
        waiter.must_end()


@pytest.mark.usefixtures("no_poller_is_lost")
def test_who_waits_for_what_is_far_ahead_tells_others_of_what_comes_before():
    head = Head()
    bell = Doorbell(BlockingDriver(), head)
    far = Waiter(bell, after=100)
    poller = await_poller(bell)
    for position in range(1, 4):
        near = Waiter(bell, after=position - 1)
        head.head = position
        near.must_end()
    assert far.is_alive()
    assert bell._poller is poller
    head.head = 101
    far.must_end()
