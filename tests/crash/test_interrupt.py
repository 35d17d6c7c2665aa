"""Ctrl-C in the middle of appends and reads: the file is whole, and the store can be used."""

import dis
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import apsw
import crash_interrupted
import crash_writer
import pytest

import leftfold
from leftfold import Event, select
from leftfold.testing.faults import seeds
from leftfold.testing.history import Attempt, check


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


class Interrupt:
    """Raises KeyboardInterrupt at the `nth` place in the files that read and write where Python
    would handle a signal: after a call.
    """

    def __init__(self, nth: int) -> None:
        self.places_left = nth
        self.hit = ""
        self._previous: dict[FrameType, str] = {}

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, what: str, argument: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.endswith(("sqlite/writer.py", "sqlite/reader.py")):
            return None
        frame.f_trace_opcodes = True
        if what == "opcode":
            previous = self._previous.get(frame, "")
            self._previous[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            self.places_left -= previous.startswith("CALL")
            if not self.places_left:
                self.hit = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.places_left = -1
                raise KeyboardInterrupt
        return self._trace


def appending(events: leftfold.EventStore, new: list[Event[bytes]]) -> None:
    events.append(new, conditions=[leftfold.NoneMatch(select(tags=["other"]))])


def reading(events: leftfold.EventStore, new: list[Event[bytes]]) -> None:
    events.head()
    list(events.read(select(tags=["red"], types=["A"]), limit=2))
    list(events.read(select("shared"), backwards=True, limit=2))
    list(events.read(limit=2))


@pytest.mark.parametrize("use", [appending, reading])
def test_an_interrupt_at_any_place(tmp_path, use):
    attempts: list[Attempt] = []
    url = f"sqlite:///{tmp_path / 'log.db'}?busy_timeout_s=0"
    with leftfold.open(url) as events, leftfold.open(url) as other:
        for nth in range(1, 1000):
            new = [Event(name, b"{}", type="A", tags=("red",)) for name in (f"own-{nth}", "shared")]
            attempts.append(Attempt.of(new))
            interrupt = Interrupt(nth)
            with suppress(KeyboardInterrupt), interrupt:
                use(events, new)
            # Neither this store nor another process is locked out by what was left behind.
            for store in (other, events):
                try:
                    attempts.append(Attempt.of(new, (), store.append(new)))
                except leftfold.StoreUnavailable as error:
                    pytest.fail(f"after an interrupt at {interrupt.hit}: {error}")
            if not interrupt.hit:
                break
        assert nth > 10, "hardly any place was found"
        check(list(events.read()), attempts)
