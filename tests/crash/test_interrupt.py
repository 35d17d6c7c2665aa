"""Ctrl-C in the middle of appends and reads: the file is whole, and the store can be used."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import apsw
import crash_anywhere
import crash_handling
import crash_interrupted
import crash_writer
import pytest

import leftfold
from leftfold import Event, select
from leftfold.drive import run_sync
from leftfold.stores.sqlite import SqliteStore
from leftfold.testing.faults import seeds
from leftfold.testing.history import check


@pytest.mark.parametrize(
    "interrupts", [(150, 0), (0, 1500)], ids=["of appends", "of the reads between them"]
)
def test_a_program_that_is_interrupted_again_and_again(tmp_path, interrupts):
    for seed in seeds(2):
        path = tmp_path / f"{seed}.db"
        arguments = [path, seed, *interrupts]
        command = [sys.executable, crash_interrupted.__file__, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, timeout=250, check=False)

        assert done.returncode == 0, done.stderr.decode()
        connection = apsw.Connection(str(path))
        assert connection.pragma("integrity_check") == "ok"
        connection.close()
        with leftfold.open(f"sqlite:///{path}") as events:
            check(list(events.read()), crash_writer.told(done.stdout.splitlines(keepends=True)))


def test_commands_that_are_interrupted_again_and_again(tmp_path):
    for seed in seeds(2):
        arguments = [tmp_path / f"{seed}.db", seed, 300]
        command = [sys.executable, crash_handling.__file__, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, timeout=250, check=False)

        assert done.returncode == 0, done.stderr.decode()
        assert int(done.stdout) > 300


@pytest.mark.parametrize(
    ("use", "stores"),
    [
        *((use, "warm") for use in crash_anywhere.WARM),
        *((use, "fresh") for use in crash_anywhere.FRESH),
    ],
)
def test_an_interrupt_at_every_bytecode(tmp_path, use, stores):
    """Neither this thread, nor another one, nor another store of the file is in its way."""
    command = [sys.executable, crash_anywhere.__file__, tmp_path / "log.db", use, stores]
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=250, check=False
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200, "hardly any place was found"


@pytest.fixture
def store(tmp_path) -> Iterator[SqliteStore]:
    with ExitStack() as stack:
        store = SqliteStore(str(tmp_path / "log.db"))
        stack.callback(lambda: run_sync(store.close()))
        yield store


def in_the_middle_of_an_append(store: SqliteStore, action: Callable[[], object]) -> None:
    """As a signal handler or a finalizer would, which runs between two bytecodes."""

    def clock() -> int:
        action()
        return 1

    store._writer._clock = clock
    run_sync(store.append([Event("outer", b"{}", type="A")]))
    store._writer._clock = lambda: 1


REFUSED = {
    "append": lambda store: store.append([Event("inner", b"{}", type="A")]),
    "close": lambda store: store.close(),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("is_busy", [False, True])
def test_what_comes_in_the_middle_of_an_append_is_refused(store, what, is_busy):
    def act() -> None:
        store._group._expected = 2 * is_busy
        with pytest.raises(leftfold.StoreUnavailable, match="in the middle"):
            run_sync(REFUSED[what](store))
        store._group._expected = 0

    in_the_middle_of_an_append(store, act)

    assert [each.stream for each in run_sync(store.read())] == ["outer"]
    run_sync(store.append([Event("later", b"{}", type="A")]))


def test_a_read_in_the_middle_of_an_append_sees_what_was_there_before(store):
    seen = []

    def read() -> None:
        seen.append(run_sync(store.head()))
        seen.append(run_sync(store.read(select("outer"))))

    in_the_middle_of_an_append(store, read)

    assert seen == [0, []]
    assert run_sync(store.head()) == 1


def test_an_append_in_the_middle_of_a_read_is_refused_or_recorded(store, monkeypatch):
    """It is the read that decides: one that uses the writer's connection is in its way."""
    run_sync(store.append([Event("first", b"{}", type="A")]))
    outcomes = []

    def append(*args: object) -> list[Any]:
        try:
            outcomes.append(run_sync(store.append([Event("inner", b"{}", type="A")])).position)
        except leftfold.StoreUnavailable:
            outcomes.append(None)
        return []

    monkeypatch.setattr("leftfold.stores.sqlite.reader._recorded", append)
    run_sync(store.read(select("first")))
    run_sync(store.read())

    assert outcomes == [None, 2]


def test_a_read_in_the_middle_of_a_read(store, monkeypatch):
    run_sync(store.append([Event("first", b"{}", type="A")]))
    heads = []

    def look(*args: object) -> list[Any]:
        heads.append(run_sync(store.head()))
        return []

    monkeypatch.setattr("leftfold.stores.sqlite.reader._recorded", look)
    run_sync(store.read(select("first")))
    run_sync(store.read())

    assert heads == [1, 1]
