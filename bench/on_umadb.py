"""UmaDB: its own server as a process of its own, on a free port of the loopback, and its client."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import umadb

from bench.core import Subject
from bench.data import ACTOR, BoundaryCommand, boundary_commands

_START = "from umadb.umadb_server_cli import main; main()"
_START_WITHIN_S = 10.0


class Conditional(Subject):
    """One writer: read the boundary, then append on the condition that nothing was added to it.

    The events are the same as those of leftfold, as JSON, metadata included. The server runs with
    its defaults: it syncs each commit with fdatasync (twice, as seen with strace).
    """

    def __init__(self, name: str, length: int) -> None:
        super().__init__(name)
        self._length = length
        self._random = random.Random(2)

    def open(self, directory: Path) -> None:
        address = f"127.0.0.1:{_free_port()}"
        arguments = ["--listen", address, "--db-path", str(directory / "uma.db")]
        self._server = subprocess.Popen(
            [sys.executable, "-c", _START, *arguments], stdout=subprocess.DEVNULL
        )
        try:
            self._client = _connected(f"http://{address}")
            self._fill()
        except BaseException:
            self.close()
            raise

    def _fill(self) -> None:
        for batch in boundary_commands(self._length, random.Random(1), batch=1000):
            self._client.append([_event(command) for command in batch])

    def settings(self) -> str:
        return "two fdatasync calls a commit (its defaults)"

    def prepare(self, count: int) -> list[BoundaryCommand]:
        return next(boundary_commands(count, self._random, batch=count))

    def run(self, prepared: list[BoundaryCommand]) -> None:
        client = self._client
        for command in prepared:
            item = umadb.QueryItem(types=["LimitChanged"], tags=command.tags)
            query = umadb.Query([item])
            _found, head = client.read(query).collect_with_head()
            client.append([_event(command)], umadb.AppendCondition(query, head))

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()


def _event(command: BoundaryCommand) -> umadb.Event:
    metadata = {
        "correlation_id": command.correlation_id,
        "causation_id": command.causation_id,
        "actor": ACTOR,
    }
    data = msgspec.json.encode(command.posting)
    return umadb.Event(command.type, data, tags=command.tags, metadata=metadata)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _connected(url: str) -> umadb.Client:
    deadline = time.monotonic() + _START_WITHIN_S
    while True:
        try:
            client = umadb.Client(url)
            client.head()
        except umadb.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return client
