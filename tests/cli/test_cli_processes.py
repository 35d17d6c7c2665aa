"""Looking after processes from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "process"))
import process_bank as bank
from process_support import eventually

import leftfold
from leftfold import Event, Metadata

URL = "sqlite:///log.db"


@pytest.fixture
def es(here: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A log with a transfer that is done and one whose compensation was rejected."""
    monkeypatch.setenv("LEFTFOLD_APP", "process_bank:app")
    monkeypatch.setenv("LEFTFOLD_STORE", URL)
    with leftfold.open(URL, bank.app) as es, es.running():
        for name in ("a", "b"):
            es.handle(bank.accounts, name, bank.Open())
        es.handle(bank.accounts, "a", bank.Deposit(10))
        for key, target in (("1", "b"), ("2", "nobody")):
            said = Metadata(correlation_id=f"talk {key}", actor="ada")
            asked = bank.TransferRequested("a", target, 4)
            es.append([Event(f"request-{key}", asked, metadata=said)])
        eventually(lambda: len(es.processes.list(status="done")) == 1, "one is done")
        eventually(lambda: len(es.processes.list(status="compensated")) == 1, "one is not")
        yield es


def lines(result: Any) -> list[dict[str, Any]]:
    assert result.code == 0, result.err
    return [json.loads(each) for each in result.out.splitlines()]


def test_instances_are_listed_and_shown(es: Any, run: Any) -> None:
    found = lines(run("processes", "list", "--json"))
    assert [(each["key"], each["status"]) for each in found] == [
        ("1", "done"),
        ("2", "compensated"),
    ]
    [shown] = lines(run("processes", "show", "transfer", "2", "--json"))
    assert [each["step"] for each in shown["steps"]] == ["take", "give", "undo take"]
    assert "compensated" in run("processes", "list", "transfer", "--status", "compensated").out
    run("processes", "show", "transfer", "9", code=2)


def test_repairs_are_made_with_their_actor(es: Any, run: Any) -> None:
    refused = run("processes", "retry", "transfer", "1", "--actor", "ada", code=2)
    assert "is not stuck" in refused.err
    for command in ("skip", "cancel"):
        run("processes", command, "transfer", "1", "--reason", "x", code=2)


def test_a_conversation_is_a_tree(es: Any, run: Any) -> None:
    found = lines(run("trace", "talk 1", "--json"))
    told = [(each["depth"], each["type"].removeprefix("process.")) for each in found]
    assert told == [
        (0, "TransferRequested"),
        (1, "Started"),
        (1, "Reacted"),
        (1, "StepSent"),
        (2, "Withdrawn"),
        (2, "StepDone"),
        (2, "StepSent"),
        (3, "Deposited"),
        (3, "StepDone"),
        (3, "Ended"),
    ]
    text = run("trace", "talk 2").out
    assert "process.CommandRejected" in text
    assert "by ada" in text
    run("trace", "nothing", code=1)


def test_a_log_with_processes_is_checked(es: Any, run: Any) -> None:
    assert run("check").code == 0
    assert run("state", "transfer-1").code == 0
    assert run("history", "transfer-1").code == 0
