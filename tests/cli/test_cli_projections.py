"""Looking after projections from the command line."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from importlib import import_module
from typing import Any

import pytest
from cli_support import wait_for
from projections_app import APP

import leftfold

URL = "sqlite:///log.db"
ARGUMENTS = ("--app", "projected:app")


@pytest.fixture
def here(here: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (here / "projected.py").write_text(textwrap.dedent(APP))
    monkeypatch.setenv("LEFTFOLD_APP", "projected:app")
    for name in ("FACTOR", "ON_FAILURE", "LEFTFOLD_VIEWS"):
        monkeypatch.delenv(name, raising=False)
    return here


@pytest.fixture
def app(here: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as it is now, of another release after `app(FACTOR="2")`."""

    def load(**environment: str) -> Any:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        sys.modules.pop("projected", None)
        monkeypatch.syspath_prepend(here)
        return import_module("projected")

    return load


@pytest.fixture
def store(app: Any, log: Any) -> Any:
    """A log with accounts a, b and c, whose balances are not folded yet."""
    module = app()
    with leftfold.open(URL, module.app) as store:
        for name, cents in (("a", 5), ("b", 7), ("c", 9)):
            events = [module.Opened(name), module.Deposited(cents)]
            store.append_to_stream(f"account-{name}", events)
        yield store


@pytest.fixture
def built(store: Any, run: Any) -> Any:
    """Balances are folded: build 1 serves."""
    run("projections", "rebuild", "balances")
    return store


def deposited(store: Any, *cents: int) -> None:
    events = [sys.modules["projected"].Deposited(each) for each in cents]
    store.append_to_stream("account-a", events)


def projections(run: Any, *arguments: object, **options: Any) -> Any:
    return run("projections", *arguments, "--json", **options)


def rows() -> dict[str, int]:
    with leftfold.open(URL, sys.modules["projected"].app) as store:
        found = store.view(sys.modules["projected"].balances).find()
        return {each.owner: each.cents for each in found}


def test_list_shows_what_there_is_and_what_is_kept(built: Any, run: Any) -> None:
    found = {each["name"]: each for each in projections(run, "list").lines}
    assert list(found) == ["balances", "lively", "mails"]
    assert found["balances"] == {
        "name": "balances",
        "kind": "projection",
        "mode": "async",
        "build": 1,
        "version": 1,
        "state": "serving",
        "is_current": True,
    }
    assert [each["state"] for each in found.values()] == ["serving", "live", "new"]
    assert run("projections", "list").rows[0] == list(found["balances"])
    run("projections", "list", "--app", "projected:empty")
    [kept] = projections(run, "list", "--app", "projected:empty").lines
    assert (kept["name"], kept["mode"]) == ("balances", None)


def test_status_shows_how_far_each_is(built: Any, run: Any) -> None:
    found = projections(run, "status", "balances").json
    assert (found["build"], found["position"], found["head"], found["events"]) == (1, 6, 6, 6)
    assert (found["events_behind"], found["owners"], found["failure"]) == (0, [], None)
    deposited(built, 1)
    assert projections(run, "status", "balances").json["events_behind"] == 1
    assert len(projections(run, "status").lines) == 3
    table = run("projections", "status", "balances").rows
    assert table[0][:5] == ["name", "build", "state", "position", "events_behind"]
    assert table[1][:5] == ["balances", "1", "serving", "6", "1"]
    run("projections", "status", "nobody", code=2)


def test_status_check_finds_what_is_stopped(store: Any, run: Any) -> None:
    run("projections", "status", "--check")
    deposited(store, 13)
    result = run("projections", "rebuild", "balances", code=1)
    assert "build 1 is stopped: 'Deposited' at position 7" in result.err
    assert "ValueError: thirteen" in result.err
    found = run("projections", "status", "--check", code=1)
    assert "stopped: 'Deposited' at position 7" in found.out
    run("projections", "status")


