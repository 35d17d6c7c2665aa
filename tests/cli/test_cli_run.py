"""Running projections and consumers as a process."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from typing import Any

import pytest
from cli_support import wait_for
from test_cli_projections import app, built, deposited, here, rows, store

__all__ = ["app", "built", "here", "store"]


def started(process: Any) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(process.stdout.readline())
    assert line["message"].startswith("running ")
    return line


def ended(process: Any, number: signal.Signals) -> list[dict[str, Any]]:
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert err == b""
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_runs_until_it_is_told_to_stop(
    store: Any, spawn: Any, number: signal.Signals, code: int
) -> None:
    process = spawn("run", "projected:app", "--json")
    line = started(process)
    assert line["message"] == "running balances, mails"
    assert line["level"] == "info"
    wait_for(lambda: all(not each.events_behind for each in store.projections.status()))
    lines = ended(process, number)
    by_hand = "; another Ctrl-C does not wait" if number is signal.SIGINT else ""
    assert lines[-1]["message"] == f"stopping{by_hand}"
    assert process.returncode == code
    assert rows() == {"a": 5, "b": 7, "c": 9}
    # Whoever stops in good order leaves its work to others at once.
    assert [each.owners for each in store.projections.status()] == [[], [], []]


def test_only_those_that_are_named(store: Any, spawn: Any) -> None:
    process = spawn("run", "--only", "mails", "--app", "projected:app", "--json")
    assert started(process)["message"] == "running mails"
    wait_for(lambda: not store.projections.status("mails")[0].events_behind)
    ended(process, signal.SIGTERM)
    assert store.projections.status("balances")[0].state == "new"


def test_failures_are_a_line_each(store: Any, spawn: Any) -> None:
    deposited(store, 13)
    process = spawn("run", "projected:app", "--json")
    started(process)
    wait_for(lambda: store.projections.status("balances")[0].failure)
    lines = ended(process, signal.SIGTERM)
    failed = [each for each in lines if each["level"] == "error"]
    assert any("ValueError: thirteen" in each["message"] for each in failed)


def states(store: Any) -> list[tuple[int, str]]:
    return [(each.build, each.state) for each in store.projections.status("balances")]


@pytest.mark.parametrize("options", [[], ["--no-swap"]])
def test_builds_of_changed_code_are_swapped_in_unless_told_not_to(
    built: Any, spawn: Any, app: Any, options: list[str]
) -> None:
    app(FACTOR="2")
    process = spawn("run", "projected:app", "--json", *options, env={"FACTOR": "2"})
    started(process)
    state = "ready" if options else "serving"
    wait_for(lambda: (2, state) in states(built))
    ended(process, signal.SIGTERM)
    assert rows() == ({"a": 5, "b": 7, "c": 9} if options else {"a": 10, "b": 14, "c": 18})


def test_code_that_was_replaced_stands_by_and_status_says_so(
    built: Any, spawn: Any, run: Any, app: Any
) -> None:
    app(FACTOR="2")
    run("projections", "rebuild", "balances", "--swap")
    run("projections", "drop", "balances", "--build", "1", "--yes")
    app(FACTOR="1")
    process = spawn("run", "projected:app", "--json", env={"FACTOR": "1"})
    started(process)
    told = map(json.loads, iter(process.stdout.readline, b""))
    warning = next(each["message"] for each in told if each["level"] == "warning")
    ended(process, signal.SIGTERM)
    assert "stands by" in warning
    assert "projections rebuild balances" in warning
    assert rows() == {"a": 10, "b": 14, "c": 18}
    assert "that of the app stands by" in run("projections", "status", "balances").out


def test_lines_for_people(store: Any, spawn: Any) -> None:
    process = spawn("run", "projected:app")
    assert process.stdout.readline().split()[1:3] == [b"info", b"running"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_bad_input(store: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'nobody'" in run("run", "projected:app", "--only", "nobody", code=2).err
    assert "no module" in run("run", "missing:app", code=2).err
    monkeypatch.delenv("LEFTFOLD_APP")
    assert "which app" in run("run", code=2).err


def test_what_is_not_run_is_refused_and_not_listed(store: Any, run: Any) -> None:
    assert "'lively' is live" in run("run", "projected:app", "--only", "lively", code=2).err
    assert "nothing to run" in run("run", "projected:only_live", code=2).err
    assert "nothing to run" in run("run", "projected:empty", code=2).err


def test_a_create_that_raises_is_told_and_no_fault_of_ours(store: Any, run: Any) -> None:
    assert "create of 'broken': KeyError: 'no'" in run("run", "projected:broken", code=2).err


def test_errors_that_nobody_expects_are_told_with_their_reason(store: Any, spawn: Any) -> None:
    process = spawn("run", "projected:app", "--only", "balances", "--json")
    started(process)
    wait_for(lambda: not store.projections.status("balances")[0].events_behind)
    store._projecting.database.write(lambda tx: tx.execute("DROP TABLE leftfold_skips"))
    deposited(store, 1)
    line = json.loads(process.stdout.readline())
    while line["level"] != "error":
        line = json.loads(process.stdout.readline())
    assert "leftfold_skips" in line["message"]
    ended(process, signal.SIGTERM)


def test_a_second_ctrl_c_does_not_wait_for_what_is_slow(store: Any, spawn: Any) -> None:
    process = spawn("run", "projected:slow", "--json")
    started(process)
    line = json.loads(process.stdout.readline())
    assert line["message"] == "handling"
    process.send_signal(signal.SIGINT)
    line = json.loads(process.stdout.readline())
    assert line["message"] == "stopping; another Ctrl-C does not wait"

    def ended_by_another() -> bool:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        return process.returncode is not None

    wait_for(ended_by_another)
    assert process.returncode == 130
