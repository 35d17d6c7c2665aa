"""Ctrl-C, and SIGTERM, at a place of our choosing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_interrupt(action: Callable[[], object]) -> Iterator[None]:
    """The first Ctrl-C calls `action`; a second one raises KeyboardInterrupt."""

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        action()

    with _handling(first):
        yield


@contextmanager
def on_terminate(action: Callable[[], object]) -> Iterator[None]:
    """SIGTERM, as service managers send it, calls `action`."""
    with _handling(lambda *_: action(), signal.SIGTERM):
        yield


class Interrupts:
    """Ctrl-C raises KeyboardInterrupt, but not while the store is writing: then at the end of it.

    So what has been counted as recorded is what has been recorded. A second Ctrl-C does not wait.
    """

    def __init__(self) -> None:
        self._is_shielded = False
        self._is_waiting = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle Ctrl-C in this way inside the `with`."""
        with _handling(self._handle):
            yield

    def _handle(self, *_: object) -> None:
        if self._is_shielded and not self._is_waiting:
            self._is_waiting = True
            return
        raise KeyboardInterrupt

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Let what is inside the `with` finish."""
        self._is_shielded = True
        try:
            yield
        finally:
            self._is_shielded = False
        if self._is_waiting:
            raise KeyboardInterrupt


@contextmanager
def _handling(
    handler: Callable[..., object], number: signal.Signals = signal.SIGINT
) -> Iterator[None]:
    before = signal.getsignal(number)
    # Signals come to the main thread; and one that is ignored, as after nohup, stays ignored.
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
