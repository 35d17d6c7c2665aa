"""The only file that knows about sync and async.

Flows and stores are written once, as `async def`. A *driver* says how a store waits:
`BlockingDriver` blocks the calling thread, so that its coroutines never suspend and `run_sync` can
finish them; `LoopDriver` hands blocking work to threads and suspends the calling task, so that an
event loop is never blocked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from leftfold.errors import InvalidInput, StoreClosed

T = TypeVar("T")

READ_THREADS_MAX = 4
"""Threads that serve the reads of one async store."""


def run_sync(flow: Coroutine[Any, Any, T]) -> T:
    """Finish a coroutine that never really suspends."""
    try:
        flow.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    flow.close()
    raise RuntimeError(
        "this store waits for an event loop; open it with leftfold.open, or use the async API"
    )


async def uncancelled(flow: Awaitable[T]) -> T:
    """What a caller's flow comes to. Raises RuntimeError where it was cancelled by itself, and not
    the task that runs it, if there is one.
    """
    try:
        return await flow
    except asyncio.CancelledError as error:
        with suppress(RuntimeError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        raise RuntimeError("it was cancelled") from error


class Promise(Protocol):
    """A value that another thread will settle, once."""

    async def wait(self, timeout_s: float | None = None) -> Any:
        """The settled value, or None when `timeout_s` seconds have passed."""
        ...


class Spawned(Protocol):
    """A flow that runs beside the others."""

    @property
    def has_ended(self) -> bool: ...

    async def join(self) -> None:
        """Return when it has ended."""
        ...


class Driver(Protocol):
    """How a store waits."""

    @property
    def may_block(self) -> bool:
        """Whether the calling thread may do blocking work itself."""
        ...

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of a function that may block."""
        ...

    def promise(self) -> Any:
        """A promise to the caller, for `settle`."""
        ...

    def settle(self, settled: Iterable[tuple[Any, Any]]) -> None:
        """Give each promise its value. Any thread may call this."""
        ...

    def spawn(self, flow: Coroutine[Any, Any, None], name: str) -> Spawned:
        """Run a flow beside the others. It lets nothing out but what it is cancelled with."""
        ...

    def close(self) -> None: ...


class _LockPromise:
    """One lock per waiting caller: waking one does not wake all."""

    __slots__ = ("lock", "value")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.value: Any = None

    async def wait(self, timeout_s: float | None = None) -> Any:
        self.lock.acquire(timeout=-1 if timeout_s is None else timeout_s)
        return self.value


class _Thread:
    """A flow in a thread of its own."""

    def __init__(self, flow: Coroutine[Any, Any, None], name: str) -> None:
        self._thread = threading.Thread(target=run_sync, args=[flow], name=name, daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    async def join(self) -> None:
        self._thread.join()


class BlockingDriver:
    """For sync callers: work is done, and waited for, in the calling thread."""

    may_block = True

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    def promise(self) -> _LockPromise:
        return _LockPromise()

    def settle(self, settled: Iterable[tuple[_LockPromise, Any]]) -> None:
        for promise, value in settled:
            promise.value = value
            promise.lock.release()

    def spawn(self, flow: Coroutine[Any, Any, None], name: str) -> _Thread:
        return _Thread(flow, name)

    def close(self) -> None:
        pass


class _LoopPromise:
    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()

    async def wait(self, timeout_s: float | None = None) -> Any:
        if timeout_s is None:
            return await self.future
        await asyncio.wait([self.future], timeout=timeout_s)
        return self.future.result() if self.future.done() else None


def _set_results(settled: list[tuple[_LoopPromise, Any]]) -> None:
    for promise, value in settled:
        if not promise.future.done():  # its task may have been cancelled
            promise.future.set_result(value)


class _Task:
    """A flow as a task of the loop."""

    def __init__(self, flow: Coroutine[Any, Any, None], name: str) -> None:
        self._task = asyncio.get_running_loop().create_task(flow, name=name)

    @property
    def has_ended(self) -> bool:
        return self._task.done()

    async def join(self) -> None:
        await asyncio.wait([self._task])


class LoopDriver:
    """For tasks of the event loop that is running when this is made. Other loops are refused by
    asyncio itself.
    """

    may_block = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(READ_THREADS_MAX, "leftfold-read")
        self._closed = False

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        if self._closed:
            raise StoreClosed("the store is closed")
        return await self._loop.run_in_executor(self._threads, function, *args)

    def promise(self) -> _LoopPromise:
        if asyncio.get_running_loop() is not self._loop:
            raise InvalidInput("this store belongs to another event loop; open one in this loop")
        return _LoopPromise(self._loop)

    def settle(self, settled: Iterable[tuple[_LoopPromise, Any]]) -> None:
        try:
            # One wake-up for the whole group: each costs a system call.
            self._loop.call_soon_threadsafe(_set_results, list(settled))
        except RuntimeError:
            # The loop is closed, so nobody waits any more.
            if not self._loop.is_closed():
                raise

    def spawn(self, flow: Coroutine[Any, Any, None], name: str) -> _Task:
        return _Task(flow, name)

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False)
