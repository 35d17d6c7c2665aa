"""Runs commands in this process, in a directory of their own. Real processes: see `spawn`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import leftfold
from leftfold.cli.program import program

DATA = Path(__file__).parents[3] / "shared/data"
if not DATA.is_dir() and os.environ.get("CI") != "true":
    # As in tests/acceptance: in CI, where the data has to be, they are collected and fail.
    collect_ignore = ["test_cli_berka.py"]

URL = "sqlite:///log.db"

APP = """
    from datetime import date
    from decimal import Decimal
    from typing import Annotated

    import leftfold
    from leftfold import App, Codec, Decider, Tag
    from msgspec import Struct


    class Opened(Struct, frozen=True):
        owner: Annotated[str, Tag()]
        since: date | None = None


    class Deposited(Struct, frozen=True):
        amount: Decimal


    class Counted(Struct, frozen=True):
        number: int
        final: bool


    class Limits(Struct, frozen=True):
        day: int = 100


    class Account(Struct, frozen=True):
        owner: str = ""
        balance: Decimal = Decimal(0)
        limits: Limits = Limits()


    def evolve(account, event):
        match event:
            case Opened(owner):
                return Account(owner, account.balance, Limits(len(owner)))
            case Deposited(amount):
                assert amount != 13, "thirteen"
                return Account(account.owner, account.balance + amount, account.limits)


    accounts = Decider(
        "account", initial_state=Account(), decide=lambda command, state: [], evolve=evolve
    )
    codec = Codec(Opened, Deposited, Counted)
    app = App(codec=codec, deciders=[accounts])
"""


class Result:
    """How a command ended, and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.out.splitlines()]

    @property
    def json(self) -> dict[str, Any]:
        [document] = self.lines
        return document

    @property
    def rows(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEFTFOLD_STORE", URL)
    monkeypatch.delenv("LEFTFOLD_APP", raising=False)
    (tmp_path / "bank.py").write_text(textwrap.dedent(APP))
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run(here: Path) -> Run:
    def invoke(*arguments: object, input: str | bytes | None = None, code: int = 0) -> Result:
        found = CliRunner().invoke(program, [str(each) for each in arguments], input=input)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        assert found.exit_code == code, (found.stdout, found.stderr)
        if code:
            assert "Traceback" not in found.stderr
        return Result(found.exit_code, found.stdout, found.stderr)

    return invoke


@pytest.fixture
def log(run: Run) -> Iterator[leftfold.EventStore]:
    """A store at `URL`, for the test itself."""
    with leftfold.open(URL) as store:
        yield store


def command(*arguments: object) -> list[str]:
    # Tests that run in the background, as after nohup, pass on that Ctrl-C is ignored.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from leftfold.cli import main; main()"
    return [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]


@pytest.fixture
def spawn(here: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts commands as processes, and lets none outlive its test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        # As a shell runs it: some environments, such as containers, ask for no buffers.
        environment = os.environ | {"PYTHONUNBUFFERED": ""} | options.pop("env", {})
        process = subprocess.Popen(
            command(*arguments),
            cwd=here,
            env=environment,
            **(pipes | options),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
