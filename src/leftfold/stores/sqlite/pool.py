"""The connections that read, as many as are needed at the same time, up to a limit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

from leftfold.stores.mutex import Mutex
from leftfold.stores.sqlite.reader import Reader

T = TypeVar("T")

READERS_MAX = 8
"""Connections that read at the same time; further readers wait for one."""
WAIT_S = 0.01
"""How long a reader waits for one of them before it tries the next."""


class _Place:
    """A place for a reader, which is opened when it is first needed."""

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        self.mutex = Mutex()
        self._open_reader = open_reader
        self._reader: Reader | None = None

    def use(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        if self._reader is None:
            self._reader = self._open_reader()
        return function(self._reader, *args)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.connection.close()


class ReaderPool:
    """Lends readers to functions. `open_reader` raises when the store is closed."""

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        # Places that are never taken out, unlike readers in a queue: an interrupt (Ctrl-C) loses
        # none.
        self._places = [_Place(open_reader) for _ in range(READERS_MAX)]
        self._turns = count()
        self._closed = False

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns for a reader that no other thread uses, and `args`."""
        try:
            return self._call(function, args)
        finally:
            if self._closed:
                self.close()

    def _call(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        called: tuple[T] | None = None
        for place in self._places:
            called = place.mutex.try_call(place.use, function, args)
            if called is not None:
                return called[0]
        while called is None:
            place = self._places[next(self._turns) % READERS_MAX]
            place.mutex.refuse_reentry()
            called = place.mutex.try_call(place.use, function, args, wait_s=WAIT_S)
        return called[0]

    def close(self) -> None:
        """Close readers that are not in use. The others are closed by those who use them."""
        self._closed = True
        for place in self._places:
            place.mutex.try_call(place.close)
