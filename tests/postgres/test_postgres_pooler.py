"""Behind pgbouncer in transaction mode, where the machine has it: it works, or says what to do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leftfold
from leftfold import Event, EventStore, NoneMatch, StoreUnavailable, select
from leftfold.stores.postgres.news import Line

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
        for each in (tmp_path, *tmp_path.parents):
            if "pytest-of-" in str(each):
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


def until(is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_true():
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

    def test_who_waits_is_not_let_down_by_notifications_that_do_not_arrive(
        pooled: str, monkeypatch: Any
    ) -> None:
        asked: list[bool] = []
        listen = Line.listen
        monkeypatch.setattr(Line, "listen", lambda line: asked.append(listen(line)) or asked[-1])
        monkeypatch.setattr("leftfold.stores.postgres.news.NOTIFIED_POLL_S", 3600)
        url = f"{pooled}&prepared_statements=false"
        with leftfold.open(url) as one, leftfold.open(url) as other, one.subscribe() as news:
            for number in range(1, 4):
                waiting = threading.Thread(target=next, args=(news,), daemon=True)
                waiting.start()
                until(lambda: bool(asked))
                other.append([Event("a-1", b"{}", type="A")])
                waiting.join(PATIENCE_S)
                assert not waiting.is_alive(), number
        assert asked == [False]

    def test_with_prepared_statements_it_says_what_to_do(pooled: str) -> None:
        with (
            leftfold.open(pooled) as one,
            leftfold.open(pooled) as other,
            pytest.raises(StoreUnavailable, match="prepared_statements=false"),
        ):
            use(one, other)
