"""What conformance tests hold in their hands: a store with plain, blocking calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from leftfold.drive import run_sync
from leftfold.event import Appended, Event, RecordedEvent
from leftfold.query import ALL, Condition, Query
from leftfold.store import Store

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, Any]], Any]

PATIENCE_S = 60
"""How long a test waits for a thread before it calls it stuck, in seconds."""


class Log:
    """A store under test. `run` finishes its coroutines; any thread may call."""

    def __init__(self, open_store: Callable[[], Store], run: Run = run_sync) -> None:
        self._open_store = open_store
        self._run = run
        self.store = open_store()

    def append(self, *events: Event[bytes], conditions: Iterable[Condition] = ()) -> Appended:
        appended: Appended = self._run(
            self.store.append(list(events), conditions=tuple(conditions))
        )
        return appended

    def read(self, query: Query = ALL, **bounds: Any) -> list[RecordedEvent[bytes]]:
        events: list[RecordedEvent[bytes]] = self._run(self.store.read(query, **bounds))
        return events

    def types(self, query: Query = ALL, **bounds: Any) -> str:
        """The types of the events read, joined: tests name events "A", "B", ... by their type."""
        return "".join(event.type for event in self.read(query, **bounds))

    def head(self) -> int:
        head: int = self._run(self.store.head())
        return head

    def wait(self, after: int, timeout_s: float) -> None:
        self._run(self.store.wait(after, timeout_s))

    def close(self) -> None:
        self._run(self.store.close())

    def reopen(self) -> None:
        self.close()
        self.store = self._open_store()


def event(
    stream: str = "account-1", type: str = "A", data: bytes = b"{}", **more: Any
) -> Event[bytes]:
    """An event for a test, of which only what matters is said."""
    return Event(stream, data, type=type, **more)


def together(*actions: Callable[[], T]) -> list[T]:
    """The results of actions that start at the same time, each in a thread of its own.

    Exceptions of `leftfold` are results; an action that does not end fails the test.
    """
    results: dict[int, Any] = {}
    start = threading.Barrier(len(actions))

    def act(number: int, action: Callable[[], T]) -> None:
        start.wait(PATIENCE_S)
        try:
            results[number] = action()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=act, args=each, daemon=True) for each in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(results) == len(actions), f"{len(actions) - len(results)} threads are stuck"
    return [results[number] for number in range(len(actions))]
