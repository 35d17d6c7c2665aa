"""Instances as text for people, and who is recorded as the one who repairs them."""

from __future__ import annotations

import re
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
from leftfold import Event
from leftfold.cli import processes
from leftfold.cli.output import Output
from leftfold.process.events import Held, StepDone
from leftfold.process.instance import Instance, own

URL = "sqlite:///log.db"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


@pytest.fixture
def lent(here: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A log whose loan 1 is stuck, and whose loan 2 waits for an answer."""
    monkeypatch.setenv("LEFTFOLD_APP", "processes_app:app")
    monkeypatch.setenv("LEFTFOLD_STORE", URL)
    with leftfold.open(URL, processes_app.app) as es, es.running():
        es.handle(bank.accounts, "a", bank.Open())
        es.handle(bank.accounts, "a", bank.Deposit(10))
        es.append([request("1", bank.TransferRequested("a", "nobody", 4))])
        es.append([request("2", bank.TransferRequested("a", "", 3))])
        wait_for(es, loans, "1", "stuck")
        eventually(lambda: "StepDone" in types(es, "loan-2"), "it was lent")
        yield es


def test_steps_and_timers_are_lines_of_their_own(lent: Any, run: Any) -> None:
    text = run("processes", "show", "loan", "2").out
    assert "Shown(" not in text
    told = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines())
    assert told["status"] == "running"
    assert "stuck" not in told
    assert told["step take"] == "done, waits for an answer: Withdraw to account a"
    assert re.fullmatch(f"due {TIME}", told["timer answer take"])


def test_attempts_and_the_reason_are_shown(lent: Any, run: Any) -> None:
    text = run("processes", "retry", "loan", "1", "--actor", "ada").out
    assert re.search(r"^step undo take +sent: Deposit to account safe, attempt 2$", text, re.M)


def test_what_is_held_says_where_it_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    event = next(iter(_events()))
    held = (Held(event), Held(own(Instance(0, key="1"), "loan", StepDone("take"))))
    instance = Instance(0, key="1", version=1, phase="running", stuck="it broke", waiting=held)
    processes.print_instance(Output(is_json=False), "loan", "1", instance, {})
    text = capsys.readouterr().out
    found = rf"held 1 +TransferRequested at position 1 of request-1, recorded {TIME}"
    assert re.search(found, text)
    assert re.search(r"held 2 +process\.StepDone take", text)
    assert re.search("stuck +it broke", text)


def _events() -> Any:
    with leftfold.open("memory://", bank.codec) as es:
        es.append([Event("request-1", bank.TransferRequested("a", "b", 4))])
        return list(es.read())


@pytest.mark.parametrize("text", ["", "  "])
def test_a_repair_without_actor_or_reason_is_refused(lent: Any, run: Any, text: str) -> None:
    head = lent.head()
    for command in (["retry"], ["skip", "--reason", "x"], ["cancel", "--reason", "x"]):
        refused = run("processes", *command, "loan", "1", "--actor", text, code=2)
        assert f"--actor is the name of who does it, found {text!r}" in refused.err
    for repair in ("skip", "cancel"):
        refused = run("processes", repair, "loan", "1", "--reason", text, code=2)
        assert f"--reason says why, found {text!r}" in refused.err
    assert lent.head() == head


def test_the_user_of_the_system_is_recorded_unless_told(
    lent: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "getuser", lambda: "grace")
    run("processes", "cancel", "loan", "2", "--reason", "fraud")
    assert "grace" in run("trace", "nothing", code=1).err + run("read").out


def test_a_user_without_a_name_gives_one(
    lent: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(processes, "getuser", nobody)
    refused = run("processes", "retry", "loan", "1", code=2)
    assert "give --actor NAME" in refused.err