def test_status_watch_looks_again_until_ctrl_c(built: Any, spawn: Any) -> None:
    process = spawn("projections", "status", "balances", "--watch", "--json", *ARGUMENTS)
    seen = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [each["build"] for each in seen] == [1, 1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b""


def test_status_watch_shows_rates(built: Any, spawn: Any) -> None:
    process = spawn("projections", "status", "balances", "--watch", *ARGUMENTS)
    header = process.stdout.readline()
    assert header.startswith(b"name")
    assert b"0/s" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_status_watch_keeps_its_place_on_a_terminal(built: Any, spawn: Any) -> None:
    ours, theirs = os.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "120"}
    process = spawn("projections", "status", "--watch", *ARGUMENTS, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""

    def twice() -> bool:
        nonlocal shown
        shown += os.read(ours, 10_000)
        return shown.count(b"serving") >= 2

    wait_for(twice)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    os.close(ours)


def test_rebuild_of_what_is_new_serves_at_once(store: Any, run: Any) -> None:
    found = projections(run, "rebuild", "balances").json
    assert (found["name"], found["build"], found["state"], found["events"]) == (
        "balances",
        1,
        "serving",
        6,
    )
    assert found["comparison"] is None
    assert rows() == {"a": 5, "b": 7, "c": 9}


def test_a_rebuild_is_compared_and_swapped_in_when_it_is_told(
    built: Any, run: Any, app: Any
) -> None:
    app(FACTOR="2")
    result = run("projections", "rebuild", "balances")
    assert "build 2 of balances is ready: 6 events" in result.out
    assert "leftfold projections swap balances" in result.out
    assert [each for each in result.rows if each[0] == "different"] == [["different", "3"]]
    found = projections(run, "compare", "balances").json
    assert (found["serving"], found["candidate"], found["is_aligned"]) == (1, 2, True)
    assert found["tables"][0]["different"] == 3
    swapped = projections(run, "swap", "balances").json
    assert swapped == {"name": "balances", "build": 2, "version": 2, "state": "serving"}
    assert rows() == {"a": 10, "b": 14, "c": 18}
    assert projections(run, "rollback", "balances").json["build"] == 1
    assert rows() == {"a": 5, "b": 7, "c": 9}


def test_rebuild_with_swap(built: Any, run: Any) -> None:
    found = projections(run, "rebuild", "balances", "--swap").json
    assert (found["build"], found["state"]) == (2, "serving")
    assert found["comparison"]["is_aligned"]
    assert found["comparison"]["tables"][0]["rows_candidate"] == 3
    assert found["comparison"]["tables"][0]["different"] == 0
    run("projections", "rebuild", "balances", "--swap")
    builds = [each["build"] for each in projections(run, "status", "balances").lines]
    assert builds == [2, 3]


def test_a_rebuild_goes_on_with_one_that_was_left(built: Any, run: Any) -> None:
    built.projections.rebuild("balances", partitions=2)
    result = run("projections", "rebuild", "balances", "--swap")
    assert "going on with build 2" in result.err
    assert [each["build"] for each in projections(run, "status", "balances").lines] == [1, 2]


def test_ctrl_c_leaves_a_rebuild_that_the_same_command_goes_on_with(
    built: Any, run: Any, spawn: Any
) -> None:
    deposited(built, *range(100, 500))
    process = spawn(
        "projections", "rebuild", "balances", "--events-per-s-max", "1", "--partitions", "1",
        *ARGUMENTS,
    )  # fmt: skip
    wait_for(lambda: len(built.projections.status("balances")) == 2)
    wait_for(lambda: built.projections.status("balances")[1].owners)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"leftfold: the same command goes on with build 2\n"
    [_, build] = built.projections.status("balances")
    assert (build.state, build.owners) == ("building", [])
    assert build.position < build.head


def test_a_rebuild_shared_by_workers(built: Any, spawn: Any) -> None:
    process = spawn("projections", "rebuild", "balances", "--workers", "3", "--json", *ARGUMENTS)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert (found["state"], found["events"]) == ("ready", 6)
    assert built.projections.status("balances")[1].partitions == 3
    built.projections.swap("balances")
    assert rows() == {"a": 5, "b": 7, "c": 9}


def test_bad_input_says_what_is_wrong(
    built: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "'nobody'" in run("projections", "rebuild", "nobody", code=2).err
    assert "live" in run("projections", "rebuild", "lively", code=2).err
    assert "consumer" in run("projections", "rebuild", "mails", code=2).err
    assert "1 (serving)" in run("projections", "swap", "balances", code=2).err
    assert "retired" in run("projections", "rollback", "balances", code=2).err
    assert "1 (serving)" in run("projections", "compare", "balances", code=2).err
    assert "nothing of it" in run("projections", "retry", "balances", code=2).err
    assert "--reason" in run("projections", "skip", "balances", 1, code=2).err
    assert "is a Codec" in run("projections", "list", "--app", "projected:codec", code=2).err
    run("projections", "compare", "balances", "--timeout-s", "nan", code=2)
    run("projections", "rebuild", "balances", "--workers", 0, code=2)
    run("projections", "rebuild", "balances", "--partitions", 65, code=2)
    monkeypatch.delenv("LEFTFOLD_APP")
    assert "which app" in run("projections", "list", code=2).err


def test_quarantine_retry_and_skip(store: Any, run: Any, app: Any) -> None:
    deposited(store, 13, 1)
    app(ON_FAILURE="quarantine")
    run("projections", "rebuild", "balances")
    [found] = projections(run, "quarantine", "balances").lines
    assert (found["key"], found["position"], found["is_due"]) == ('["account-a"]', 7, False)
    assert found["waiting"] >= 1
    assert "thirteen" in found["error"]
    assert "1 keys in quarantine" in run("projections", "status").out
    run("projections", "status", "--check", code=1)
    for key in ("account-a", '"account-a"', '["account-a"]'):
        assert projections(run, "retry", "balances", "--key", key).json["going_on"] == 1
    assert (
        "'Deposited' at position 7"
        in run("projections", "skip", "balances", 6, "--reason", "x", code=2).err
    )
    skipped = projections(run, "skip", "balances", 7, "--reason", "it is unlucky").json
    assert skipped == {"name": "balances", "going_on": 1}
    assert "unlucky" in str(
        store._projecting.database.read(lambda tx: tx.execute("SELECT * FROM leftfold_skips"))
    )


@pytest.mark.parametrize("key", ["9700120", "true", "null", "1.50", '"', '["x"]'])
def test_a_key_is_its_text_whatever_it_is_as_json(store: Any, run: Any, app: Any, key: str) -> None:
    for stream in (key, "another"):
        store.append_to_stream(stream, [sys.modules["projected"].Deposited(13)])
    app(ON_FAILURE="quarantine")
    run("projections", "rebuild", "balances")
    assert projections(run, "retry", "balances", "--key", key).json["going_on"] == 1
    found = projections(run, "quarantine", "balances").lines
    assert [(json.loads(each["key"]), each["is_due"]) for each in found if each["is_due"]] == [
        ([key], True)
    ]
    as_json = json.dumps([key])
    assert projections(run, "retry", "balances", "--key", as_json).json["going_on"] == 1


def test_a_key_that_is_none_is_not_taken_for_all(store: Any, run: Any, app: Any) -> None:
    deposited(store, 13)
    app(ON_FAILURE="quarantine")
    run("projections", "rebuild", "balances")
    for key in ("null", "[]", "[null]", "{}", "", "9" * 5000):
        arguments = ("balances", 7, "--reason", "x", "--key", key)
        run("projections", "skip", *arguments, code=2)
        run("projections", "retry", "balances", "--key", key, code=2)
    assert not projections(run, "quarantine", "balances").json["is_due"]


def test_keys_that_are_no_text_are_given_as_json(store: Any, run: Any, app: Any) -> None:
    deposited(store, 13)
    app(ON_FAILURE="quarantine")
    counted = ("numbered", "--app", "projected:counted")
    run("projections", "rebuild", *counted)
    assert projections(run, "quarantine", *counted).json["key"] == "[7,0]"
    assert projections(run, "retry", *counted, "--key", "[7, 0]").json["going_on"] == 1


def test_watch_and_check_do_not_go_together(built: Any, run: Any) -> None:
    assert "give one" in run("projections", "status", "--watch", "--check", code=2).err


def test_drop_does_not_ask_about_what_is_not_there(built: Any, run: Any) -> None:
    result = run("projections", "drop", "nope", input="y\n", code=2)
    assert "nothing is kept of 'nope'" in result.err
    assert "Drop" not in result.err
    result = run("projections", "drop", "balances", "--build", 9, input="y\n", code=2)
    assert "no build 9; it has 1" in result.err
    assert "Drop" not in result.err
    assert "nothing is kept" in run("projections", "drop", "lively", code=2).err


def test_drop_asks_first(built: Any, run: Any) -> None:
    assert "add --yes" in run("projections", "drop", "balances", code=2).err
    result = run("projections", "drop", "balances", input="n\n", code=1)
    assert "nothing was dropped" in result.err
    assert "serves" in run("projections", "drop", "balances", "--build", 1, "--yes", code=2).err
    assert projections(run, "list").lines[0]["state"] == "serving"
    run("projections", "drop", "balances", input="y\n")
    assert projections(run, "list").lines[0]["state"] == "new"


def test_what_the_app_no_longer_has_is_dropped(built: Any, run: Any) -> None:
    gone = ("--app", "projected:empty")
    [found] = projections(run, "drop", "balances", "--yes", *gone).lines
    assert (found["name"], found["build"]) == ("balances", 1)
    assert projections(run, "list", *gone).lines == []
    assert "nothing is kept" in run("projections", "drop", "balances", "--yes", *gone, code=2).err


def test_read_models_that_are_elsewhere(store: Any, run: Any, here: Any) -> None:
    elsewhere = ("--views", "sqlite:///elsewhere.db")
    run("projections", "rebuild", "balances", *elsewhere)
    assert projections(run, "status", "balances", *elsewhere).json["state"] == "serving"
    assert projections(run, "status", "balances").json["state"] == "new"
    assert (here / "elsewhere.db").exists()
