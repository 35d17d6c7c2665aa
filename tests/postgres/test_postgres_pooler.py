"""Behind pgbouncer in transaction mode, where the machine has it: it works, or says what to do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leftfold
from leftfold import Event, EventStore, NoneMatch, StoreUnavailable, select

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
NOBODY = 65534
PATIENCE_S = 60


@pytest.fixture
def pooled(server: Any, tmp_path: Path) -> Iterator[str]:
    """The URL of a log by way of a pooler that gives each transaction another session."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = f"""[databases]
postgres = host=127.0.0.1 port={server.port} user=postgres password=postgres pool_size=3
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
"""
    file = tmp_path / "pgbouncer.ini"
    file.write_text(settings)
    root: dict[str, Any] = {}
    if os.getuid() == 0:
        for each in (tmp_path, *list(tmp_path.parents)[:2]):
            each.chmod(0o755)
        root = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    command = [str(PGBOUNCER), str(file)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **root) as process:
        wait_for(port)
        yield server.new_log().replace(str(server.port), str(port))
        process.terminate()


def wait_for(port: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def use(one: EventStore, other: EventStore) -> int:
    """How many events two stores see that take turns."""
    for number in range(20):
        for events in (one, other):
            condition = NoneMatch(select(tags=[f"seat:{number}"]), events.head())
            event = Event(f"a-{number}", b"{}", type="A", tags=("t:1",))
            events.append([event], conditions=[condition])
    return len(list(one.read(select(tags=["t:1"]))))


if PGBOUNCER:

    def test_without_prepared_statements_it_works(pooled: str) -> None:
        url = f"{pooled}&prepared_statements=false"
        with leftfold.open(url) as one, leftfold.open(url) as other:
            assert use(one, other) == 40

    def test_with_prepared_statements_it_says_what_to_do(pooled: str) -> None:
        with (
            leftfold.open(pooled) as one,
            leftfold.open(pooled) as other,
            pytest.raises(StoreUnavailable, match="prepared_statements=false"),
        ):
            use(one, other)
