"""Projections whose runners are processes of their own: rebuilds, how much memory they take, and
how soon one reads what one wrote.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import signal
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import leftfold
from bench.data import Command, Posted, commands
from bench.on_leftfold import FULL, events_of
from bench.processes import _PR_SET_PDEATHSIG
from bench.projecting import ACCOUNTS, APP, BALANCES, WITHIN_S, OnServer, Projecting, fill
from leftfold.projection.catalog import Build
from leftfold.projection.managers import Runner
from leftfold.projection.running import Share
from leftfold.projection.swapping import position_of

_CONTEXT = multiprocessing.get_context("spawn")
_POLL_S = 0.01


class Worker:
    """A process with a runner. It ends with this process, however that ends."""

    def __init__(self, place: str, share: Share = (0, 1)) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs, place, share), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def start(self) -> None:
        self._pipe.send("start")

    def stop(self) -> int:
        """Let it finish; returns the most memory that it has had, in KiB."""
        try:
            self._pipe.send("stop")
            peak_kib: int = self._pipe.recv()
            return peak_kib
        finally:
            self._pipe.close()
            self._process.join()


def _work(pipe: Connection, place: str, share: Share) -> None:
    """What the process does. It ends with the one that has started it, which closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where that one is killed, it would not see it while it runs.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        with leftfold.open(place, APP) as es:
            pipe.send("opened")
            pipe.recv()
            with _runner(es, share):
                pipe.recv()
            pipe.send(_peak_kib())
    except (EOFError, ConnectionError):
        pass


def _runner(es: leftfold.EventStore, share: Share = (0, 1)) -> Runner:
    return es.running(only=[BALANCES.name], swap="manual", share=share)


def _peak_kib() -> int:
    # What getrusage says may be of the process that this one was forked from.
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0])


class Rebuild(Projecting):
    """Builds beside the build that serves, from an empty table to the head of the log, with a
    partition for each of its `workers`. They are there, with an opened store, when it begins.
    """

    def __init__(self, name: str, length: int, *, workers: int = 1) -> None:
        super().__init__(name)
        self._length = length
        self._count = workers
        self.peak_kib = 0

    def open(self, directory: Path) -> None:
        super().open(directory)
        place = self._log = self._place(directory, f"log {self._length}", FULL)
        fill(self._place(directory, f"log {self._length}"), self._length)
        self._es = leftfold.open(place, APP)
        with ExitStack() as closing:
            closing.callback(self._es.close)
            # What is to be built beside. Whoever comes first makes it.
            with _runner(self._es):
                self._es.view(BALANCES).wait(str(self._length), timeout_s=WITHIN_S)
            closing.pop_all()

    def prepare(self, count: int) -> Build:
        self._workers: list[Worker] = []
        shares = [(number, self._count) for number in range(self._count)]
        self._build = self._es.projections.rebuild(BALANCES.name, partitions=self._count)
        for share in shares:
            self._workers.append(Worker(self._log, share))
        return self._build

    def run(self, prepared: Build) -> None:
        for worker in self._workers:
            worker.start()
        database = self._es._projecting.database
        deadline = time.monotonic() + WITHIN_S
        while database.read(lambda tx: position_of(tx, prepared)) < self._length:
            if time.monotonic() > deadline:
                raise AssertionError("the build does not get there")
            time.sleep(_POLL_S)

    def measure(self, count: int) -> float:
        try:
            return super().measure(count)
        finally:
            self.peak_kib = max((worker.stop() for worker in self._workers), default=0)
            self._es.projections.drop(BALANCES.name, build=self._build.id)

    def close(self) -> None:
        self._es.close()
        super().close()


class RebuildMemory(Rebuild):
    """The most memory that the process of a rebuild has had, the interpreter and all modules
    included, in KiB.
    """

    def measure(self, count: int) -> float:
        super().measure(self._length)
        return self.peak_kib


class ReadYourWrite(Projecting):
    """Appends, then reads the row with the token of the append: how long both take, in µs. The
    runner is in this process, or `apart` in one of its own.
    """

    def __init__(self, name: str, quantile: float, *, is_apart: bool = False) -> None:
        super().__init__(name)
        self._quantile = quantile
        self._is_apart = is_apart

    def open(self, directory: Path) -> None:
        super().open(directory)
        self._log = self._place(directory, self.name, FULL)
        self._es = leftfold.open(self._log, APP)

    def measure(self, count: int) -> float:
        worker = Worker(self._log) if self._is_apart else None
        runner = _runner(self._es)
        try:
            worker.start() if worker else runner.start()
            every = list(commands(count, accounts=range(ACCOUNTS)))
            self._took_us(every[0])
            gc.collect()
            took = sorted(map(self._took_us, every))
        finally:
            worker.stop() if worker else runner.stop()
        return took[min(int(len(took) * self._quantile), len(took) - 1)]

    def _took_us(self, command: Command) -> float:
        view = self._es.view(BALANCES)
        start = time.perf_counter()
        appended = self._es.append(events_of(command, Posted, tagged=False))
        view.get(f"account-{command.account}", after=appended.token, timeout_s=WITHIN_S)
        return (time.perf_counter() - start) * 1e6

    def close(self) -> None:
        self._es.close()
        super().close()


class PostgresRebuild(OnServer, Rebuild):
    """The same on a server."""


class PostgresRebuildMemory(OnServer, RebuildMemory):
    """The same on a server."""


class PostgresReadYourWrite(OnServer, ReadYourWrite):
    """The same on a server."""
