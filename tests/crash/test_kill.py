"""Writers are killed with SIGKILL again and again: what they were told is true, and nothing is
half.
"""

import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import apsw
import crash_writer
import pytest

import leftfold
from leftfold.testing.faults import seeds
from leftfold.testing.history import Attempt, check

ROUNDS = 13


def killed_after(lines_max: int, *arguments: object) -> list[Attempt]:
    """What a writer told before it was killed, in the middle of its work."""
    command = [sys.executable, crash_writer.__file__, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        lines = list(islice(process.stdout, lines_max))
        process.kill()
        lines += process.stdout
    assert process.returncode == -9, "the writer ended by itself"
    return crash_writer.told(lines)


def whole_log(path: Path) -> list[leftfold.RecordedEvent[bytes]]:
    """The log in the file, after the file has been found in order and the store goes on."""
    connection = apsw.Connection(str(path))
    assert connection.pragma("integrity_check") == "ok"
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    with leftfold.open(f"sqlite:///{path}") as events:
        log = list(events.read())
        for event in log[-1:]:
            tags = event.tags and [event.tags[0]]
            assert event in events.read(leftfold.select(event.stream, tags=tags))
        return log


@pytest.mark.parametrize("threads", [1, 4], ids=["one thread", "group commit"])
def test_whoever_is_killed_has_lost_nothing_and_left_nothing_half(tmp_path, threads):
    for seed in seeds(1):
        random = Random(seed)
        path = tmp_path / f"{seed}.db"
        attempts: list[Attempt] = []
        for number in range(ROUNDS):
            lines_max = random.randrange(600)
            attempts += killed_after(lines_max, path, number, seed, threads)
            # Sometimes the next writer finds the file just as the last one left it.
            if number == ROUNDS - 1 or random.random() < 0.6:
                check(whole_log(path), attempts)
        assert sum(isinstance(each.outcome, leftfold.Appended) for each in attempts) > ROUNDS
