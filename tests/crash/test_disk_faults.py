"""A disk that is full, or fails to write or to sync: the error tells the truth, nothing is half
written, and the store goes on when the fault is gone.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from math import inf
from pathlib import Path

import pytest

import leftfold
from leftfold import (
    AppendConditionFailed,
    Appended,
    Event,
    EventStore,
    OutcomeUnknown,
    StoreUnavailable,
    StreamVersion,
)
from leftfold.drive import run_sync
from leftfold.stores.group import Append
from leftfold.stores.sqlite import SqliteStore
from leftfold.stores.sqlite.connection import SqliteOptions
from leftfold.stores.sqlite.writer import FULL_IS_CERTAIN
from leftfold.testing.faults import FaultyVfs
from leftfold.testing.history import Attempt, check

HANGS_S = 120
"""After so long a thread counts as stuck."""
CRASHES = 6
"""Power cuts tried at one moment: each leaves something else."""


@pytest.fixture
def vfs(monkeypatch) -> Iterator[FaultyVfs]:
    """SQLite's own file system with faults, and known as such."""
    with FaultyVfs() as vfs:
        own = "leftfold.stores.sqlite.writer.FULL_IS_CERTAIN"
        monkeypatch.setattr(own, {*FULL_IS_CERTAIN, vfs.name})
        yield vfs


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "log.db"


def open_store(path: Path, vfs: FaultyVfs) -> EventStore:
    return EventStore(SqliteStore(str(path), SqliteOptions(vfs=vfs.name)))


@pytest.fixture
def events(vfs, path) -> Iterator[EventStore]:
    with ExitStack() as stack:
        events = stack.enter_context(open_store(path, vfs))
        stack.callback(vfs.heal)
        events.append([Event("first", b"{}", type="A")])
        yield events


def some_events(number: int) -> list[Event[bytes]]:
    """One append: two streams, tags, and data that fills more than a page."""
    streams = ("left", "right") * 3
    return [
        Event(stream, b"x" * 900, type="A", tags=(f"n:{number}", f"{stream}:x"))
        for stream in streams
    ]


def recorded_ids(events: EventStore) -> list:
    return [event.id for event in events.read()]


def ids(events: list[Event[bytes]]) -> list:
    return [event.id for event in events]


def logs_after_power_cut(vfs: FaultyVfs, directory: Path) -> Iterator[EventStore]:
    """What could be found if the power failed now."""
    for seed in range(CRASHES):
        copy = directory / f"after-{vfs.operations}-{seed}"
        vfs.crash(copy, seed)
        with leftfold.open(f"sqlite:///{copy / 'log.db'}") as events:
            yield events


def refused_is_not_there(vfs: FaultyVfs, tmp_path: Path, refused, kept) -> None:
    for left in logs_after_power_cut(vfs, tmp_path):
        assert recorded_ids(left) == kept
        assert left.append(refused).first_position == len(kept) + 1


def test_a_full_disk_refuses_the_append_and_keeps_the_rest(vfs, events, tmp_path):
    kept = recorded_ids(events)
    refusals = 0
    for step in range(40):
        append = some_events(step)
        vfs.bytes_left = step * 2000
        try:
            events.append(append)
        except StoreUnavailable as error:
            assert "the disk is full" in str(error)  # noqa: PT017
            refusals += 1
            assert recorded_ids(events) == kept
            if step % 8 == 0:
                refused_is_not_there(vfs, tmp_path, append, kept)
            vfs.heal()
            events.append(append)
        kept += ids(append)
    assert 0 < refusals < 40
    assert recorded_ids(events) == kept


def test_sqlite_says_which_file_system_is_its_own(tmp_path):
    store = SqliteStore(str(tmp_path / "log.db"))
    assert store._writer._connection.open_vfs in FULL_IS_CERTAIN
    run_sync(store.close())


def test_a_full_disk_of_an_unknown_file_system_leaves_the_outcome_unknown(vfs, events, monkeypatch):
    monkeypatch.setattr("leftfold.stores.sqlite.writer.FULL_IS_CERTAIN", FULL_IS_CERTAIN)
    append = some_events(1)
    vfs.bytes_left = 0
    with pytest.raises(OutcomeUnknown, match="full"):
        events.append(append)
    vfs.heal()
    assert events.append(append).first_position == 2


def test_a_full_disk_is_named_when_a_store_is_created(vfs, path):
    vfs.bytes_left = 10_000
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        open_store(path, vfs)

    vfs.heal()
    with open_store(path, vfs) as events:
        assert events.append([Event("a", b"{}", type="A")]).position == 1


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_store_that_could_not_be_created_can_be_created_later(vfs, path, operation):
    failures = 0
    for nth in range(1, 100):
        vfs.fail(operation, nth)
        try:
            open_store(path, vfs).close()
        except StoreUnavailable:
            failures += 1
            continue
        break
    vfs.heal()
    with open_store(path, vfs) as events:
        assert events.append([Event("a", b"{}", type="A")]).position == 1
    assert failures > 0


def test_a_write_that_fails_while_committing_is_reported_truthfully(vfs, events, tmp_path):
    """Whichever write it is: what is said to be refused does not come back after a crash."""
    kept = recorded_ids(events)
    failures = 0
    for nth in range(1, 100):
        append = some_events(nth)
        vfs.fail("write", nth)
        try:
            events.append(append)
        except StoreUnavailable:
            failures += 1
            refused_is_not_there(vfs, tmp_path, append, kept)
        except OutcomeUnknown as error:
            failures += 1
            assert list(error.event_ids) == ids(append)  # noqa: PT017
        vfs.heal()
        if recorded_ids(events) != kept:
            break
        events.append(append)
        kept += ids(append)
        assert recorded_ids(events) == kept
    assert failures > 5


