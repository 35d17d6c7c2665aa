"""Runners are killed with SIGKILL while they move money: the sum of all balances stays what it was,
and no transfer is done twice or half.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import process_bank as bank
import pytest
from process_bank import TransferRequested, transfers
from process_support import request
from process_worker import LEASE_S

import leftfold
from leftfold import select
from leftfold.projection import catalog, running
from leftfold.testing.faults import seeds

IS_SOAK = float(os.environ.get("SOAK_MINUTES") or 0) > 0
KILLS, TRANSFERS = (100, 3_000) if IS_SOAK else (6, 150)
ACCOUNTS = 20
FUNDS = 100
SECONDS_MAX = 600.0


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return str(request.getfixturevalue("server").new_log())


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (catalog, running):
        monkeypatch.setattr(module, "LEASE_S", LEASE_S)


@pytest.mark.timeout(1_800)
def test_killed_runners_do_no_transfer_twice_or_half(log_url: str) -> None:
    for seed in seeds(1):
        play(Random(seed), log_url)
        break


def play(random: Random, url: str) -> None:
    with leftfold.open(url, bank.app_of()) as es:
        for each in range(ACCOUNTS):
            es.handle(bank.accounts, str(each), bank.Open())
            es.handle(bank.accounts, str(each), bank.Deposit(FUNDS))
        requests = [_request(random, number) for number in range(TRANSFERS)]
        kill_amid_work(random, url, es, requests)
        with es.running():
            deadline_s = time.monotonic() + SECONDS_MAX
            while len(ended(es)) < TRANSFERS and time.monotonic() < deadline_s:
                time.sleep(0.2)
        check(es, [each.data for each in requests])


def kill_amid_work(random: Random, url: str, es: leftfold.EventStore, requests: list[Any]) -> None:
    """Kill runners again and again, and let requests come in all the time: whoever is killed has
    something to do.
    """
    begun = amid = 0
    for each in range(KILLS):
        some = requests[each::KILLS]
        es.append(some)
        begun += len(some)
        kill_some(random, url)
        amid += len(ended(es)) < begun
    print(f"{KILLS} times killed, {amid} of them amid work; {len(ended(es))} transfers had ended")


def _request(random: Random, number: int) -> Any:
    source, target = random.sample(range(ACCOUNTS + 1), 2)
    return request(str(number), TransferRequested(f"{source}", f"{target}", random.randrange(60)))


def kill_some(random: Random, url: str) -> None:
    command = [sys.executable, "-m", "process_worker", url]
    several = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent
        )
        for _ in range(random.choice([1, 1, 2]))
    ]
    for worker in several:
        assert worker.stdout is not None
        worker.stdout.readline()
    time.sleep(random.uniform(0, 2 * LEASE_S))
    for worker in several:
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()


def ended(es: leftfold.EventStore) -> list[str]:
    return [each.stream for each in es.read(select(types=["process.Ended"]))]


def check(es: leftfold.EventStore, asked: list[TransferRequested]) -> None:
    assert len(ended(es)) == len(set(ended(es))) == TRANSFERS
    moved: dict[str, list[int]] = {}
    for event in es.read(select(category="account")):
        by, _, step = (event.metadata.command_id or "").partition(":")
        if step:
            sign = -1 if isinstance(event.data, bank.Withdrawn) else 1
            moved.setdefault(by, []).append(sign * event.data.amount)
    expected = [FUNDS] * ACCOUNTS
    phases = [es.state(transfers.decider, str(n)).phase for n in range(TRANSFERS)]
    for number, (phase, one) in enumerate(zip(phases, asked, strict=True)):
        money = moved.get(f"transfer-{number}", [])
        if phase == "done":
            assert money == [-one.amount, one.amount], (number, money)
            expected[int(one.source)] -= one.amount
            expected[int(one.target)] += one.amount
        else:
            assert money in ([], [-one.amount, one.amount]), (number, phase, money)
    assert set(phases) == {"done", "compensated"}
    balances = [es.state(bank.accounts, str(each)).balance for each in range(ACCOUNTS)]
    assert balances == expected
    assert sum(balances) == ACCOUNTS * FUNDS
