"""Looking after processes from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "process"))
import process_bank as bank
import processes_app
from process_support import eventually, request, types, wait_for
from processes_app import loans

import leftfold
from leftfold import Event, Metadata, select
from leftfold.cli import processes

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
    assert len(lines(run("processes", "list", "--limit", "1", "--json"))) == 1
    [shown] = lines(run("processes", "show", "transfer", "2", "--json"))
    assert [each["step"] for each in shown["steps"]] == ["take", "give", "undo take"]
    assert "compensated" in run("processes", "list", "transfer", "--status", "compensated").out
    run("processes", "show", "transfer", "9", code=2)


def test_repairs_are_made_with_their_actor(es: Any, run: Any) -> None:
    refused = run("processes", "retry", "transfer", "1", "--actor", "ada", code=2)
    assert "is not stuck" in refused.err
    for command in ("skip", "cancel"):
        run("processes", command, "transfer", "1", "--reason", "x", code=2)


@pytest.fixture
def lent(here: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A log whose loan 1 cannot be given back, since there is no safe; loan 2 waits."""
    monkeypatch.setenv("LEFTFOLD_APP", "processes_app:app")
    monkeypatch.setenv("LEFTFOLD_STORE", URL)
    with leftfold.open(URL, processes_app.app) as es, es.running():
        es.handle(bank.accounts, "a", bank.Open())
        es.handle(bank.accounts, "a", bank.Deposit(10))
        es.append([request("1", bank.TransferRequested("a", "nobody", 4))])
        es.append([request("2", bank.TransferRequested("a", "", 3))])
        assert "undo take" in wait_for(es, loans, "1", "stuck").stuck
        eventually(lambda: "StepDone" in types(es, "loan-2"), "it was lent")
        yield es


def recorded(es: leftfold.EventStore, stream: str, name: str) -> Any:
    """The one event that a repair is recorded as."""
    [found] = es.read(select(stream, types=[f"process.{name}"]))
    assert found.metadata.actor == found.data.actor == "ada"
    return found.data


def safe(es: leftfold.EventStore) -> int:
    return int(es.state(bank.accounts, "safe").balance)


def repair(run: Any, command: str, key: str, *options: str) -> dict[str, Any]:
    [shown] = lines(run("processes", command, "loan", key, "--actor", "ada", "--json", *options))
    return dict(shown)


def test_what_is_stuck_is_tried_again_and_goes_on(lent: Any, run: Any) -> None:
    lent.handle(bank.accounts, "safe", bank.Open())
    shown = repair(run, "retry", "1")
    assert (shown["stuck"], shown["steps"][-1]["attempt"]) == ("", 2)
    recorded(lent, "loan-1", "Retried")
    wait_for(lent, loans, "1", "compensated")
    assert safe(lent) == 4


def test_what_is_stuck_is_skipped_and_the_rest_goes_on(lent: Any, run: Any) -> None:
    shown = repair(run, "skip", "1", "--reason", "paid by hand")
    assert shown["status"] == "compensated"
    assert [(each["step"], each["status"]) for each in shown["steps"]] == [
        ("take", "skipped"),
        ("give", "rejected"),
        ("undo take", "skipped"),
    ]
    skipped = recorded(lent, "loan-1", "StepSkipped")
    assert (skipped.step, skipped.reason) == ("undo take", "paid by hand")


def test_a_step_that_is_waited_for_is_skipped_by_its_name(lent: Any, run: Any) -> None:
    shown = repair(run, "skip", "2", "--step", "take", "--reason", "by phone")
    assert (shown["status"], shown["timers"]) == ("done", [])
    skipped = recorded(lent, "loan-2", "StepSkipped")
    assert (skipped.step, skipped.reason) == ("take", "by phone")


def test_what_is_cancelled_is_taken_back(lent: Any, run: Any) -> None:
    lent.handle(bank.accounts, "safe", bank.Open())
    shown = repair(run, "cancel", "2", "--reason", "fraud")
    assert (shown["status"], shown["reason"]) == ("compensating", "fraud")
    cancelled = recorded(lent, "loan-2", "Cancelled")
    assert (cancelled.reason, cancelled.compensate) == ("fraud", True)
    assert wait_for(lent, loans, "2", "cancelled").step("take").status == "compensated"
    assert safe(lent) == 3


def test_what_is_cancelled_without_compensation_ends_at_once(lent: Any, run: Any) -> None:
    lent.handle(bank.accounts, "safe", bank.Open())
    shown = repair(run, "cancel", "2", "--reason", "fraud", "--no-compensation")
    assert (shown["status"], shown["reason"]) == ("cancelled", "fraud")
    cancelled = recorded(lent, "loan-2", "Cancelled")
    assert (cancelled.reason, cancelled.compensate) == ("fraud", False)
    assert [each["status"] for each in shown["steps"]] == ["done"]
    assert safe(lent) == 0


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
    assert text.count(" by ada") == 1
    run("trace", "nothing", code=1)


def test_of_a_long_conversation_the_first_events_are_shown(
    es: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TRACE_EVENTS_MAX", 2)
    shown = run("trace", "talk 1", "--json")
    assert len(lines(shown)) == 2
    assert "the first 2 are shown" in shown.err


def test_a_log_with_processes_is_checked(es: Any, run: Any) -> None:
    assert run("check").code == 0
    assert run("state", "transfer-1").code == 0
    assert run("history", "transfer-1").code == 0
