"""The program as a process: its entry point, its exit codes, and the modules that --app names."""

from __future__ import annotations

import importlib
import os
import pty
import re
import subprocess
import sys
import termios
import tomllib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import apsw
import msgspec
import pytest

import leftfold

ROOT = Path(__file__).parents[2]


def test_the_entry_point_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, name = project["scripts"]["leftfold"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
    extras = project["optional-dependencies"]
    assert {each.split(">")[0] for each in extras["cli"]} == {"typer", "rich", "tzdata"}


def test_without_the_extra_it_says_what_to_install(tmp_path):
    # Only what leftfold itself depends on can be imported here.
    for package in (leftfold, apsw, msgspec):
        folder = Path(package.__file__).parent
        (tmp_path / folder.name).symlink_to(folder)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import leftfold.cli as c; c.main()"
    command = [sys.executable, "-I", "-S", "-c", code, "read"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "leftfold: the command line needs an optional dependency: pip install 'leftfold[cli]'\n"
    )


def test_exit_codes_of_the_process(spawn, log):
    log.append([leftfold.Event("account-1", b"{}", type="A")])
    for arguments, code in (
        (["read"], 0),
        (["--version"], 0),
        (["--help"], 0),
        (["read", "--stream", "account-9"], 1),
        (["read", "--after", "x"], 2),
        (["read", "--no-such-option"], 2),
        (["no-such-command"], 2),
        (["read", "--store", "sqlite:///no.db"], 2),
    ):
        process = spawn(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, arguments
        assert b"Traceback" not in err
        assert bool(err) == (code != 0), err
        assert bool(out) == (code == 0)


def test_the_shell_completes_commands_and_options(spawn):
    for words, expected in (("leftfold ba", b"backup"), ("leftfold tail --fol", b"--follow")):
        count = str(len(words.split()) - 1)
        asked = {"_LEFTFOLD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
        process = spawn(env=asked)
        assert process.communicate(timeout=60)[0].split() == [expected]


def test_the_version(run):
    assert run("--version").out == f"leftfold {version('leftfold')}\n"


def test_every_command_has_help(run):
    for name in ("init", "append", "read", "tail", "import", "export", "check"):
        out = run(name, "--help").out
        assert "--store" in out
        assert "--json" in out


STATE = ("state", "account-1")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bank", "MODULE:ATTRIBUTE"),
        ("bank:", "MODULE:ATTRIBUTE"),
        (":app", "MODULE:ATTRIBUTE"),
        ("bnak:app", "there is no module 'bnak'"),
        ("bank.sub:app", "there is no module 'bank.sub'"),
        ("bank:appp", "module 'bank' has no 'appp'; it has codec, app"),
        ("bank:app.x", "module 'bank' has no 'app.x'"),
        ("bank:accounts", "found bank:accounts of type Decider; it has codec, app"),
        ("empty:x", "module 'empty' has no 'x'; it has no App and no Codec"),
        ("needs:app", "cannot import 'needs': ModuleNotFoundError: No module named 'nowhere'"),
        ("broken:app", "cannot import 'broken': "),
        ("fails:app", "ZeroDivisionError: division by zero"),
        ("refused:app", "is registered twice"),
    ],
)
def test_an_app_that_cannot_be_had(run, log, here, name, says):
    (here / "empty.py").touch()
    (here / "needs.py").write_text("import nowhere")
    (here / "broken.py").write_text("def f(:\n")
    (here / "fails.py").write_text("x = 1\ny = 1 / 0\n")
    (here / "refused.py").write_text("from leftfold import Codec\nfrom bank import Opened\n")
    with (here / "refused.py").open("a") as file:
        file.write("app = Codec(Opened, Opened)\n")
    result = run(*STATE, "--app", name, code=2)
    assert says in result.err
    if name == "fails:app":
        assert f"{here}/fails.py, line 2" in result.err


def test_the_app_and_the_store_come_from_the_environment(run, log, monkeypatch):
    run("append", "account-1", "Opened", '{"owner": "ada"}')
    monkeypatch.setenv("LEFTFOLD_APP", "bank:app")
    assert run(*STATE, "--json").json["state"]["owner"] == "ada"
    # An option is nearer than the environment.
    assert "no module 'other'" in run(*STATE, "--app", "other:app", code=2).err
    monkeypatch.setenv("LEFTFOLD_STORE", "sqlite:///none.db")
    assert "none.db" in run(*STATE, code=2).err
    assert run(*STATE, "--store", "sqlite:///log.db").code == 0


def test_an_app_that_is_not_used_is_not_imported(run, log):
    assert run("stat", "--app", "no_such_module:app", "--json").json["events"] == 0


def test_a_terminal_gets_a_table(here, log):
    log.append([leftfold.Event("account-1", b'{"n":"[red]x[/red]"}', type="A")])
    code = "from leftfold.cli import main; main()"
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "120", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", code, "read"],
        env=environment,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"\x1b[1m" in done.stdout  # the header is bold
    assert b'{"n":"[red]x[/red]"}' in done.stdout  # and data is no markup


def in_terminal(*arguments, columns=80):
    """What a command writes to a terminal of its own, of that width."""
    code = "from leftfold.cli import main; main()"
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (50, columns))
    with open(parent, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env=os.environ | {"TERM": "xterm"},
        )
        os.close(child)
        written = b""
        # At the end of the process, reading from its terminal is an error.
        with suppress(OSError):
            while part := screen.read(65536):
                written += part
        assert process.wait(60) == 0, written
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())


def test_a_narrow_terminal_loses_no_column(here, log):
    owner = "ada " * 30
    log.append([leftfold.Event("account-1", b'{"owner":"%s"}' % owner.encode(), type="Opened")])
    shown = in_terminal("history", "account-1", "--app", "bank:app")
    assert max(map(len, shown.splitlines())) <= 80
    assert "changes" in shown
    assert "limits.day" in "".join(shown.split())
    shown = in_terminal("read")
    assert max(map(len, shown.splitlines())) <= 80
    assert "".join(shown.split()).count("ada") == 30


def test_a_terminal_sees_progress(here, log, tmp_path):
    lines = b'{"stream":"a-1","type":"A","data":1}\n' * 3000
    (tmp_path / "in.jsonl").write_bytes(lines)
    shown = in_terminal("import", "in.jsonl")
    assert "3,000 events" in shown
    # The report stands on lines of its own, below where the bar was.
    assert re.search(r"^appended\s+3000\s*$", shown, re.M)
    assert "events" in in_terminal("check")
    assert "pages" in in_terminal("backup", "copy.db")


def test_an_encoding_that_lacks_a_character(here, log):
    log.append([leftfold.Event("account-ä", '"→"'.encode(), type="A")])
    code = "from leftfold.cli import main; main()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for arguments, expected in ((["read"], rb"\u2192"), (["read", "--json"], "→".encode())):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert expected in done.stdout
