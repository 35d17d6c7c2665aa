"""Commands on a log that has an inline projection."""

from __future__ import annotations

import sys
import textwrap
from importlib import import_module
from typing import Any

import pytest

import leftfold
from leftfold.projection.registering import Registering

URL = "sqlite:///log.db"
APP = """
    from leftfold import App, Codec, Projection
    from msgspec import Struct
    from msgspec.structs import replace


    class Deposited(Struct, frozen=True):
        cents: int


    class Balance(Struct, frozen=True):
        account: str
        cents: int = 0


    def deposited(row, event):
        return replace(row, cents=row.cents + event.data.cents)


    balances = Projection(
        "balances", row=Balance, key=lambda event: event.stream, evolve={Deposited: deposited},
        mode="inline",
    )
    app = App(codec=Codec(Deposited), projections=[balances])
"""
MORE = '{"stream": "account-1", "type": "Deposited", "data": {"cents": 2}}\n'


@pytest.fixture
def bank(here: Any, log: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    (here / "inlined.py").write_text(textwrap.dedent(APP))
    monkeypatch.syspath_prepend(here)
    sys.modules.pop("inlined", None)
    module = import_module("inlined")
    with leftfold.open(URL, module.app) as es:
        es.append_to_stream("account-1", [module.Deposited(1)])
    return module


def cents(bank: Any) -> int:
    with leftfold.open(URL, bank.app) as es:
        return int(es.view(bank.balances).get("account-1").cents)


@pytest.mark.parametrize("command", ["append", "import"])
def test_what_is_appended_is_in_the_projection(
    bank: Any, here: Any, run: Any, command: str
) -> None:
    (here / "more.jsonl").write_text(MORE)
    arguments = {
        "append": ("append", "account-1", "Deposited", '{"cents": 2}'),
        "import": ("import", "more.jsonl"),
    }[command]
    run(*arguments, "--app", "inlined:app")
    assert cents(bank) == 3


@pytest.mark.parametrize("command", ["append", "import"])
def test_without_the_app_nothing_is_appended(bank: Any, here: Any, run: Any, command: str) -> None:
    (here / "more.jsonl").write_text(MORE)
    arguments = {
        "append": ("append", "account-1", "Deposited", '{"cents": 2}'),
        "import": ("import", "more.jsonl"),
    }[command]
    refused = run(*arguments, code=2)
    assert "balances" in refused.err
    assert cents(bank) == 1


def test_who_only_reads_builds_nothing(bank: Any, run: Any) -> None:
    run("projections", "drop", "balances", "--yes", "--app", "inlined:app")
    run("read", "--app", "inlined:app")
    run("check", "--app", "inlined:app")
    with leftfold.open(URL) as es:
        es.append([leftfold.Event("account-1", b'{"cents":5}', type="Deposited")])
    assert cents(bank) == 6


def test_a_rebuild_that_was_interrupted_is_begun_anew(
    bank: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registering, "_finish", die)
        run("projections", "rebuild", "balances", "--app", "inlined:app", code=130)
    run("projections", "rebuild", "balances", "--app", "inlined:app")
    with leftfold.open(URL, bank.app) as es:
        assert [each.state for each in es.projections.status()] == ["serving"]
    assert cents(bank) == 1
