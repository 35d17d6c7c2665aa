"""A lock that Ctrl-C cannot leave taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from leftfold.errors import StoreUnavailable

T = TypeVar("T")


class Mutex:
    """Lets one thread at a time call a function, and is free again however the call ends.

    Ctrl-C raises between any two bytecodes of the main thread, also right after a lock was taken
    and before the `try` that is to let go of it. So the lock is taken inside the `try`, and it is
    one that knows its owner: at the end it can tell whether it was taken. The two levels of
    `finally` are for an interrupt that comes as the first one begins.
    """

    def __init__(self) -> None:
        self._lock: Any = threading.RLock()

    @property
    def is_mine(self) -> bool:
        """Whether this thread is inside already: then a signal handler or finalizer came in
        between, which must neither go in nor wait.
        """
        return bool(self._lock._is_owned())

    def refuse_reentry(self) -> None:
        """Raise StoreUnavailable if this thread is inside already."""
        if self.is_mine:
            raise StoreUnavailable(
                "this thread is in the middle of an append or a read of this store; a signal "
                "handler or finalizer that comes in between leaves its own to another thread"
            )

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns, once it is this thread's turn. Raises StoreUnavailable where
        this thread is inside already.
        """
        while (called := self.try_call(function, *args, wait_s=-1)) is None:
            self.refuse_reentry()
        return called[0]

    def try_call(
        self, function: Callable[..., T], *args: Any, wait_s: float = 0
    ) -> tuple[T] | None:
        """What the function returns, or None where it is not this thread's turn within `wait_s`
        (-1: for as long as it takes).
        """
        if self.is_mine:
            return None
        try:
            return self._call(function, args, wait_s)
        finally:
            if self._lock._is_owned():
                self._lock.release()

    def _call(
        self, function: Callable[..., T], args: tuple[Any, ...], wait_s: float
    ) -> tuple[T] | None:
        try:
            return (function(*args),) if self._lock.acquire(timeout=wait_s) else None
        finally:
            if self._lock._is_owned():
                self._lock.release()