def test_a_write_that_fails_before_the_commit_refuses_the_append(vfs, path, tmp_path, monkeypatch):
    # A small page cache must write to the log before the transaction is at its end.
    monkeypatch.setattr("leftfold.stores.sqlite.connection.CACHE_KIB", 64)
    append = [Event("large", b"x" * 50_000, type="A") for _ in range(20)]
    with open_store(path, vfs) as events:
        events.append([Event("first", b"{}", type="A")])
        kept = recorded_ids(events)

        vfs.fail("write")
        with pytest.raises(StoreUnavailable, match="nothing was recorded"):
            events.append(append)

        assert recorded_ids(events) == kept
        refused_is_not_there(vfs, tmp_path, append, kept)
        vfs.heal()
        events.append(append)
        assert recorded_ids(events) == kept + ids(append)


def test_a_failing_sync_leaves_the_outcome_unknown(vfs, events, tmp_path):
    append = some_events(1)
    only_once = [StreamVersion("left", 0), StreamVersion("right", 0)]
    kept = recorded_ids(events)
    vfs.fail("sync")

    with pytest.raises(OutcomeUnknown) as caught:
        events.append(append, conditions=only_once)

    assert list(caught.value.event_ids) == ids(append)
    assert recorded_ids(events) == kept
    # Whether the append survives a crash or not, the repeat records it exactly once (G5).
    outcomes = set()
    for left in logs_after_power_cut(vfs, tmp_path):
        outcomes.add(len(recorded_ids(left)))
        assert left.append(append, conditions=only_once) == Appended(2, 7, {"left": 3, "right": 3})
        assert recorded_ids(left) == kept + ids(append)
    assert outcomes == {1, 7}
    assert events.append(append, conditions=only_once).first_position == 2
    assert recorded_ids(events) == kept + ids(append)


def test_what_follows_a_failed_sync_is_durable(vfs, events, tmp_path):
    """The pages of the failed sync may be lost for good; the store must not build on them."""
    kept = recorded_ids(events)
    attempts = [Attempt((kept[0],))]
    for step in range(12):
        append = some_events(step)
        vfs.fail("sync")
        with pytest.raises(OutcomeUnknown):
            events.append(append)
        attempts.append(Attempt.of(append))
        # Shorter or longer than what was lost.
        other = some_events(step)[: 1 + step % 6]
        attempts.append(Attempt.of(other, (), events.append(other)))
        for left in logs_after_power_cut(vfs, tmp_path):
            check(list(left.read()), attempts)


def test_readers_go_on_while_the_disk_fails(vfs, events):
    vfs.fail("sync", times=inf)
    vfs.bytes_left = 0

    with pytest.raises(StoreUnavailable):
        events.append(some_events(1))
    assert len(recorded_ids(events)) == 1
    assert list(events.read(leftfold.select("first")))
    assert events.head() == 1


class Caller(threading.Thread):
    """A thread with one append."""

    def __init__(self, events: EventStore, append: list[Event[bytes]]) -> None:
        super().__init__(daemon=True)
        self._store = events
        self.append = append
        self.calls = threading.Event()
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        self.calls.set()
        try:
            self._store.append(self.append)
        except Exception as error:
            self.error = error


def test_what_a_condition_refused_in_a_failing_group_is_certain(vfs, events):
    """Its neighbours cannot know their outcome; it can."""
    one, two, three = (some_events(number) for number in range(3))
    wrong = StreamVersion("first", 7)
    vfs.fail("sync")

    before, refused, after = events.store._writer.commit(
        [Append(one, ()), Append(two, (wrong,)), Append(three, ())]
    )

    assert isinstance(refused, AppendConditionFailed)
    for outcome, append in ((before, one), (after, three)):
        assert isinstance(outcome, OutcomeUnknown)
        assert list(outcome.event_ids) == ids(append)
    vfs.heal()
    assert len(recorded_ids(events)) == 1


@pytest.mark.parametrize("fault", ["sync", "full"])
def test_everyone_in_a_failing_group_is_told(vfs, events, fault):
    queued = threading.Event()
    vfs.on_sync = lambda _: queued.wait(HANGS_S)
    ahead = Caller(events, some_events(0))
    callers = [Caller(events, some_events(number)) for number in range(1, 9)]
    for caller in (ahead, *callers):
        assert caller.calls.wait(HANGS_S)
    if fault == "sync":
        vfs.fail("sync", times=inf)
    else:
        vfs.bytes_left = 0
    queued.set()

    for caller in (ahead, *callers):
        caller.join(HANGS_S)
        assert not caller.is_alive(), "a caller was left waiting"
    for caller in callers:
        if fault == "sync":
            assert isinstance(caller.error, OutcomeUnknown)
            assert list(caller.error.event_ids) == ids(caller.append)
        else:
            assert isinstance(caller.error, StoreUnavailable)

    vfs.heal()
    repeated = [
        Attempt.of(each.append, (), events.append(each.append)) for each in (ahead, *callers)
    ]
    first, *rest = events.read()
    check([first, *rest], [Attempt((first.id,)), *repeated])
