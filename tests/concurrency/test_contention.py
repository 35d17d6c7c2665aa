"""Threads of processes append to the same streams and tags while others read: the history is
sound.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import concurrent_worker as worker
import pytest

import leftfold
from leftfold import Appended, EventStore, StoreClosed
from leftfold.stores.sqlite import SqliteStore
from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.testing.faults import FaultyVfs, seeds
from leftfold.testing.history import Attempt, Outcome, RandomWriter, check


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Threads take turns more often than they usually do, also in the middle of a function."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def url_of(path: Path) -> str:
    # Patience, for a machine that has little time for each of so many writers.
    return f"sqlite:///{path}?busy_timeout_s=100"


def count_outcomes(attempts: list[Attempt]) -> dict[str, int]:
    acknowledged = [each for each in attempts if isinstance(each.outcome, Appended)]
    return {
        "acknowledged": len(acknowledged),
        "repeated": len(acknowledged) - len({each.event_ids for each in acknowledged}),
        "conflicts": sum(each.outcome is Outcome.CONFLICT for each in attempts),
    }


def test_threads_of_processes(tmp_path):
    for seed in seeds(1):
        url = url_of(tmp_path / f"{seed}.db")
        started = [("write", url, name, seed, 8, 60) for name in "abcd"]
        processes = worker.processes(("watch", url), *started)
        with processes as (watcher, *writers), leftfold.open(url) as events:
            with worker.watching(events) as sightings:
                attempts = [attempt for each in writers for attempt in worker.finish(each)]
            check(list(events.read()), attempts, sightings + worker.finish(watcher))
        outcomes = count_outcomes(attempts)
        assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize("scheme", ["sqlite", "memory"])
def test_threads_of_one_store(tmp_path, scheme):
    for seed in seeds(2):
        url = "memory://" if scheme == "memory" else url_of(tmp_path / f"{seed}.db")
        with leftfold.open(url) as events:
            with worker.watching(events) as sightings:
                attempts = worker.write(events, "one", seed, 8, 100)
            check(list(events.read()), attempts, sightings)
        outcomes = count_outcomes(attempts)
        assert min(outcomes.values()) > 0, outcomes


def test_stores_of_one_process_that_share_a_file(tmp_path):
    """Each of them remembers heads and versions: none may trust them when another has written."""
    for seed in seeds(3):
        url = url_of(tmp_path / f"{seed}.db")
        stores = [leftfold.open(url) for _ in range(3)]
        attempts: list[Attempt] = []
        writers = [
            RandomWriter(events, f"{number}", seed, attempts.append)
            for number, events in enumerate(stores)
        ]
        # They take turns, so that a stale memory meets no lock that would hide it.
        for number in range(300):
            writers[number * 7 % 3].step()
        check(list(stores[0].read()), attempts)
        for events in stores:
            events.close()


@pytest.fixture
def vfs() -> Iterator[FaultyVfs]:
    with FaultyVfs() as vfs:
        yield vfs


def test_a_store_that_is_closed_while_it_is_used(tmp_path, vfs):
    for seed in seeds(30):
        path = tmp_path / f"{seed}.db"
        events = EventStore(SqliteStore(str(path), SqliteOptions(vfs=vfs.name)))
        attempts: list[Attempt] = []
        # Closed when so many attempts have been told of.
        enough = threading.Event()
        left = count(seed % 40 + 1, -1)

        def note(attempt: Attempt, attempts=attempts, left=left, enough=enough) -> None:
            attempts.append(attempt)
            if next(left) <= 0:
                enough.set()

        def append_until_closed(number: int, seed=seed, events=events, note=note) -> None:
            writer = RandomWriter(events, f"{number}", seed, note)
            with suppress(StoreClosed):
                while True:
                    writer.step()

        def read_until_closed(events=events) -> None:
            with suppress(StoreClosed):
                while True:
                    list(events.read(limit=20))

        using = worker.Threads(
            [lambda number=number: append_until_closed(number) for number in range(6)]
            + [read_until_closed] * 3
        )
        assert enough.wait(worker.STUCK_S)
        events.close()
        using.join()

        with pytest.raises(StoreClosed):
            events.head()
        assert vfs.open_files == 0, "a connection was left open"
        with leftfold.open(f"sqlite:///{path}") as again:
            check(list(again.read()), attempts)
