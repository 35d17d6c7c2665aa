"""The power is cut at a random operation of the disk: what was acknowledged is there, and whole."""

import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import apsw
import pytest
from msgspec.structs import replace

import leftfold
from leftfold import Appended, EventStore
from leftfold.errors import StoreUnavailable
from leftfold.stores.sqlite import SqliteStore
from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.testing.faults import FaultyVfs, seeds
from leftfold.testing.history import Attempt, Outcome, RandomWriter, check

ROUNDS = 60
OPERATIONS_MAX = 1500
"""The power is cut at most so many writes, syncs and deletions into a run."""


@contextmanager
def run_until_the_power_is_off(path: Path, vfs: FaultyVfs, options: SqliteOptions, seed: int):
    """Every attempt that writers made, with what they were told while the power was on. The power
    is back after the block, so that what is still open can be closed.
    """
    opened: list[EventStore] = []
    try:
        yield attempts_until_the_power_is_off(path, vfs, options, Random(seed), opened)
    finally:
        vfs.heal()
        opened.clear()


def attempts_until_the_power_is_off(
    path: Path, vfs: FaultyVfs, options: SqliteOptions, random: Random, opened: list[EventStore]
) -> list[Attempt]:
    attempts: list[Attempt] = []
    seed = random.randrange(2**32)
    vfs.cut_power(after=random.randrange(OPERATIONS_MAX))
    for number in range(OPERATIONS_MAX):
        if vfs.power_is_off:
            break
        try:
            store = SqliteStore(str(path), options)
        except (StoreUnavailable, apsw.IOError):  # the latter from closing what could not be opened
            assert vfs.power_is_off
            break
        # The store is closed and opened again now and then, which checkpoints and starts a new log.
        events = EventStore(store)
        opened.append(events)
        writers = [
            RandomWriter(events, f"{number}.{each}", seed, attempts.append)
            for each in range(random.choice((1, 1, 3)))
        ]
        steps = [random.randrange(60) for _ in writers]
        run_in_threads(writers, steps, vfs)
        checkpoint_by_chance(path, vfs, random)
        close(events)
    return attempts


def run_in_threads(writers: list[RandomWriter], steps: list[int], vfs: FaultyVfs) -> None:
    def run(writer: RandomWriter, steps: int) -> None:
        while steps and not vfs.power_is_off:
            steps -= 1
            writer.step()

    threads = [threading.Thread(target=run, args=pair) for pair in zip(writers, steps, strict=True)]
    if len(threads) == 1:
        run(writers[0], steps[0])  # the same thread each time: such a seed replays exactly
        return
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def checkpoint_by_chance(path: Path, vfs: FaultyVfs, random: Random) -> None:
    mode = random.choice(("", "PASSIVE", "FULL", "RESTART", "TRUNCATE"))
    if mode and not vfs.power_is_off:
        connection = apsw.Connection(str(path), vfs=vfs.name)
        try:
            connection.pragma(f"wal_checkpoint({mode})")
        except apsw.IOError:
            assert vfs.power_is_off
        close(connection)


def close(what: EventStore | apsw.Connection) -> None:
    """Closing checkpoints, which the lack of power may prevent."""
    with suppress(apsw.IOError, StoreUnavailable):
        what.close()


def log_after_crash(directory: Path) -> list[leftfold.RecordedEvent[bytes]]:
    """The log in what is left, opened with SQLite's own file system, after it has been found in
    order and has taken one more append.
    """
    path = directory / "log.db"
    with leftfold.open(f"sqlite:///{path}") as events:
        log = list(events.read())
        more = events.append([leftfold.Event("after-crash", b"{}", type="Went on")])
        assert more.position == (log[-1].position if log else 0) + 1
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    return log


def crash(tmp_path: Path, seed: int, options: SqliteOptions):
    directory = tmp_path / str(seed)
    (directory / "live").mkdir(parents=True)
    with FaultyVfs() as vfs:
        options = replace(options, vfs=vfs.name)
        path = directory / "live" / "log.db"
        with run_until_the_power_is_off(path, vfs, options, seed) as attempts:
            vfs.crash(directory / "left", seed)
    return attempts, log_after_crash(directory / "left")


def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path):
    acknowledged = 0
    for seed in seeds(ROUNDS):
        attempts, log = crash(tmp_path, seed, SqliteOptions())
        check(log, attempts)
        acknowledged += sum(isinstance(attempt.outcome, Appended) for attempt in attempts)
    assert acknowledged > 0


def test_may_lose_latest_loses_the_latest_and_nothing_else(tmp_path):
    """This also shows that the test above can fail: it is the same, but for the syncs."""
    lossy = 0
    for seed in seeds(ROUNDS // 2):
        attempts, log = crash(tmp_path, seed, SqliteOptions(durability="may_lose_latest"))
        check(log, [doubted(attempt) for attempt in attempts])
        try:
            check(log, attempts)
        except AssertionError as loss:
            assert "G6" in str(loss)  # noqa: PT017
            lossy += 1
    assert lossy > 0


def doubted(attempt: Attempt) -> Attempt:
    """What is left to say of an attempt when acknowledgements count for nothing."""
    told = attempt.outcome
    return replace(attempt, outcome=Outcome.UNKNOWN) if isinstance(told, Appended) else attempt


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_replays(tmp_path, seed):
    path = tmp_path / "live" / "log.db"
    path.parent.mkdir()
    with FaultyVfs() as vfs:
        options = SqliteOptions(vfs=vfs.name)
        with run_until_the_power_is_off(path, vfs, options, seed):
            vfs.crash(tmp_path / "one", seed)
            vfs.crash(tmp_path / "two", seed)

    left = [
        {file.name: file.read_bytes() for file in (tmp_path / copy).iterdir()}
        for copy in ("one", "two")
    ]
    assert left[0] == left[1]
