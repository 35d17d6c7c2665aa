"""A process that writes, or watches, a log which others use at the same time.

Run with: `write`, URL, name, seed, threads, steps; or `watch`, URL. It says when it is ready, and
begins when it reads a line. What it did or saw goes to stdout at the end, pickled. A watcher
watches until its stdin is closed.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import leftfold
from leftfold import ALL, EventStore, Query, select
from leftfold.testing.history import Attempt, RandomWriter, Sightings, Watcher

STUCK_S = 200
"""After so long a thread or a process counts as stuck."""
WATCHED = [ALL, select(tags=["seat:1"], types=["Held"]), select(category="own"), select("shared-2")]


class Threads:
    """Runs functions in threads. `join` raises the first error, and fails if a thread is stuck."""

    def __init__(self, functions: Iterable[Callable[[], object]]) -> None:
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(function,), daemon=True)
            for function in functions
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            self._errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(STUCK_S)
            assert not thread.is_alive(), "a thread is stuck"
        for error in self._errors:
            raise error


def write(events: EventStore, name: str, seed: int, threads: int, steps: int) -> list[Attempt]:
    """What `threads` random writers did."""
    attempts: list[Attempt] = []

    def run(number: int) -> None:
        writer = RandomWriter(events, f"{name}.{number}", seed, attempts.append)
        for _ in range(steps):
            writer.step()

    Threads([lambda number=number: run(number) for number in range(threads)]).join()
    return attempts


def watch(events: EventStore, over: threading.Event) -> list[Sightings]:
    """What watchers of several queries saw, each in a thread of its own."""
    sightings: list[Sightings] = []

    def run(query: Query) -> None:
        def read(after: int) -> list[leftfold.RecordedEvent[Any]]:
            return list(events.read(query, after=after, limit=100))

        # A pause between two looks leaves the processor to the writers.
        sightings.append(Watcher(read, events.head, query).watch(lambda: over.wait(0.002)))

    Threads([lambda query=query: run(query) for query in WATCHED]).join()
    return sightings


@contextmanager
def watching(events: EventStore) -> Iterator[list[Sightings]]:
    """Watch in threads while the block runs. What they saw is in the list after it."""
    over = threading.Event()
    sightings: list[Sightings] = []
    threads = Threads([lambda: sightings.extend(watch(events, over))])
    try:
        yield sightings
    finally:
        over.set()
        threads.join()


Process = subprocess.Popen[bytes]


@contextmanager
def processes(*arguments: Sequence[object]) -> Iterator[list[Process]]:
    """Such processes. They begin together, so that they do meet."""
    with ExitStack() as stack:
        started = []
        for each in arguments:
            command = [sys.executable, __file__, *map(str, each)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            started.append(stack.enter_context(process))
        for process in started:
            assert process.stdout.readline() == b"ready\n"
        for process in started:
            process.stdin.write(b"begin\n")
            process.stdin.flush()
        yield started


def finish(process: Process) -> Any:
    """What it did, or saw."""
    output, _ = process.communicate(timeout=STUCK_S)
    assert process.returncode == 0
    return pickle.loads(output)


def main(role: str, url: str, *arguments: str) -> None:
    with leftfold.open(url) as events:
        os.write(1, b"ready\n")
        sys.stdin.readline()
        if role == "write":
            name, *numbers = arguments
            result: Any = write(events, name, *map(int, numbers))
        else:
            over = threading.Event()
            waiting = Threads([lambda: (sys.stdin.read(), over.set())])
            result = watch(events, over)
            waiting.join()
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
