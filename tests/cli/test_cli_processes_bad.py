"""Commands about processes that ask for what is not there, or that come to nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "process"))
import process_bank as bank
import stubborn_app
from process_support import eventually, request, types, wait_for
from stubborn_app import gifts

import leftfold

URL = "sqlite:///log.db"


@pytest.fixture
def given(here: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A log whose gift 1 is stuck at two events, and whose gift 2 was given."""
    monkeypatch.setenv("LEFTFOLD_APP", "stubborn_app:app")
    monkeypatch.setenv("LEFTFOLD_STORE", URL)
    with leftfold.open(URL, stubborn_app.app) as es, es.running():
        es.handle(bank.accounts, "b", bank.Open())
        es.append([request("1", bank.TransferRequested("a", "b", 0))])
        es.append([request("1", bank.TransferRequested("a", "b", 0))])
        es.append([request("2", bank.TransferRequested("a", "b", 3))])
        wait_for(es, gifts, "1", "stuck")
        eventually(lambda: types(es, "gift-1").count("Held") == 2, "both wait")
        eventually(lambda: "StepDone" in types(es, "gift-2"), "it was given")
        eventually(lambda: len(es.processes.list()) == 2, "both are listed")
        yield es


AGAIN = "leftfold: gift-1 is stuck again: on 'TransferRequested' at position "
WHY = ": ValueError: there is nothing to give (stubborn_app.py:27)\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_retry_that_is_stuck_again_says_so(given: Any, run: Any, options: list[str]) -> None:
    again = run("processes", "retry", "gift", "1", *options, code=1)
    assert again.err == f"{AGAIN}2{WHY}"
    assert "there is nothing to give" in again.out
    assert types(given, "gift-1")[-2:] == ["Retried", "Quarantined"]


def test_whoever_checks_is_told_by_the_exit_code(given: Any, run: Any) -> None:
    assert run("processes", "list").code == 0
    assert run("processes", "list", "--check", code=1).out == run("processes", "list").out
    assert run("processes", "list", "--check", "--status", "done").code == 0


def test_a_skip_that_is_stuck_at_the_next_one_says_so(given: Any, run: Any) -> None:
    skip = ("processes", "skip", "gift", "1", "--reason", "none was meant")
    assert run(*skip, code=1).err == f"{AGAIN}3{WHY}"
    assert run(*skip).err == ""


def test_instances_of_what_there_is_not_are_refused(given: Any, run: Any) -> None:
    known = "leftfold: the App has no process 'loan', it has 'gift'\n"
    for command in (["list", "loan"], ["show", "loan", "1"], ["retry", "loan", "1"]):
        assert run("processes", *command, code=2).err == known
    assert run("processes", "list", "--status", "lost", code=2).err == (
        "leftfold: status is one of running, compensating, stuck, done, compensated, cancelled, "
        "found 'lost'\n"
    )
    refused = run("processes", "show", "gift", "3", code=2)
    assert refused.err == "leftfold: process 'gift' has no instance '3'\n"


def test_a_definition_that_is_refused_is_told_without_a_traceback(
    given: Any, run: Any, here: Path
) -> None:
    (here / "wrong.py").write_text(
        "from leftfold.process import ProcessManager\n"
        "from stubborn_app import gifts\n"
        "from msgspec.structs import replace\n"
        "gifts = replace(gifts, steps=['undo it'])\n"
    )
    refused = run("processes", "list", "--app", "wrong:app", code=2)
    assert "names in steps of process 'gift' do not begin with 'undo '" in refused.err
    assert "Traceback" not in refused.err


def test_commands_are_shown_where_the_state_is_none_for_json(given: Any, run: Any) -> None:
    command = {
        "to": "account",
        "id": "b",
        "type": "Deposit",
        "version": 1,
        "command": {"amount": 3},
    }
    for name in ("state", "history"):
        assert "msgspec.Raw" not in run(name, "gift-2").out
    state = run("state", "gift-2", "--json").json["state"]
    assert state["state"] == "Counter(2)"
    assert state["steps"][0]["sent"]["work"] == command
    steps = [json.loads(each) for each in run("history", "gift-2", "--json").out.splitlines()]
    [sent] = [each for each in steps if each["type"] == "process.StepSent"]
    assert sent["data"]["work"] == command
    assert {"steps"} == {each["field"] for each in sent["changes"]}
