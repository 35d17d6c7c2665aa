"""One subject in several processes at once, such as the workers of a service."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from bench.core import Subject
from bench.on_postgres import Cluster, OnPostgres, Running

_CONTEXT = multiprocessing.get_context("spawn")
_PR_SET_PDEATHSIG = 1

Make = Callable[..., Subject]


class Processes(OnPostgres):
    """Processes that each run a share of a slice. `make` makes what runs there, of a server, a name
    and the first account.
    """

    def __init__(
        self, cluster: Cluster, name: str, make: Make, *, processes: int = 4, writers: int = 8
    ) -> None:
        super().__init__(cluster, name)
        self._make = make
        self._processes = processes
        self._writers = writers

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._workers = []
        try:
            for number in range(self._processes):
                self._start(number * self._writers)
        except BaseException:
            self.close()
            raise

    def _start(self, first: int) -> None:
        ours, theirs = _CONTEXT.Pipe()
        arguments = (theirs, self._make, self._cluster.url, self.name, self._writers, first)
        process = _CONTEXT.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._workers.append((process, ours))
        # One after the other, as the first one makes the tables.
        ours.recv()

    def prepare(self, count: int) -> None:
        self._tell(count // self._processes)

    def run(self, prepared: None) -> None:
        self._tell("run")

    def _tell(self, what: object) -> None:
        """Tell it to all, and wait until all have done it."""
        for _, pipe in self._workers:
            pipe.send(what)
        for _, pipe in self._workers:
            pipe.recv()

    def close(self) -> None:
        for _, pipe in self._workers:
            pipe.close()
        for process, _ in self._workers:
            process.join()
        super().close()


def _work(pipe: Connection, make: Make, url: str, name: str, writers: int, first: int) -> None:
    """What a process does. It ends with the one that has started it, which closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where that one is killed, some would go on looking for the server for minutes.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    subject = make(Running(url), name, writers, first=first)
    subject.open(Path())
    try:
        pipe.send("opened")
        while True:
            prepared = subject.prepare(pipe.recv())
            gc.collect()
            gc.freeze()
            pipe.send("prepared")
            pipe.recv()
            subject.run(prepared)
            gc.unfreeze()
            pipe.send("done")
    except (EOFError, ConnectionError):
        pass
    finally:
        subject.close()
