"""state and history: the fold of a stream at any time, and what each event changed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from leftfold import Event

APP = ("--app", "bank:app")


@pytest.fixture
def account(log):
    def when(day):
        return datetime(2020, 1, day, tzinfo=UTC)

    for event in (
        Event("account-1", b'{"owner":"ada"}', type="Opened", occurred_at=when(1)),
        Event("account-1", b'{"amount":"5.50"}', type="Deposited", occurred_at=when(9)),
        Event("account-2", b'{"owner":"ben"}', type="Opened"),
        Event("account-1", b'{"amount":"2"}', type="Deposited", occurred_at=when(5)),
    ):
        log.append([event])
    return list(log.read())


def balance(run, *arguments):
    return run("state", "account-1", *APP, "--json", *arguments).json["state"]["balance"]


def test_state(run, account):
    assert run("state", "account-1", *APP, "--json").json == {
        "stream": "account-1",
        "version": 3,
        "position": 4,
        "state": {"owner": "ada", "balance": "7.50", "limits": {"day": 3}},
    }
    assert run("state", "account-1", *APP).out == (
        "account-1 at version 3, position 4\nowner       ada\nbalance     7.50\nlimits.day  3\n"
    )


def test_state_at_earlier_times(run, account):
    assert balance(run, "--at", "2") == "5.50"
    assert balance(run, "--at", "0") == "0"
    moment = account[1].recorded_at.isoformat()
    assert balance(run, "--at", moment) == "5.50"
    assert balance(run, "--as-of", "2020-01-06T00:00:00Z") == "2"
    assert balance(run, "--as-of", "2020-01-06T00:00:00Z", "--at", "2") == "0"


def test_a_stream_that_does_not_exist_or_did_not_then(run, account):
    for name in ("state", "history"):
        result = run(name, "account-9", *APP, code=1)
        assert (result.out, result.err) == ("", "leftfold: stream 'account-9' has no events\n")
    result = run("state", "account-1", *APP, "--as-of", "2019-01-01T00:00:00Z", code=1)
    assert result.err == "leftfold: stream 'account-1' had no events by then\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["account-1"], "Give --app"),
        (["account-1", "--app", "bank:codec"], "bank:codec is a Codec"),
        (["order-1", *APP], "no decider of category 'order', it has 'account'"),
        (["account", *APP], "looks like category-id"),
        (["account-", *APP], "looks like category-id"),
    ],
)
def test_state_and_history_refuse(run, account, arguments, says):
    assert says in run("state", *arguments, code=2).err
    assert says in run("history", *arguments, code=2).err


def test_state_refuses_times(run, account):
    assert "--at is a moment" in run("state", "account-1", *APP, "--at", "x", code=2).err
    assert "time zone" in run("state", "account-1", *APP, "--as-of", "2020-01-01", code=2).err
    assert "is at version 3" in run("state", "account-1", *APP, "--at", "4", code=2).err


def test_an_event_that_evolve_cannot_take(run, account):
    run("append", "account-1", "Deposited", '{"amount": 13}')
    err = run("state", "account-1", *APP, code=2).err
    assert "thirteen" in err
    assert "version 4 of stream 'account-1'" in err


def test_history(run, account):
    first, second, third = run("history", "account-1", *APP, "--json").lines
    assert (first["version"], first["position"], first["type"]) == (1, 1, "Opened")
    assert first["occurred_at"] == "2020-01-01T00:00:00.000000Z"
    assert first["recorded_at"].startswith("20")
    assert first["data"] == {"owner": "ada", "since": None}
    assert first["changes"] == [
        {"field": "owner", "before": "", "after": "ada"},
        {"field": "limits.day", "before": 100, "after": 3},
    ]
    assert second["changes"] == [{"field": "balance", "before": "0", "after": "5.50"}]
    assert third["changes"] == [{"field": "balance", "before": "5.50", "after": "7.50"}]
    table = run("history", "account-1", *APP).out
    assert "owner:  -> ada; limits.day: 100 -> 3" in table
    assert "balance: 5.50 -> 7.50" in table


@pytest.mark.parametrize(
    ("arguments", "versions"),
    [
        (["--after", "1"], [2, 3]),
        (["--until", "2"], [1, 2]),
        (["--after", "1", "--until", "2"], [2]),
        (["--last", "1"], [3]),
        (["--last", "2", "--until", "2"], [1, 2]),
        (["--last", "9"], [1, 2, 3]),
        (["--until", "2019-01-01T00:00:00Z"], []),
    ],
)
def test_a_part_of_a_history(run, account, arguments, versions):
    lines = run("history", "account-1", *APP, "--json", *arguments).lines
    assert [each["version"] for each in lines] == versions
    # What came before is folded all the same.
    assert all(each["changes"][0]["before"] == "5.50" for each in lines if each["version"] == 3)


def test_a_state_that_json_has_no_words_for(run, account, here):
    (here / "odd.py").write_text(
        "from leftfold import App, Codec, Decider\n"
        "from bank import Opened, Deposited\n"
        "class Odd:\n"
        "    def __init__(self, n=0): self.n = n\n"
        "    def __repr__(self): return f'<odd {self.n}>'\n"
        "    def __eq__(self, other): return self.n == other.n\n"
        "    __hash__ = None\n"
        "evolve = lambda state, event: Odd(state.n + 1)\n"
        "odd = Decider('account', initial_state=Odd(), decide=lambda c, s: [], evolve=evolve)\n"
        "app = App(codec=Codec(Opened, Deposited), deciders=[odd])\n"
    )
    assert run("state", "account-1", "--app", "odd:app", "--json").json["state"] == "<odd 3>"
    assert "state  <odd 3>" in run("state", "account-1", "--app", "odd:app").out
    assert "state: <odd 2> -> <odd 3>" in run("history", "account-1", "--app", "odd:app").out
