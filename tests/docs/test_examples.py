"""The examples run, their claims hold, and the log of the bank says what the bank said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

import leftfold
from leftfold import RecordedEvent, select

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
LINES_MAX = 250


def run(name: str, *arguments: str, cwd: Path, **environment: str) -> str:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py"), *arguments]
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


def paid_in_less_out(events: Sequence[RecordedEvent[bytes]]) -> Decimal:
    total = Decimal(0)
    for event in events:
        amount = Decimal(msgspec.json.decode(event.data).get("amount", "0"))
        total += -amount if event.type == "MoneyWithdrawn" else amount
    return total


def test_the_bank_runs_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "a bank.db"
    before = 0
    for opening in (40, 0):
        output = run("bank", "--commands", "600", str(file), cwd=tmp_path)
        assert output.count("300 of 300 commands\n") == 2
        with leftfold.open(f"sqlite:///{file}") as store:
            events = list(store.read(select(category="account")))
        # The tour adds four events after the balances: a slip, a payment, and two deposits.
        balances = [Decimal(each) for each in re.findall(r"\d\d: +([\d.]+)(?:   |\n)", output)]
        assert len(balances) == 20
        assert sum(balances) == paid_in_less_out(events[:-4])
        recorded = sum(map(int, re.findall(r": (\d+) recorded, ", output)))
        assert before + opening + recorded + 4 == len(events)
        [positions] = re.findall(r"recorded once, at position \[(.*)\]", output)
        assert set(positions.split(", ")) == {str(events[-3].position)}
        assert f"0 problems in {len(events):,} events in 20 streams" in output
        before = len(events)


def test_the_bank_needs_no_arguments(tmp_path: Path) -> None:
    run("bank", "--commands", "100", cwd=tmp_path, TMPDIR=str(tmp_path))
    [file] = tmp_path.glob("*/bank.db")
    with leftfold.open(f"sqlite:///{file}") as store:
        assert store.head() > 100


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("orders", ["rejected: the order costs 9.00, found 5\n", "to ship: ['order-2 for bob']\n"]),
        ("order_process", ["order 2: no funds\n", "SoldOut: 0 left\n", " compensated\n"]),
        ("enrolment", ["5 wishes at once for algebra: 1 are met\n", "algebra is full\n"]),
        ("activity", ["delivered once more, there are 10,000\n", "each one once\n"]),
        ("projections", ["account-3 (462.50)\n", "com.example.bank.AccountGivenAway\n"]),
    ],
)
def test_an_example_says_what_it_claims(name: str, claims: list[str], tmp_path: Path) -> None:
    output = run(name, cwd=tmp_path)
    for claim in claims:
        assert claim in output
    assert list(tmp_path.iterdir()) == [], "an example cleans up"


def test_every_example_is_run() -> None:
    source = Path(__file__).read_text()
    for example in EXAMPLES:
        assert f'("{example.stem}", ' in source


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_small_enough_to_read(example: Path) -> None:
    lines = example.read_text().splitlines()
    # The bank has a tour of what can be asked. What a program needs comes before it.
    program = [number for number, line in enumerate(lines) if line.startswith("# The tour.")]
    assert (program or [len(lines)])[0] <= LINES_MAX


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_domain_of_an_example_uses_nothing_of_leftfold_but_tags(example: Path) -> None:
    source = example.read_text()
    [imported] = re.findall(r"^from leftfold import (.*)$", source, re.M)
    after_imports = source[source.index("# Events") : source.index("# The app:")]
    names = {"leftfold", *imported.split(", ")} - {"Tag"}
    assert not names & set(re.findall(r"\w+", after_imports))
