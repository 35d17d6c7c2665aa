"""The example runs, twice on one file, and its log says what it said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import leftfold
from leftfold import select

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "bank.py"


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLE), *arguments]
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_the_bank_runs_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "a bank.db"
    for round in (1, 2):
        output = run("--transfers", "150", str(file), cwd=tmp_path)
        assert "\r150 of 150 transfers\n" in output
        balances = [Decimal(each) for each in re.findall(r"account-\d\d: +([\d.]+)", output)]
        assert len(balances) == 20
        # The deposits that the example makes to show a conflict and a repeat: 60 in each run.
        assert sum(balances) == 20 * 500 + (round - 1) * 60
        assert "conflict, reading what is new: stream 'account-01' is at version" in output
        [positions] = re.findall(r"is recorded once: \[(.*)\]", output)
        assert len(set(positions.split(", "))) == 1
        with leftfold.open(f"sqlite:///{file}") as store:
            events = list(store.read(select(category="account")))
        counted = re.findall(r"'\w+': (\d+)", output[output.index("A subscription") :])
        assert sum(map(int, counted)) == len(events)
        assert f"({events[-1].position}, 'account-01', " in output


def test_the_bank_needs_no_arguments(tmp_path: Path) -> None:
    assert "150 of 150" in run("--transfers", "150", cwd=tmp_path, TMPDIR=str(tmp_path))
    [file] = tmp_path.iterdir()
    with leftfold.open(f"sqlite:///{file}") as store:
        assert store.head() > 150


def test_the_bank_is_small_enough_to_read() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 150
