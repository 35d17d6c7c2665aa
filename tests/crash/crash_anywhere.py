"""A process that interrupts what it does with a store at every bytecode, one after the other.

Run with: file, what to do, "warm" (one store for all) or "fresh" (a new one for each). After each
interrupt the store has to serve this thread and another one, not to be in the way of another store
of the same file, and to close. Prints how many interrupts there were.
"""

import faulthandler
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import leftfold
from leftfold import AppendConditionFailed, Event, EventStore, NoneMatch, select
from leftfold.drive import run_sync
from leftfold.testing.history import Attempt, check

STUCK_S = 60
"""After so long this process says where it is stuck, and exits."""
PLACES_MAX = 20_000
SOURCES = str(Path(leftfold.__file__).parent / "stores")


class Interrupt:
    """Raises KeyboardInterrupt before the `nth` bytecode of the stores that this thread comes to.

    Python looks for signals at some of these places; at which of them depends on its release.
    """

    def __init__(self, nth: int) -> None:
        self.places_left = nth
        self.hit = ""

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, what: str, argument: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        frame.f_trace_opcodes = True
        if what == "opcode":
            self.places_left -= 1
            if not self.places_left:
                self.hit = f"{frame.f_code.co_filename}:{frame.f_lineno} +{frame.f_lasti}"
                raise KeyboardInterrupt
        return self._trace


def new_events(name: str) -> list[Event[bytes]]:
    return [Event(stream, b"{}", type="A", tags=("red",)) for stream in (name, "shared")]


FIRST = new_events("first")


def append(events: EventStore, new: list[Event[bytes]]) -> None:
    events.append(new, conditions=[NoneMatch(select(tags=["other"]) | select("none"))])


def append_in_vain(events: EventStore, new: list[Event[bytes]]) -> None:
    with suppress(AppendConditionFailed):
        events.append(new, conditions=[NoneMatch(select("shared"))])


def append_again(events: EventStore, new: list[Event[bytes]]) -> None:
    events.append(FIRST)


def append_in_group(events: EventStore, new: list[Event[bytes]]) -> None:
    events.store._group._expected = 2  # as if there had been two before
    events.append(new)


def read_narrowly(events: EventStore, new: list[Event[bytes]]) -> None:
    list(events.read(select("shared"), backwards=True, limit=2))
    list(events.read(select(tags=["red"], types=["A"]), limit=2))


def read_widely(events: EventStore, new: list[Event[bytes]]) -> None:
    list(events.read(limit=2))
    list(events.read(select(category="shared"), limit=2))


def wait(events: EventStore, new: list[Event[bytes]]) -> None:
    run_sync(events.store.wait(events.head(), 0.0001))


def close(events: EventStore, new: list[Event[bytes]]) -> None:
    events.close()


APPENDS = (append, append_in_vain, append_again, append_in_group)
USES = {use.__name__: use for use in (*APPENDS, read_narrowly, read_widely, wait, close)}
FRESH = ("append_in_group", "read_widely", "close")
"""What does something on the first time only, or can be done once."""
WARM = tuple(name for name in USES if name != "close")


class Checked:
    """Uses a store after each interrupt, in every way."""

    def __init__(self, path: str, use: Callable[..., None]) -> None:
        self._url = f"sqlite:///{path}?busy_timeout_s=20&durability=may_lose_latest"
        self._use = use
        self._attempts: list[Attempt] = []
        self._other = leftfold.open(self._url)
        self._append(self._other, FIRST)

    def run(self, is_warm: bool) -> int:
        events = self._open()
        if is_warm:
            self._interrupt(events, 0)
        for nth in range(1, PLACES_MAX):
            if not is_warm:
                events = self._open()
            hit = self._interrupt(events, nth)
            if not is_warm or not hit:
                events.close()
            if not hit:
                check(list(self._other.read()), self._attempts)
                return nth - 1
        raise AssertionError("there is no end")

    def _open(self) -> EventStore:
        return leftfold.open(self._url)

    def _interrupt(self, events: EventStore, nth: int) -> str:
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        new = new_events("own")
        self._attempts.append(Attempt.of(new))
        interrupt = Interrupt(nth)
        with suppress(KeyboardInterrupt), interrupt:
            self._use(events, new)
        try:
            self._append(self._other, new)
            if self._use is not close:
                self._go_on(events, new)
        except BaseException as error:
            raise AssertionError(f"after an interrupt at {interrupt.hit}") from error
        return interrupt.hit

    def _go_on(self, events: EventStore, new: list[Event[bytes]]) -> None:
        self._append(events, new)
        found: list[Any] = []
        more = new_events("thread")
        thread = threading.Thread(target=self._go_on_in_thread, args=(events, more, found))
        thread.start()
        thread.join()
        found += events.read(backwards=True, limit=1)
        found += events.read(select("shared"), backwards=True, limit=1)
        assert [each.id for each in found] == [more[-1].id] * 4

    def _go_on_in_thread(
        self, events: EventStore, new: list[Event[bytes]], found: list[Any]
    ) -> None:
        self._append(events, new)
        found += events.read(select("shared"), backwards=True, limit=1)
        found += events.read(backwards=True, limit=1)

    def _append(self, events: EventStore, new: list[Event[bytes]]) -> None:
        self._attempts.append(Attempt.of(new, (), events.append(new)))


if __name__ == "__main__":
    print(Checked(sys.argv[1], USES[sys.argv[2]]).run(sys.argv[3] == "warm"))
